"""Attention of one token over a range of positions whose K and V are stored in int8."""

from numba import njit

from ridgeline.kernels.jit.activations import integers_at
from ridgeline.kernels.jit.attention_int8_ir import add_int8, fold_scales, score_int8, to_shorts
from ridgeline.kernels.jit.attention_ir import tile_rows
from ridgeline.kernels.jit.attention_math import LINE_BYTES
from ridgeline.kernels.jit.attention_state import absorb_row, tile_vectors
from ridgeline.kernels.jit.kv_pool import (
    BLOCK_TOKENS,
    PIECES_AHEAD,
    SEGMENT_BLOCKS,
    keys_at,
    place_in_turn,
)

_SCORE_BYTES = SEGMENT_BLOCKS * LINE_BYTES
_PLACES = 2 * SEGMENT_BLOCKS + PIECES_AHEAD


@njit(error_model="numpy")
def int8_scratch_bytes(group: int, head_dim: int) -> int:
    """Of the scratch that `attend_int8` needs."""
    return 8 * _PLACES + group * (_SCORE_BYTES + 2 * head_dim + 8)


@njit(error_model="numpy")
def _score(group, queries, row_scales, places, blocks, head_dim, scores):
    row = 0
    while row < group:
        rows = tile_rows(group - row)
        score_int8(
            rows,
            queries + 2 * head_dim * row,
            2 * head_dim,
            row_scales + 4 * row,
            places,
            blocks,
            PIECES_AHEAD,
            head_dim // 2,
            scores + _SCORE_BYTES * row,
            _SCORE_BYTES,
        )
        row += rows


@njit(error_model="numpy")
def _add_values(group, weights, row_scales, places, blocks, head_dim, state):
    row = 0
    while row < group:
        rows, column = tile_rows(group - row), 0
        while column < head_dim:
            vectors = tile_vectors((head_dim - column) // 16)
            add_int8(
                rows,
                vectors,
                weights + _SCORE_BYTES * row,
                _SCORE_BYTES,
                row_scales + 4 * row,
                places,
                blocks,
                PIECES_AHEAD,
                2 * column,
                2 * head_dim,
                state + 4 * (head_dim * row + column),
                4 * head_dim,
            )
            column += 16 * vectors
        row += rows


@njit(error_model="numpy")
def attend_int8(query, group, pool, layer, kv_head, table, first, end, state, scratch):
    """Absorb the positions from `first` to before `end`.

    Args:
        query: address of float32 [group, head_dim].
        group: query heads of the KV head.
        pool: the KV cache, of `INT8`.
        layer, kv_head: whose.
        table: int64 [blocks], of the sequence.
        first, end: positions.
        state: address of the softmaxes under way, see `attention_state`.
        scratch: address of `int8_scratch_bytes`, a multiple of 64.
    """
    head_dim = pool.head_dim
    scores = scratch
    queries = scores + group * _SCORE_BYTES
    places = queries + 2 * head_dim * group
    query_scales = places + 8 * _PLACES
    weight_scales = query_scales + 4 * group
    for row in range(group):
        source = query + 4 * head_dim * row
        to_shorts(source, head_dim // 16, queries + 2 * head_dim * row, query_scales + 4 * row)
    base, end_block = keys_at(pool, layer, kv_head), -(-end // BLOCK_TOKENS)
    turns = integers_at(places, _PLACES)
    segment = first // BLOCK_TOKENS
    while segment < end_block:
        blocks = min(SEGMENT_BLOCKS, end_block - segment)
        for piece in range(2 * blocks + PIECES_AHEAD):
            turns[piece] = place_in_turn(pool, base, table, segment, end_block, piece)
        _score(group, queries, query_scales, places, blocks, head_dim, scores)
        values, start = places + 8 * blocks, segment * BLOCK_TOKENS
        for row in range(group):
            weights = scores + _SCORE_BYTES * row
            absorb_row(state, group, head_dim, row, weights, blocks, first - start, end - start)
            fold_scales(weights, values, blocks, BLOCK_TOKENS * head_dim)
            to_shorts(weights, blocks, weights, weight_scales + 4 * row)
        _add_values(group, scores, weight_scales, values, blocks, head_dim, state)
        segment += blocks
