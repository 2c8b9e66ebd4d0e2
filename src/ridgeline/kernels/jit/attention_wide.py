"""`attention_chunk` on a processor with AMX tiles: products of queries, keys, weights and values in bfloat16.

Scores, sums and outputs are float32. Some positions at a time K and V become panels, see `wide`, which
all rows of the query tile meet; a row is a query head of a token.
"""

import math

import numpy as np
from numba import njit

from ridgeline.kernels.jit.activations import floats_at
from ridgeline.kernels.jit.attention_chunk import tile_tokens
from ridgeline.kernels.jit.attention_int8_moving import pair_int8_keys, pair_int8_values
from ridgeline.kernels.jit.attention_ir import divide
from ridgeline.kernels.jit.attention_math import LINE_BYTES, LOWEST, PER_LN2
from ridgeline.kernels.jit.attention_moving import fetch, pair_rows
from ridgeline.kernels.jit.attention_state import aligned
from ridgeline.kernels.jit.attention_weighing import (
    PANEL,
    PANEL_ROW_BYTES,
    find_largest,
    take_sums,
    weigh_panel,
)
from ridgeline.kernels.jit.kv_pool import BLOCK_TOKENS, INT8, keys_at, piece_bytes, scales_of, values_after
from ridgeline.kernels.jit.products import BLOCK
from ridgeline.kernels.jit.wide import (
    BLOCK_PANEL_BYTES,
    ROWS,
    TILE_BYTES,
    multiply_panel,
    round_row,
    start_panel,
    store_panel,
)

SPAN = 256
"""Positions whose scores are computed before their values are added."""

_ROW_BYTES = TILE_BYTES // 16

_PANEL_SCORE_BYTES = ROWS * PANEL_ROW_BYTES
_SCORE_BYTES = _PANEL_SCORE_BYTES + LINE_BYTES * ROWS + 4 * ROWS
"""Scores of a panel, sums of a span's weights, and largest scores."""

_LOWEST_NEGATIVE = np.float32(-LOWEST * PER_LN2)
"""Of a row that has seen nothing."""


