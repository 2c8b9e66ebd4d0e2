"""Attention of one token over a range of positions whose K and V are stored in float16."""

from numba import njit

from ridgeline.kernels.jit.attention_ir import multiply_halves, tile_rows
from ridgeline.kernels.jit.attention_math import LINE_BYTES
from ridgeline.kernels.jit.attention_state import absorb_row, tile_vectors
from ridgeline.kernels.jit.kv_pool import (
    BLOCK_TOKENS,
    PIECES_AHEAD,
    SEGMENT_BLOCKS,
    keys_at,
    place_in_turn,
    values_after,
)


@njit(error_model="numpy")
def float16_scratch_bytes(group: int) -> int:
    """Of the scratch that `attend_float16` needs."""
    return group * SEGMENT_BLOCKS * LINE_BYTES


@njit(error_model="numpy")
def _score_block(query, group, keys, scores, stride, head_dim, ahead):
    row = 0
    while row < group:
        rows = tile_rows(group - row)
        factors, out = query + 4 * head_dim * row, scores + stride * row
        multiply_halves(
            rows, 1, factors, 4 * head_dim, keys, 2 * BLOCK_TOKENS, head_dim, out, stride, 0, ahead
        )
        row += rows


@njit(error_model="numpy")
def _add_values(weights, stride, group, values, tokens, state, head_dim, ahead):
    row = 0
    while row < group:
        rows = tile_rows(group - row)
        column = 0
        while column < head_dim:
            vectors = tile_vectors((head_dim - column) // 16)
            multiply_halves(
                rows,
                vectors,
                weights + stride * row,
                stride,
                values + 2 * column,
                2 * head_dim,
                tokens,
                state + 4 * (head_dim * row + column),
                4 * head_dim,
                1,
                ahead + 2 * column,
            )
            column += 16 * vectors
        row += rows


@njit(error_model="numpy")
def attend_float16(query, group, pool, layer, kv_head, table, first, end, state, scores):
    """See `attention_int8.attend_int8`; the pool is of `FLOAT16`, `scores` of `float16_scratch_bytes`."""
    head_dim, base = pool.head_dim, keys_at(pool, layer, kv_head)
    stride = SEGMENT_BLOCKS * LINE_BYTES
    end_block = -(-end // BLOCK_TOKENS)
    segment = first // BLOCK_TOKENS
    while segment < end_block:
        blocks = min(SEGMENT_BLOCKS, end_block - segment)
        for i in range(blocks):
            ahead = place_in_turn(pool, base, table, segment, end_block, i + PIECES_AHEAD)
            keys = base + table[segment + i] * pool.block_bytes
            _score_block(query, group, keys, scores + LINE_BYTES * i, stride, head_dim, ahead)
        start = segment * BLOCK_TOKENS
        for row in range(group):
            absorb_row(state, group, head_dim, row, scores + stride * row, blocks, first - start, end - start)
        for i in range(blocks):
            ahead = place_in_turn(pool, base, table, segment, end_block, blocks + i + PIECES_AHEAD)
            # What was never written may be nan, which a weight of 0 would not hide.
            low = max(0, first - start - BLOCK_TOKENS * i)
            high = min(BLOCK_TOKENS, end - start - BLOCK_TOKENS * i)
            weights = scores + LINE_BYTES * i + 4 * low
            values = base + table[segment + i] * pool.block_bytes + values_after(pool) + 2 * head_dim * low
            _add_values(weights, stride, group, values, high - low, state, head_dim, ahead)
        segment += blocks
