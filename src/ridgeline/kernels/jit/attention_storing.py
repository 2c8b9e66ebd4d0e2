"""What becomes of q, k and v before attention: norms, rotation, and a place in the KV cache."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ridgeline.kernels.jit.activations import norm_row
from ridgeline.kernels.jit.attention_int8_moving import narrow_int8
from ridgeline.kernels.jit.attention_math import LINE_BYTES, counted
from ridgeline.kernels.jit.attention_moving import narrow
from ridgeline.kernels.jit.ir import F32, FLOATS, I64, VOID, Body
from ridgeline.kernels.jit.kv_pool import BLOCK_TOKENS, INT8, keys_at, scales_of, values_after


def _write_rotate(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    place, rotation, vectors, factor = function.args
    half = b.mul(vectors, I64(LINE_BYTES))
    scale = body.splat(factor, FLOATS)
    with counted(body, vectors) as index:
        at = b.mul(index, I64(LINE_BYTES))
        places = body.address(place, at), body.address(place, b.add(at, half))
        x, y = (b.fmul(body.load(FLOATS, each, 4), scale) for each in places)
        cosine = body.load(FLOATS, body.address(rotation, at), 4)
        sine = body.load(FLOATS, body.address(rotation, b.add(at, half)), 4)
        body.store(b.fsub(b.fmul(x, cosine), b.fmul(y, sine)), places[0], 4)
        body.store(b.fadd(b.fmul(y, cosine), b.fmul(x, sine)), places[1], 4)
    b.ret_void()


@intrinsic
def _rotate(typing, place, rotation, vectors, factor):
    """Rotate the head at an address by the cosines and sines at another, 16 times `vectors`; scale it."""
    name, kind = "ridgeline_attention_rotate", ir.FunctionType(VOID, [I64, I64, I64, F32])

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        function = builder.module.globals.get(name)
        if function is None:
            function = ir.Function(builder.module, kind, name)
            function.linkage = "internal"
            _write_rotate(function)
        builder.call(function, values)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.float32), generate


@njit(error_model="numpy")
def _store_token(pool, offset, key, value, piece):
    """Key and value, float32 at addresses, as a position of a piece of K and its piece of V."""
    head_dim, values = pool.head_dim, piece + values_after(pool)
    if pool.form == INT8:
        scale, half = 4 * offset, offset // 2
        narrow_int8(
            key, head_dim // 2, piece + 2 * offset, 2 * BLOCK_TOKENS, 1, scales_of(pool, piece) + scale
        )
        place = values + 2 * head_dim * half + offset % 2
        narrow_int8(value, head_dim // 2, place, 4, 2, scales_of(pool, values) + scale)
    else:
        narrow(key, head_dim // 16, piece + 2 * offset, 2 * BLOCK_TOKENS)
        narrow(value, head_dim // 16, values + 2 * head_dim * offset, 2)


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
        pool: the KV cache, see `kv_pool.KVPool`. What does not fit in float16 becomes its largest value.
        layer: whose cache.
        heads, kv_heads, head_dim: of the model; head_dim is a multiple of 32.
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
        factor = np.float32(1.0) if is_key else np.float32(attention_scale)
        _rotate(place, rotation, head_dim // 32, factor)
    piece = keys_at(pool, layer, kv_head) + write_blocks[token] * pool.block_bytes
    _store_token(pool, position % BLOCK_TOKENS, key, key + 4 * head_dim * kv_heads, piece)


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