@njit(error_model="numpy")
def _rows(group: int) -> int:
    """Of a query tile, filled up."""
    return -(-tile_tokens(group) * group // ROWS) * ROWS


@njit(error_model="numpy")
def wide_scratch_bytes(group: int, head_dim: int) -> int:
    """Of the scratch that `attend_chunk_wide` needs."""
    row_bytes = (4 + 2) * head_dim + LINE_BYTES + 4
    panels = 4 * SPAN * head_dim + 2 * ROWS * SPAN
    return _rows(group) * row_bytes + panels + _SCORE_BYTES + 2 * head_dim + 8 * LINE_BYTES


@njit(error_model="numpy")
def _take_queries(qkv, first, count, column, group, head_dim, queries):
    """Those of some tokens as bfloat16, in the tiles that products take."""
    steps = head_dim // BLOCK
    for row in range(count * group):
        source = qkv.ctypes.data + (first + row // group) * qkv.strides[0]
        source += 4 * (column + row % group * head_dim)
        target = queries + row // 16 * steps * TILE_BYTES + row % 16 * _ROW_BYTES
        for step in range(steps):
            round_row(source + 4 * BLOCK * step, 2, target + step * TILE_BYTES)


@njit(error_model="numpy")
def _key_panels(base, pool, table, block, blocks, head_dim, panels):
    """A panel for every two blocks: their positions are its outputs, the elements of a head its inputs."""
    steps = head_dim // BLOCK
    for i in range(blocks):
        source = base + table[block + i] * pool.block_bytes
        panel = panels + i // 2 * steps * BLOCK_PANEL_BYTES + i % 2 * TILE_BYTES
        for step in range(steps):
            target = panel + step * BLOCK_PANEL_BYTES
            if pool.form == INT8:
                rows = source + step * BLOCK * BLOCK_TOKENS
                pair_int8_keys(rows, BLOCK // 2, scales_of(pool, source), target)
            else:
                pair_rows(source + step * BLOCK * 2 * BLOCK_TOKENS, 2 * BLOCK_TOKENS, BLOCK // 2, target)


@njit(error_model="numpy")
def _pair_values(rows, row_bytes, low, high, zeros, pairs):
    """16 positions of a tile, those from `low` to before `high` as they are and the others 0."""
    floats_at(pairs, 16 * (BLOCK_TOKENS // 2))[:] = 0
    if low >= high:
        return
    first = -(-low // 2)
    if low % 2:
        pair_rows(zeros, rows + row_bytes * low - zeros, 1, pairs + LINE_BYTES * (low // 2))
    pair_rows(rows + row_bytes * 2 * first, row_bytes, max(0, high // 2 - first), pairs + LINE_BYTES * first)
    if high % 2:
        last = rows + row_bytes * (high - 1)
        pair_rows(last, zeros - last, 1, pairs + LINE_BYTES * (high // 2))


@njit(error_model="numpy")
def _value_panels(base, pool, table, block, low, high, head_dim, zeros, panels):
    """A panel for every 32 elements of a head: they are its outputs, positions its inputs.

    Positions of the span before `low` and from `high` on may never have been written, and become 0.
    """
    panel_bytes = SPAN // BLOCK * BLOCK_PANEL_BYTES
    for i in range(2 * -(-high // BLOCK)):
        begin = max(0, min(BLOCK_TOKENS, low - BLOCK_TOKENS * i))
        end = max(0, min(BLOCK_TOKENS, high - BLOCK_TOKENS * i))
        source = base + values_after(pool)
        if end:
            source += table[block + i] * pool.block_bytes
        for tile in range(head_dim // 16):
            panel = panels + tile // 2 * panel_bytes + tile % 2 * TILE_BYTES
            panel += i // 2 * BLOCK_PANEL_BYTES + i % 2 * (TILE_BYTES // 2)
            if pool.form == INT8:
                scales = scales_of(pool, source)
                pair_int8_values(source + 32 * tile, 2 * head_dim, begin, end, scales, panel)
            elif begin == 0 and end == BLOCK_TOKENS:
                pair_rows(source + 32 * tile, 2 * head_dim, BLOCK_TOKENS // 2, panel)
            else:
                _pair_values(source + 32 * tile, 2 * head_dim, begin, end, zeros, panel)


@njit(error_model="numpy")
def _fetch_some(base, pool, table, following, row, rows):
    """Ask for a part of the next span's K and V, so that all of them are asked for until the last row."""
    span = SPAN // BLOCK_TOKENS
    lines = piece_bytes(pool.form, pool.head_dim) // LINE_BYTES
    for i in range(span * row // rows, span * min(row + ROWS, rows) // rows):
        if following[0] + i < following[1]:
            place = base + table[following[0] + i] * pool.block_bytes
            fetch(place, lines)
            fetch(place + values_after(pool), lines)


@njit(error_model="numpy")
def _bound(row, rows, group, at, window, bounds):
    """From where and to before where each row sees a span: `ROWS` beginnings, then as many ends."""
    token, member = at + row // group, row % group
    for i in range(ROWS):
        bounds[i] = max(0, token + 1 - window) if window > 0 else 0
        bounds[ROWS + i] = min(SPAN, token + 1)
        member += 1
        # A row that only fills up the last ones is taken for one of the last token.
        if member == group and row + i + 1 < rows:
            token, member = token + 1, 0


@njit(error_model="numpy")
def _start(panel, row, head_dim, queries, keys):
    """Begin to compute a panel's scores."""
    steps = head_dim // BLOCK
    tile_bytes = steps * TILE_BYTES
    panels = keys + panel * steps * BLOCK_PANEL_BYTES
    start_panel(queries + row // 16 * tile_bytes, _ROW_BYTES, TILE_BYTES, tile_bytes, panels, steps)


@njit(error_model="numpy")
def _weigh(row, low, high, seen, head_dim, queries, keys, negatives, scores, weights, new_sums, bounds):
    """Weights of the panels from that of position `low` to that before `high`, and their sums."""
    floats_at(new_sums, 16 * ROWS)[:] = 0
    panels, lows = -(-high // PANEL), bounds.ctypes.data
    _start(low // PANEL, row, head_dim, queries, keys)
    for panel in range(low // PANEL, panels):
        at = panel * PANEL
        store_panel(scores, PANEL_ROW_BYTES)
        if panel + 1 < panels:
            # Tiles multiply the next one while weights of this one are computed. Stores come after that:
            # loads that may be of what is just being stored would wait.
            _start(panel + 1, row, head_dim, queries, keys)
        hides = seen[0] > at or seen[1] < at + PANEL
        weigh_panel(scores, hides, at, lows, lows + 8 * ROWS, negatives, new_sums, weights + 2 * at, 2 * SPAN)


@njit(error_model="numpy")
def _raise_tops(row, low, high, seen, head_dim, queries, keys, negatives, scores, sums, out, largest, bounds):
    """Make the tops of `ROWS` rows the largest of their scores from `low` to `high`."""
    found, lows = floats_at(largest, ROWS), bounds.ctypes.data
    found[:] = -math.inf
    for panel in range(low // PANEL, -(-high // PANEL)):
        _start(panel, row, head_dim, queries, keys)
        store_panel(scores, PANEL_ROW_BYTES)
        at = panel * PANEL
        hides = seen[0] > at or seen[1] < at + PANEL
        find_largest(scores, hides, at, lows, lows + 8 * ROWS, largest)
    tops = floats_at(negatives, ROWS)
    for i in range(ROWS):
        negative = -found[i] * np.float32(PER_LN2)
        if not negative >= tops[i]:
            if tops[i] != _LOWEST_NEGATIVE:
                factor = np.float32(2.0) ** (negative - tops[i])
                floats_at(sums + LINE_BYTES * i, 16)[:] *= factor
                floats_at(out + 4 * head_dim * i, head_dim)[:] *= factor
            tops[i] = negative


@njit(error_model="numpy")
def _attend_rows(
    row, rows, group, at, window, head_dim, queries, keys, values, out, sums, negatives, scores, weights,
    bounds,
):  # fmt: skip
    """Bring the softmaxes of `ROWS` rows up to date with a span that begins `at` before the first token."""
    earliest, latest = at + row // group, at + (min(row + ROWS, rows) - 1) // group
    high = min(SPAN, latest + 1)
    low = max(0, earliest + 1 - window) if window > 0 else 0
    if high <= 0 or low >= SPAN:
        return
    seen = max(0, latest + 1 - window) if window > 0 else 0, earliest + 1
    first, end = low // PANEL * PANEL, -(-high // PANEL) * PANEL
    if seen[0] > 0 or seen[1] < end:
        _bound(row, rows, group, at, window, bounds)
    new_sums = scores + _PANEL_SCORE_BYTES
    largest = new_sums + LINE_BYTES * ROWS
    tops, out, sums = negatives + 4 * row, out + 4 * head_dim * row, sums + LINE_BYTES * row
    if floats_at(tops, 1)[0] == _LOWEST_NEGATIVE:
        # Any scores will do to begin with.
        _raise_tops(
            row, low, min(high, first + PANEL), seen, head_dim, queries, keys, tops, scores, sums, out,
            largest, bounds,
        )  # fmt: skip
    _weigh(row, low, high, seen, head_dim, queries, keys, tops, scores, weights, new_sums, bounds)
    if not take_sums(new_sums, sums):
        _raise_tops(row, low, high, seen, head_dim, queries, keys, tops, scores, sums, out, largest, bounds)
        _weigh(row, low, high, seen, head_dim, queries, keys, tops, scores, weights, new_sums, bounds)
        floats_at(sums, 16 * ROWS)[:] += floats_at(new_sums, 16 * ROWS)
    for column in range(0, head_dim, BLOCK):
        panels = values + column // BLOCK * (SPAN // BLOCK) * BLOCK_PANEL_BYTES
        multiply_panel(
            2,
            weights + 2 * first,
            2 * SPAN,
            2 * BLOCK,
            2 * SPAN * 16,
            panels + first // BLOCK * BLOCK_PANEL_BYTES,
            -(-high // BLOCK) - first // BLOCK,
            out + 4 * column,
            4 * head_dim,
            1,
        )


@njit(nogil=True, error_model="numpy")
def attend_chunk_wide(tile, kv_head, first, tokens, start, qkv, pool, layer, table, window, out, scratch):
    """See `attention_chunk.attend_chunk`; heads must be a multiple of 32, and this thread's tiles ready."""
    kv_heads, head_dim = pool.kv_heads, pool.head_dim
    group = (qkv.shape[1] // head_dim - 2 * kv_heads) // kv_heads
    column = kv_head * group * head_dim
    all_rows = _rows(group)
    attended = aligned(scratch)
    sums = attended + 4 * all_rows * head_dim
    negatives = sums + LINE_BYTES * all_rows
    queries = aligned(negatives + 4 * all_rows)
    keys = aligned(queries + 2 * all_rows * head_dim)
    values = keys + 2 * SPAN * head_dim
    scores = values + 2 * SPAN * head_dim
    weights = scores + _SCORE_BYTES
    zeros = weights + 2 * ROWS * SPAN
    bounds = np.empty(2 * ROWS, np.int64)
    skipped = tile * tile_tokens(group)
    count = min(tile_tokens(group), tokens - skipped)
    rows = count * group
    filled = -(-rows // ROWS) * ROWS
    floats_at(attended, filled * head_dim)[:] = 0
    floats_at(sums, filled * 16)[:] = 0
    floats_at(negatives, filled)[:] = _LOWEST_NEGATIVE
    floats_at(zeros, head_dim // 2)[:] = 0
    floats_at(queries, filled * head_dim // 2)[:] = 0
    _take_queries(qkv, first + skipped, count, column, group, head_dim, queries)
    base = keys_at(pool, layer, kv_head)
    position, end = start + skipped, start + skipped + count
    block = max(0, position - window + 1) // BLOCK_TOKENS if window > 0 else 0
    while block * BLOCK_TOKENS < end:
        positions = min(SPAN, end - block * BLOCK_TOKENS)
        blocks = -(-positions // BLOCK_TOKENS)
        _key_panels(base, pool, table, block, blocks, head_dim, keys)
        at = position - block * BLOCK_TOKENS
        low = max(0, at + 1 - window) if window > 0 else 0
        _value_panels(base, pool, table, block, low, positions, head_dim, zeros, values)
        following = block + blocks, -(-end // BLOCK_TOKENS)
        for row in range(0, rows, ROWS):
            _fetch_some(base, pool, table, following, row, rows)
            _attend_rows(
                row, rows, group, at, window, head_dim, queries, keys, values, attended, sums, negatives,
                scores, weights, bounds,
            )  # fmt: skip
        block += blocks
    for i in range(rows):
        place = out.ctypes.data + (first + skipped + i // group) * out.strides[0]
        place += 4 * (column + i % group * head_dim)
        divide(attended + 4 * head_dim * i, head_dim // 16, sums + LINE_BYTES * i, place)
