"""Attention of a tile's query heads to one span of positions, compiled apart from who calls it."""

import math

from numba import njit
from numba.extending import intrinsic

from ridgeline.kernels.jit.activations import floats_at
from ridgeline.kernels.jit.attention_math import LINE_BYTES
from ridgeline.kernels.jit.attention_rows import ROWS, SPAN, WIDTHS, add_rows, score_rows, weigh_rows
from ridgeline.kernels.jit.ir import external, provided

_SPAN_BYTES = 4 * SPAN
_WIDE, _MIDDLE, _NARROW = WIDTHS


@njit(error_model="numpy")
def _width(vectors: int) -> int:
    """Of the widest tile for so many vectors."""
    return _WIDE if vectors >= _WIDE else _MIDDLE if vectors >= _MIDDLE else _NARROW


@njit(error_model="numpy")
def _score(queries, keys, vectors, head_dim, scores):
    column = 0
    while column < vectors:
        width, at = _width(vectors - column), LINE_BYTES * column
        score_rows(width, queries, 4 * head_dim, keys + at, _SPAN_BYTES, head_dim, scores + at, _SPAN_BYTES)
        column += width


@njit(error_model="numpy")
def _hide(scores, row, rows, group, at, window):
    """Hide from rows what is after them, or before their window; `at` is where the tile's first token is."""
    for i in range(ROWS):
        # A row that only fills up the last block is taken for one of the last token.
        token = at + min(row + i, rows - 1) // group
        seen = floats_at(scores + _SPAN_BYTES * i, SPAN)
        seen[max(0, min(SPAN, token + 1)) :] = -math.inf
        if window > 0:
            seen[: max(0, min(SPAN, token + 1 - window))] = -math.inf


@njit(error_model="numpy")
def _add_values(weights, values, tokens, head_dim, scales, out):
    column = 0
    while column < head_dim:
        width, at = _width((head_dim - column) // 16), 4 * column
        add_rows(
            width, weights, _SPAN_BYTES, values + at, 4 * head_dim, tokens, out + at, 4 * head_dim, scales
        )
        column += 16 * width


@njit(error_model="numpy")
def _attend_span(rows, group, at, window, head_dim, queries, keys, values, out, sums, largest, scores):
    scales = scores + ROWS * _SPAN_BYTES
    for row in range(0, rows, ROWS):
        earliest, latest = (at + row // group, at + min(row + ROWS - 1, rows - 1) // group)
        low = max(0, earliest + 1 - window) if window > 0 else 0
        high = min(SPAN, latest + 1)
        if low >= high:
            continue
        _score(queries + 4 * head_dim * row, keys, -(-high // 16), head_dim, scores)
        if earliest + 1 < SPAN or (window > 0 and latest + 1 > window):
            _hide(scores, row, rows, group, at, window)
        weigh_rows(scores, largest + LINE_BYTES * (row // ROWS), sums + LINE_BYTES * row, scales)
        weights, seen = scores + 4 * low, values + 4 * head_dim * low
        _add_values(weights, seen, high - low, head_dim, scales, out + 4 * head_dim * row)


def _entry(rows, group, at, window, head_dim, queries, keys, values, out, sums, largest, scores):
    _attend_span(rows, group, at, window, head_dim, queries, keys, values, out, sums, largest, scores)


def provide_span() -> None:
    """Compile `attend_span`, or load what was kept of it."""
    provided("ridgeline_attend_span", _entry)


@intrinsic
def attend_span(typing, rows, group, at, window, head_dim, queries, keys, values, out, sums, largest, scores):
    """Bring softmaxes under way up to date with one span of positions.

    All arguments are int64, those after `head_dim` addresses.

    Args:
        rows: query heads of the tile, those of a token one after the other.
        group: of a token.
        at: position of the tile's first token, from the span's beginning on.
        window: a token attends to the last so many positions, itself among them; 0 for all.
        head_dim: a multiple of 16.
        queries: float32 [rows, head_dim]; this and what has rows is padded to a multiple of `ROWS`.
        keys: float32 [head_dim, SPAN].
        values: float32 [SPAN, head_dim]; those that no row sees are not read.
        out: float32 [rows, head_dim], weighted sums of values so far.
        sums: float32 [rows, 16], which together are a row's weights so far.
        largest: float32 [rows / ROWS, 16], of each row's scores so far, from `LOWEST` on.
        scores: float32 [ROWS, SPAN] and 16 more, to be written over.
    """
    return external("ridgeline_attend_span", 12, provide_span)
