"""Attention of one token over its sequence, from the pool as it lies there: decode.

The query heads of a KV head share each load of K and V, which is what this takes its time for.
"""

import math

from numba import njit

from ridgeline.kernels.jit.activations import floats_at
from ridgeline.kernels.jit.attention_ir import GROUP_ROWS, multiply_halves
from ridgeline.kernels.jit.attention_math import LINE_BYTES
from ridgeline.kernels.jit.attention_state import (
    absorb_row,
    aligned,
    begin,
    finish,
    largest_of,
    state_bytes,
    sums_of,
    tile_vectors,
)
from ridgeline.kernels.jit.attention_storing import BLOCK_TOKENS

_SEGMENT_BLOCKS = 16
"""Scored before their values are read: few enough for the first cache, many to a change of the maximum."""

_PIECES_AHEAD = 8
"""Keys or values of a block that are on their way to the second cache while others are computed with."""

_LEAST_PART_TOKENS = 256
_PART_COST_TOKENS = 64
"""What one part more costs, its merging included, in tokens attended to."""


@njit(error_model="numpy")
def single_scratch_bytes(group: int, head_dim: int) -> int:
    """Of the scratch that `attend_single` and `attend_part` need."""
    return LINE_BYTES + state_bytes(group, head_dim) + group * _SEGMENT_BLOCKS * LINE_BYTES


