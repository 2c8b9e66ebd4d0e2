"""All that happens to q, k and v between their product and attention, in one launch per layer."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import triton
import triton.language as tl

from ridgeline.kernels.cuda.launch import FLOAT8, Launch, let_next_start, wait_for_earlier
from ridgeline.kernels.cuda.plan import DevicePlan
from ridgeline.kernels.cuda.resources import (
    FLOAT8_CAPABILITIES,
    MODEL_SHAPES,
    TRITON_DTYPES,
    Variant,
    kv_kind,
)
from ridgeline.kernels.interface import HeadNorms

_BLOCK_SIZE_TOKENS = 16
"""Of a KV block, in the variants; launches take what the pool has."""

_PAIRS_PER_THREAD = 8
"""One load of 16 bytes from each half of a head, where elements have 2 bytes."""

_MAX_WARPS = 4


_FLOAT8_LARGEST = tl.constexpr(torch.finfo(FLOAT8).max)


@triton.jit
def _as_stored(x, pool):
    """In the dtype of the cache; one that is too narrow for a number takes the nearest it has.

    Float8 has no scales: the largest K and V of smollm2-135m on a long text are 26 and 20.
    """
    if pool.dtype.element_ty == tl.float8e4nv:
        # What is not a number stays none: its row must fail.
        wide = tl.clamp(x.to(tl.float32), -_FLOAT8_LARGEST, _FLOAT8_LARGEST, tl.PropagateNan.ALL)
        return wide.to(tl.float8e4nv)
    else:  # noqa: RET505 - Triton compiles both returns where this is left out
        return x


@triton.jit(do_not_specialize=["table_stride"])
def _rotate_and_store_kernel(
    qkv, pool, rotary, positions, slots, tables, table_stride, block_stride, query_gain, key_gain, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    GROUPS: tl.constexpr, GROUP: tl.constexpr, HALF_BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr = False,
):  # fmt: skip
    let_next_start(OVERLAP)
    HALF: tl.constexpr = HEAD_DIM // 2
    TOTAL: tl.constexpr = HEADS + 2 * KV_HEADS
    program = tl.program_id(0)
    token = (program // GROUPS).to(tl.int64)
    head = (program % GROUPS) * GROUP + tl.arange(0, GROUP)
    column = tl.arange(0, HALF_BLOCK)
    inside = column < HALF
    is_query = head < HEADS
    is_value = head >= HEADS + KV_HEADS

    # A negative position makes no branch: it leaves no heads to store.
    position = tl.load(positions + token)
    slot = tl.load(slots + token)
    used = position >= 0
    position = tl.maximum(position, 0)
    block = tl.load(tables + slot * table_stride + position // BLOCK_SIZE, mask=used, other=0).to(tl.int64)
    angles = rotary + position.to(tl.int64) * HEAD_DIM + column
    cos = tl.load(angles, mask=inside, other=0.0)[None, :]
    sin = tl.load(angles + HALF, mask=inside, other=0.0)[None, :]
    wait_for_earlier(OVERLAP)
    source = qkv + token * (TOTAL * HEAD_DIM) + head[:, None] * HEAD_DIM + column[None, :]
    exists = (head < TOTAL)[:, None] & inside[None, :]
    raw_first = tl.load(source, mask=exists, other=0.0)
    raw_second = tl.load(source + HALF, mask=exists, other=0.0)

    first = raw_first.to(tl.float32)
    second = raw_second.to(tl.float32)
    if query_gain is not None:
        scale = tl.rsqrt(tl.sum(first * first + second * second, 1) / HEAD_DIM + eps)[:, None]
        query_first = tl.load(query_gain + column, mask=inside, other=0.0).to(tl.float32)
        query_second = tl.load(query_gain + HALF + column, mask=inside, other=0.0).to(tl.float32)
        key_first = tl.load(key_gain + column, mask=inside, other=0.0).to(tl.float32)
        key_second = tl.load(key_gain + HALF + column, mask=inside, other=0.0).to(tl.float32)
        first = first * scale * tl.where(is_query[:, None], query_first[None, :], key_first[None, :])
        second = second * scale * tl.where(is_query[:, None], query_second[None, :], key_second[None, :])
        # A norm of its own would have rounded here.
        first = first.to(raw_first.dtype).to(tl.float32)
        second = second.to(raw_first.dtype).to(tl.float32)
    turned_first = (first * cos - second * sin).to(raw_first.dtype)
    turned_second = (second * cos + first * sin).to(raw_first.dtype)
    turned_first = tl.where(is_value[:, None], raw_first, turned_first)
    turned_second = tl.where(is_value[:, None], raw_second, turned_second)

    # A block of a layer is [2, kv_heads, block_size, head_dim]: heads of v follow those of k, as in qkv.
    stored = (head < tl.where(used, TOTAL, 0))[:, None] & inside[None, :]
    row = (head - HEADS) * BLOCK_SIZE + position % BLOCK_SIZE
    target = pool + block * block_stride + row[:, None] * HEAD_DIM + column[None, :]
    tl.store(source, turned_first, mask=stored & is_query[:, None])
    tl.store(source + HALF, turned_second, mask=stored & is_query[:, None])
    tl.store(target, _as_stored(turned_first, pool), mask=stored & ~is_query[:, None])
    tl.store(target + HALF, _as_stored(turned_second, pool), mask=stored & ~is_query[:, None])


def rotary_table(
    inverse_frequencies: Sequence[float], max_positions: int, device: torch.device
) -> torch.Tensor:
    """Cosines, then sines, of the angles of each position; made once.

    Args:
        inverse_frequencies: radians per position of the head_dim / 2 pairs.
        max_positions: positions run from 0 to this.
        device: where to make it.

    Returns:
        [max_positions, head_dim] float32.
    """
    positions = torch.arange(max_positions, dtype=torch.float32, device=device)
    angles = positions[:, None] * torch.tensor(inverse_frequencies, dtype=torch.float32, device=device)
    return torch.cat((angles.cos(), angles.sin()), 1)


@functools.cache
def _launch_of(heads: int, kv_heads: int, head_dim: int, block_size: int) -> Launch:
    half_block = triton.next_power_of_2(head_dim // 2)
    total = heads + 2 * kv_heads
    warp_pairs = 32 * _PAIRS_PER_THREAD
    group = min(_MAX_WARPS * warp_pairs // half_block, triton.next_power_of_2(total))
    constants = {
        "HEADS": heads,
        "KV_HEADS": kv_heads,
        "HEAD_DIM": head_dim,
        "BLOCK_SIZE": block_size,
        "GROUPS": triton.cdiv(total, group),
        "GROUP": group,
        "HALF_BLOCK": half_block,
    }
    return Launch(constants, max(1, group * half_block // warp_pairs), 1)


def rotate_and_store(
    qkv: torch.Tensor,
    norms: HeadNorms | None,
    eps: float,
    rotary: torch.Tensor,
    plan: DevicePlan,
    pool_layer: torch.Tensor,
    heads: int,
) -> None:
    """Norm and rotate q in place; norm, rotate and store k; store v.

    The norm is rounded to the dtype before rotation, and the rotated once, as by two operations.
    Nothing is done for tokens whose position is negative.

    Args:
        qkv: [tokens, (heads + 2 * kv_heads) * head_dim], contiguous: heads of q, then of k, then of v.
            The q part is overwritten.
        norms: weights of the norms of q and k, where the model has them.
        eps: of these norms.
        rotary: what `rotary_table` made.
        plan: its positions, slots and tables are used.
        pool_layer: [blocks, 2, kv_heads, block_size, head_dim], a layer of the KV pool; whatever the
            stride of blocks, each is contiguous. In the dtype of `qkv`, or in float8 (e4m3), whose range
            ends at 448: what is beyond it is stored as that.
        heads: of q.

    Raises:
        ValueError: `qkv` or a block is not contiguous.
    """
    _, _, kv_heads, block_size, head_dim = pool_layer.shape
    if not (qkv.is_contiguous() and pool_layer[0].is_contiguous()):
        raise ValueError("rotate_and_store was given a qkv or a KV block that is not contiguous.")
    launch = _launch_of(heads, kv_heads, head_dim, block_size)
    query_gain, key_gain = norms or (None, None)
    launch(
        _rotate_and_store_kernel, (len(qkv) * launch.constants["GROUPS"],),
        qkv, pool_layer, rotary, plan.positions, plan.slots, plan.tables, plan.tables.stride(0),
        pool_layer.stride(0), query_gain, key_gain, eps,
    )  # fmt: skip


def variants() -> Iterator[Variant]:
    """Every way in which the models' heads are rotated."""
    for kind in TRITON_DTYPES.values():
        for shape, stored in itertools.product(MODEL_SHAPES, (kind, kv_kind(FLOAT8))):
            launch = _launch_of(shape.heads, shape.kv_heads, shape.head_dim, _BLOCK_SIZE_TOKENS)
            constants, warps = launch.constants.copy(), launch.num_warps
            pointer = f"*{kind}"
            gain = pointer if shape.qk_norm else "constexpr"
            signature = {
                "qkv": pointer,
                "pool": f"*{stored}",
                "rotary": "*fp32",
                "positions": "*i32",
                "slots": "*i32",
                "tables": "*i32",
                "table_stride": "i32",
                "block_stride": "i32:16",
                "query_gain": gain,
                "key_gain": gain,
                "eps": "fp32",
                **dict.fromkeys(constants, "constexpr"),
            }
            if not shape.qk_norm:
                constants |= {"query_gain": None, "key_gain": None}
            heads = f"heads={shape.heads}/{shape.kv_heads} head_dim={shape.head_dim}"
            name = f"rotate_and_store {kind} {heads}{' norms' if shape.qk_norm else ''}"
            core = kind == "bf16" and shape.core
            variant = Variant(name, _rotate_and_store_kernel, signature, constants, warps, 1, core)
            if stored != kind:
                variant = replace(variant, name=f"{name} kv={stored}", capabilities=FLOAT8_CAPABILITIES)
            yield variant
