"""Where K and V of the KV cache lie, and in what form.

    pool: block > layer > K, V > KV head > piece

A piece is what one head has of a block's 16 positions:

    FLOAT16   K: head_dim > position          V: position > head_dim, all float16
    INT8      K: pair of elements > position > element of the pair
              V: pair of positions > head_dim > position of the pair, all int8
              then, of K and of V, float32 per position: what a quant of 1 stands for

Pairs stand side by side because processors multiply and add pairs of 16 bits.
"""

from typing import Any, NamedTuple

from numba import njit

BLOCK_TOKENS = 16

FLOAT16, INT8 = 0, 1

_SCALE_BYTES = 4 * BLOCK_TOKENS


class KVPool(NamedTuple):
    """A KV cache in memory.

    Attributes:
        address: where it begins, best a multiple of 64.
        form: `FLOAT16` or `INT8`.
        kv_heads, head_dim: of the model; head_dim is a multiple of 32.
        layer_bytes: from a layer of a block to the next.
        block_bytes: from a block to the next.
    """

    address: Any
    form: Any
    kv_heads: Any
    head_dim: Any
    layer_bytes: Any
    block_bytes: Any


@njit(error_model="numpy")
def piece_bytes(form: int, head_dim: int) -> int:
    """Of K, or V, of a head of a block."""
    return BLOCK_TOKENS * head_dim + _SCALE_BYTES if form == INT8 else 2 * BLOCK_TOKENS * head_dim


@njit(error_model="numpy")
def pool_at(address, form, layers, kv_heads, head_dim):
    """The pool of a model that begins at an address."""
    layer_bytes = 2 * kv_heads * piece_bytes(form, head_dim)
    return KVPool(address, form, kv_heads, head_dim, layer_bytes, layers * layer_bytes)


@njit(error_model="numpy")
def keys_at(pool, layer, kv_head):
    """Where a head's piece of K is in block 0; other blocks' are `block_bytes` apart."""
    return pool.address + layer * pool.layer_bytes + kv_head * piece_bytes(pool.form, pool.head_dim)


@njit(error_model="numpy")
def values_after(pool):
    """From a head's piece of K to its piece of V."""
    return pool.kv_heads * piece_bytes(pool.form, pool.head_dim)


@njit(error_model="numpy")
def scales_of(pool, piece):
    """Where the scales of a piece of int8 are."""
    return piece + BLOCK_TOKENS * pool.head_dim


SEGMENT_BLOCKS = 16
"""Whose keys are read before their values are: scores few enough for the first cache, many to a change of
the maximum."""

PIECES_AHEAD = 8
"""Of K or V that are on their way to the second cache while others are computed with."""


@njit(error_model="numpy")
def place_in_turn(pool, base, table, segment, end_block, piece):
    """Where a piece is that a single token comes to, counted from a segment's first.

    Args:
        pool: the KV cache.
        base: `keys_at` of the head.
        table: int64 [blocks], of the sequence.
        segment: its first block; it has `SEGMENT_BLOCKS`, or what is left to `end_block`.
        end_block: after the last that is attended to.
        piece: of the segment's keys, then its values, then what follows.
    """
    blocks = min(SEGMENT_BLOCKS, end_block - segment)
    if piece < blocks:
        return base + table[segment + piece] * pool.block_bytes
    block = segment + piece - blocks
    if piece < 2 * blocks:
        return base + table[block] * pool.block_bytes + values_after(pool)
    if block < end_block:
        return base + table[block] * pool.block_bytes
    # The next KV head's are often attended to next, and by whom does not matter: threads share a cache.
    following = table[min(block - end_block, end_block - 1)]
    return base + following * pool.block_bytes + piece_bytes(pool.form, pool.head_dim)