@njit(error_model="numpy")
def _tile_rows(left: int) -> int:
    # Evenly: 5 rows are better computed as 3 and 2 than as 4 and 1.
    return -(-left // -(-left // GROUP_ROWS))


@njit(error_model="numpy")
def _score_block(query, group, keys, scores, stride, head_dim, ahead):
    row = 0
    while row < group:
        rows = _tile_rows(group - row)
        factors, out = query + 4 * head_dim * row, scores + stride * row
        multiply_halves(
            rows, 1, factors, 4 * head_dim, keys, 2 * BLOCK_TOKENS, head_dim, out, stride, 0, ahead
        )
        row += rows


@njit(error_model="numpy")
def _add_values(weights, stride, group, values, tokens, state, head_dim, ahead):
    row = 0
    while row < group:
        rows = _tile_rows(group - row)
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
def _place_ahead(pool, table, base, segment, end_block, piece):
    """Where a piece to come is, counted from a segment's first: its keys, its values, what follows."""
    blocks = min(_SEGMENT_BLOCKS, end_block - segment)
    if piece < blocks:
        return base + table[segment + piece] * pool.strides[0]
    block = segment + piece - blocks
    if piece < 2 * blocks:
        return base + table[block] * pool.strides[0] + pool.strides[2]
    if block < end_block:
        return base + table[block] * pool.strides[0]
    # The next KV head's are often attended to next, and by whom does not matter: threads share a cache.
    return base + table[min(block - end_block, end_block - 1)] * pool.strides[0] + pool.strides[3]


@njit(error_model="numpy")
def _attend_range(query, group, pool, layer, kv_head, table, first, end, state, scores, head_dim):
    """Absorb the positions from `first` to before `end`; addresses are `query`, `state` and `scores`."""
    base = pool.ctypes.data + layer * pool.strides[1] + kv_head * pool.strides[3]
    stride = _SEGMENT_BLOCKS * LINE_BYTES
    end_block = -(-end // BLOCK_TOKENS)
    segment = first // BLOCK_TOKENS
    while segment < end_block:
        blocks = min(_SEGMENT_BLOCKS, end_block - segment)
        for i in range(blocks):
            ahead = _place_ahead(pool, table, base, segment, end_block, i + _PIECES_AHEAD)
            keys = base + table[segment + i] * pool.strides[0]
            _score_block(query, group, keys, scores + LINE_BYTES * i, stride, head_dim, ahead)
        start = segment * BLOCK_TOKENS
        for row in range(group):
            absorb_row(state, group, head_dim, row, scores + stride * row, blocks, first - start, end - start)
        for i in range(blocks):
            ahead = _place_ahead(pool, table, base, segment, end_block, blocks + i + _PIECES_AHEAD)
            # What was never written may be nan, which a weight of 0 would not hide.
            low = max(0, first - start - BLOCK_TOKENS * i)
            high = min(BLOCK_TOKENS, end - start - BLOCK_TOKENS * i)
            weights = scores + LINE_BYTES * i + 4 * low
            values = base + table[segment + i] * pool.strides[0] + pool.strides[2] + 2 * head_dim * low
            _add_values(weights, stride, group, values, high - low, state, head_dim, ahead)
        segment += blocks


@njit(nogil=True, error_model="numpy")
def attend_single(token, kv_head, qkv, pool, layer, table, context, window, out, scratch):
    """Attention of one token with the query heads of one KV head.

    Args:
        token: row of `qkv` and `out`.
        kv_head: which.
        qkv: float32 [tokens, (heads + 2 * kv_heads) * head_dim], after `rotate_and_store`.
        pool: uint16 [blocks, layers, 2, kv_heads, 16 * head_dim].
        layer: whose cache.
        table: int64 [blocks], of the sequence.
        context: positions up to the token, itself among them.
        window: the last so many of them count; 0 for all.
        out: float32 [tokens, heads * head_dim].
        scratch: address of `single_scratch_bytes`, the calling thread's own.
    """
    kv_heads, head_dim = pool.shape[3], pool.shape[4] // BLOCK_TOKENS
    group = (qkv.shape[1] // head_dim - 2 * kv_heads) // kv_heads
    at = 4 * head_dim * group * kv_head
    query = qkv.ctypes.data + token * qkv.strides[0] + at
    state = aligned(scratch)
    scores = state + state_bytes(group, head_dim)
    first = max(0, context - window) if window > 0 else 0
    begin(state, group, head_dim)
    _attend_range(query, group, pool, layer, kv_head, table, first, context, state, scores, head_dim)
    finish(state, group, head_dim, 0, group, out.ctypes.data + token * out.strides[0] + at)


@njit(error_model="numpy")
def count_parts(tasks: int, context: int, threads: int) -> int:
    """How many parts to cut each token's positions into, so that no thread has much more than others.

    Args:
        tasks: (token, KV head) pairs of a step.
        context: positions that the longest of them attends to, its window considered.
        threads: that share the work.
    """
    best, least = 1, 0.0
    for parts in range(1, max(1, context // _LEAST_PART_TOKENS) + 1):
        rounds = -(-tasks * parts // threads)
        cost = rounds * (context / parts + (_PART_COST_TOKENS if parts > 1 else 0))
        if parts == 1 or cost < least:
            best, least = parts, cost
        if parts >= threads:
            break
    return best


@njit(error_model="numpy")
def part_bytes(group: int, head_dim: int) -> int:
    """Of what `attend_part` leaves for `merge_parts`."""
    return state_bytes(group, head_dim)


@njit(nogil=True, error_model="numpy")
def attend_part(token, kv_head, part, parts, qkv, pool, layer, table, context, window, partial, scratch):
    """`attend_single` over one of `parts` parts of the positions; `merge_parts` makes one result of all.

    Args:
        token, kv_head, qkv, pool, layer, table, context, window, scratch: as for `attend_single`.
        part: which, from 0.
        parts: how many.
        partial: address of `part_bytes` for this part's result, best a multiple of 64.
    """
    kv_heads, head_dim = pool.shape[3], pool.shape[4] // BLOCK_TOKENS
    group = (qkv.shape[1] // head_dim - 2 * kv_heads) // kv_heads
    query = qkv.ctypes.data + token * qkv.strides[0] + 4 * head_dim * group * kv_head
    first = max(0, context - window) if window > 0 else 0
    first_block = first // BLOCK_TOKENS
    blocks = -(-context // BLOCK_TOKENS) - first_block
    low = (first_block + blocks * part // parts) * BLOCK_TOKENS
    high = (first_block + blocks * (part + 1) // parts) * BLOCK_TOKENS
    begin(partial, group, head_dim)
    low, high = max(low, first), min(high, context)
    if low < high:
        scores = aligned(scratch)
        _attend_range(query, group, pool, layer, kv_head, table, low, high, partial, scores, head_dim)


@njit(nogil=True, error_model="numpy")
def merge_parts(token, kv_head, parts, partials, group, head_dim, out):
    """Make one result of the parts of a token's positions.

    Args:
        token: row of `out`.
        kv_head: which.
        parts: how many.
        partials: address of the parts' results, one after the other, `part_bytes` each.
        group: query heads of a KV head.
        head_dim: of a head.
        out: float32 [tokens, heads * head_dim].
    """
    size = part_bytes(group, head_dim)
    place = out.ctypes.data + token * out.strides[0] + 4 * head_dim * group * kv_head
    for row in range(group):
        target = floats_at(place + 4 * head_dim * row, head_dim)
        target[:] = 0
        largest = floats_at(largest_of(partials, group, head_dim) + 4 * row, 1)[0]
        for part in range(1, parts):
            largest = max(
                largest, floats_at(largest_of(partials + size * part, group, head_dim) + 4 * row, 1)[0]
            )
        total = largest * 0
        for part in range(parts):
            state = partials + size * part
            here = floats_at(largest_of(state, group, head_dim) + 4 * row, 1)[0]
            factor = math.exp(here - largest)
            sums = floats_at(sums_of(state, group, head_dim) + LINE_BYTES * row, 16)
            values = floats_at(state + 4 * head_dim * row, head_dim)
            for lane in range(16):
                total += factor * sums[lane]
            for i in range(head_dim):
                target[i] += factor * values[i]
        for i in range(head_dim):
            target[i] /= total
