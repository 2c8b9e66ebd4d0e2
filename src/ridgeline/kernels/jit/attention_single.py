"""Attention of one token over its sequence, from the pool as it lies there: decode.

The query heads of a KV head share each load of K and V, which is what this takes its time for.
"""

import math

from numba import njit

from ridgeline.kernels.jit.activations import floats_at
from ridgeline.kernels.jit.attention_float16 import attend_float16, float16_scratch_bytes
from ridgeline.kernels.jit.attention_int8 import attend_int8, int8_scratch_bytes
from ridgeline.kernels.jit.attention_math import LINE_BYTES
from ridgeline.kernels.jit.attention_state import (
    aligned,
    begin,
    finish,
    largest_of,
    state_bytes,
    sums_of,
)
from ridgeline.kernels.jit.kv_pool import BLOCK_TOKENS, INT8

_LEAST_PART_TOKENS = 256
_PART_COST_TOKENS = 64
"""What one part more costs, its merging included, in tokens attended to."""


@njit(error_model="numpy")
def single_scratch_bytes(group: int, head_dim: int) -> int:
    """Of the scratch that `attend_single` and `attend_part` need."""
    scores = max(float16_scratch_bytes(group), int8_scratch_bytes(group, head_dim))
    return LINE_BYTES + state_bytes(group, head_dim) + scores


@njit(error_model="numpy")
def _attend_range(query, group, pool, layer, kv_head, table, first, end, state, scores):
    """Absorb the positions from `first` to before `end`; addresses are `query`, `state` and `scores`."""
    if pool.form == INT8:
        attend_int8(query, group, pool, layer, kv_head, table, first, end, state, scores)
    else:
        attend_float16(query, group, pool, layer, kv_head, table, first, end, state, scores)


@njit(nogil=True, error_model="numpy")
def attend_single(token, kv_head, qkv, pool, layer, table, context, window, out, scratch):
    """Attention of one token with the query heads of one KV head.

    Args:
        token: row of `qkv` and `out`.
        kv_head: which.
        qkv: float32 [tokens, (heads + 2 * kv_heads) * head_dim], after `rotate_and_store`.
        pool: the KV cache, see `kv_pool.KVPool`.
        layer: whose cache.
        table: int64 [blocks], of the sequence.
        context: positions up to the token, itself among them.
        window: the last so many of them count; 0 for all.
        out: float32 [tokens, heads * head_dim].
        scratch: address of `single_scratch_bytes`, the calling thread's own.
    """
    kv_heads, head_dim = pool.kv_heads, pool.head_dim
    group = (qkv.shape[1] // head_dim - 2 * kv_heads) // kv_heads
    at = 4 * head_dim * group * kv_head
    query = qkv.ctypes.data + token * qkv.strides[0] + at
    state = aligned(scratch)
    scores = state + state_bytes(group, head_dim)
    first = max(0, context - window) if window > 0 else 0
    begin(state, group, head_dim)
    _attend_range(query, group, pool, layer, kv_head, table, first, context, state, scores)
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
    kv_heads, head_dim = pool.kv_heads, pool.head_dim
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
        _attend_range(query, group, pool, layer, kv_head, table, low, high, partial, scores)


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
