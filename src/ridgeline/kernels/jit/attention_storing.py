"""What becomes of q, k and v before attention: norms, rotation, and a place in the KV cache."""

import numpy as np
from numba import njit

from ridgeline.kernels.jit.activations import floats_at, norm_row
from ridgeline.kernels.jit.attention_moving import narrow

BLOCK_TOKENS = 16


@njit(error_model="numpy")
def _rotate(place, rotation, head_dim, factor):
    """Rotate the head at an address by the cosines and sines at another, then scale it."""
    half = head_dim // 2
    first, second = floats_at(place, half), floats_at(place + 4 * half, half)
    cosines, sines = floats_at(rotation, half), floats_at(rotation + 4 * half, half)
    for i in range(half):
        x, y = first[i] * factor, second[i] * factor
        first[i] = x * cosines[i] - y * sines[i]
        second[i] = y * cosines[i] + x * sines[i]


@njit(nogil=True, error_model="numpy")
def rotate_and_store_group(
    token,
    kv_head,
    qkv,
    positions,
    write_blocks,
    rotations,
    head_norms,
    norm_eps,
    pool,
    layer,
    heads,
    kv_heads,
    head_dim,
    attention_scale,
):
    """Norm, rotate and scale the query heads of one KV head; norm and rotate its key; store key and value.

    Args:
        token: row of `qkv`.
        kv_head: which.
        qkv: float32 [tokens, (heads + 2 * kv_heads) * head_dim]: heads of q, of k, of v. What becomes
            of q and k is written back.
        positions: int64 [tokens], in their sequences.
        write_blocks: int64 [tokens], the block that holds each position.
        rotations: float32 [max_positions, head_dim]: cosines of the head_dim / 2 pairs, then sines.
            Pair i is elements i and i + head_dim / 2.
        head_norms: address of float32 [2, head_dim], weights of the norms of q and of k; 0 for none.
        norm_eps: of these.
        pool: uint16 [blocks, layers, 2, kv_heads, 16 * head_dim], float16 in fact. What does not fit
            in one becomes its largest value.
        layer: whose cache.
        heads, kv_heads, head_dim: of the model; head_dim is a multiple of 16.
        attention_scale: factor of the scores.
    """
    group = heads // kv_heads
    row = qkv.ctypes.data + token * qkv.strides[0]
    position = positions[token]
    rotation = rotations.ctypes.data + position * rotations.strides[0]
    key = row + 4 * head_dim * (heads + kv_head)
    for member in range(group + 1):
        is_key = member == group
        place = key if is_key else row + 4 * head_dim * (kv_head * group + member)
        if head_norms != 0:
            weight = head_norms + 4 * head_dim if is_key else head_norms
            norm_row(place, weight, head_dim, norm_eps, place)
        _rotate(place, rotation, head_dim, np.float32(1.0) if is_key else np.float32(attention_scale))
    block = pool.ctypes.data + write_blocks[token] * pool.strides[0] + layer * pool.strides[1]
    block += kv_head * pool.strides[3]
    offset = position % BLOCK_TOKENS
    narrow(key, head_dim // 16, block + 2 * offset, 2 * BLOCK_TOKENS)
    value = key + 4 * head_dim * kv_heads
    narrow(value, head_dim // 16, block + pool.strides[2] + 2 * head_dim * offset, 2)


@njit(nogil=True, error_model="numpy")
def rotate_and_store(
    token,
    qkv,
    positions,
    write_blocks,
    rotations,
    head_norms,
    norm_eps,
    pool,
    layer,
    heads,
    kv_heads,
    head_dim,
    attention_scale,
):
    """`rotate_and_store_group` for all KV heads of a token."""
    for kv_head in range(kv_heads):
        rotate_and_store_group(
            token,
            kv_head,
            qkv,
            positions,
            write_blocks,
            rotations,
            head_norms,
            norm_eps,
            pool,
            layer,
            heads,
            kv_heads,
            head_dim,
            attention_scale,
        )
