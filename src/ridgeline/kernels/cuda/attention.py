"""Launches of paged attention over a step's plan, and all the ways they are compiled."""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ridgeline.kernels.cuda.attention_kernels import attend_units_kernel, merge_units_kernel
from ridgeline.kernels.cuda.launch import FLOAT8, Launch
from ridgeline.kernels.cuda.plan import TILE_FIELDS, UNIT_FIELDS, DevicePlan, Work
from ridgeline.kernels.cuda.resources import (
    CAPABILITIES,
    FLOAT8_CAPABILITIES,
    FURTHER_CAPABILITIES,
    MODEL_SHAPES,
    SHARED_BYTES,
    TRITON_DTYPES,
    ModelShape,
    Variant,
    kv_kind,
)
from ridgeline.kernels.cuda.tiles import (
    TileShape,
    is_hopper,
    merge_parts,
    most_columns,
    padded_dim,
    shared_bytes_of,
    tile_shape,
)
from ridgeline.kernels.interface import AttentionSpec

_MERGE_WARPS = 4

_BLOCK_SIZE_TOKENS = 16
_WINDOW = 4096
"""Of the variants; launches take what the pool and the layer have."""


class _Buffers(NamedTuple):
    """Row (unit * kv_heads + kv_head) * tile_rows + row, with tile_rows = tile_queries * group.

    Attributes:
        accumulators: [rows, head_dim] float32, values weighted by 2^(score - maximum).
        maxima: [rows] float32, of the scores times log2(e); -inf where nothing was seen.
        totals: [rows] float32, sums of the weights.
    """

    accumulators: torch.Tensor
    maxima: torch.Tensor
    totals: torch.Tensor


class Partials:
    """Room for what units find until it is merged; its contents matter only within a call of `attend`.

    That of single tokens keeps its address, as CUDA graphs need.

    Args:
        spec: of the model.
        units: of single tokens, at most in a step.
        device: that computes.
    """

    def __init__(self, spec: AttentionSpec, units: int, device: torch.device) -> None:
        self._head_dim, self._device = spec.kv.head_dim, device
        self._held = self._allocate(units * spec.heads)

    def _allocate(self, rows: int) -> _Buffers:
        size = (rows, self._head_dim)
        accumulators = torch.empty(size, dtype=torch.float32, device=self._device)
        maxima, totals = torch.empty(2, rows, dtype=torch.float32, device=self._device)
        return _Buffers(accumulators, maxima, totals)

    def buffers(self, rows: int) -> _Buffers:
        """At least `rows`: those held, or for the many that chunks can have, new ones.

        What is held must not be replaced by more: captured graphs know where it is.
        """
        return self._held if rows <= len(self._held.maxima) else self._allocate(rows)


def chunk_queries(spec: AttentionSpec, shared_memory_bytes: int) -> int:
    """Most queries of a chunk in a tile, on a GPU that grants a program so much shared memory."""
    shape = tile_shape(
        spec.kv.head_dim, spec.computed_dtype, shared_memory_bytes, singles=False, kv_dtype=spec.kv.dtype
    )
    return shape.rows // (spec.heads // spec.kv.kv_heads)


def context_align(spec: AttentionSpec, *, singles: bool) -> int:
    """Parts of contexts had best be multiples of so many positions: no GPU computes more at once."""
    columns = most_columns(spec.kv.head_dim, spec.computed_dtype, singles=singles)
    return math.lcm(spec.kv.block_size_tokens, columns)


@functools.cache
def _units_launch(
    group: int,
    kv_heads: int,
    head_dim: int,
    block_size: int,
    window: int | None,
    queries: int,
    shape: TileShape,
) -> Launch:
    constants = {
        "GROUP": group,
        "KV_HEADS": kv_heads,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": padded_dim(head_dim),
        "BLOCK_SIZE": block_size,
        "WINDOW": window,
        "TILE_QUERIES": queries,
        "ROWS": shape.rows,
        "COLUMNS": shape.columns,
        "UNIT_WIDTH": len(UNIT_FIELDS),
    }
    return Launch(constants, shape.num_warps, shape.num_stages)


@functools.cache
def _merge_launch(group: int, kv_heads: int, head_dim: int, queries: int) -> Launch:
    constants = {
        "GROUP": group,
        "KV_HEADS": kv_heads,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": padded_dim(head_dim),
        "TILE_QUERIES": queries,
        "PARTS": merge_parts(head_dim),
        "TILE_WIDTH": len(TILE_FIELDS),
    }
    return Launch(constants, _MERGE_WARPS, 1)


def attend(
    qkv: torch.Tensor,
    pool_layer: torch.Tensor,
    plan: DevicePlan,
    heads: int,
    window: int | None,
    partials: Partials,
) -> torch.Tensor:
    """Attend causally over the contexts; queries are normed and rotated, K and V stored.

    Args:
        qkv: [tokens, (heads + 2 * kv_heads) * head_dim], contiguous; only the heads of q are read.
        pool_layer: [blocks, 2, kv_heads, block_size, head_dim], of which a block is contiguous; in the
            dtype of `qkv`, or in float8 (e4m3).
        plan: of the step.
        heads: query heads.
        window: positions attended to at most, the token itself among them; None for all.
        partials: room for what is to be merged.

    Returns:
        [tokens, heads * head_dim]; undefined for tokens without position.

    Raises:
        ValueError: there is no kernel for such heads, for such tiles or on such a GPU.
    """
    if not (qkv.is_contiguous() and pool_layer[0].is_contiguous()):
        raise ValueError("Attention was asked for of a tensor that is not contiguous.")
    output = qkv.new_empty(len(qkv), heads * pool_layer.shape[-1])
    for work in plan.works:
        _attend_work(qkv, pool_layer, plan.tables, work, window, partials, output)
    return output


def _attend_work(
    qkv: torch.Tensor,
    pool_layer: torch.Tensor,
    tables: torch.Tensor,
    work: Work,
    window: int | None,
    partials: Partials,
    output: torch.Tensor,
) -> None:
    _, _, kv_heads, block_size, head_dim = pool_layer.shape
    group = output.shape[1] // head_dim // kv_heads
    queries, (units, _), (tiles, _) = work.tile_queries, work.units.shape, work.tiles.shape
    shape = tile_shape(
        head_dim,
        qkv.dtype,
        shared_bytes_of(qkv.device),
        singles=queries == 1,
        hopper=window is None and is_hopper(qkv.device),
        kv_dtype=pool_layer.dtype,
    )
    if queries * group > shape.rows:
        raise ValueError(
            f"A tile has {queries} queries of {group} heads; there is room for {shape.rows} rows."
        )
    rows = kv_heads * queries * group
    buffers = partials.buffers(units * rows if work.merges else 0)
    launch = _units_launch(group, kv_heads, head_dim, block_size, window, queries, shape)
    launch(
        attend_units_kernel,
        (kv_heads, units),
        qkv,
        pool_layer,
        tables,
        work.units,
        output,
        *buffers,
        tables.stride(0),
        pool_layer.stride(0),
        head_dim**-0.5 * math.log2(math.e),
    )
    if work.merges:
        launch = _merge_launch(group, kv_heads, head_dim, queries)
        launch(merge_units_kernel, (tiles, rows), work.tiles, *buffers, output)


def variants() -> Iterator[Variant]:
    """Every way in which the models' attention is launched; windows where heads are of a core model.

    Without float8 beside float32: that is for comparing results, and may spill registers.
    """
    for model, dtype, singles in itertools.product(MODEL_SHAPES, TRITON_DTYPES, (True, False)):
        group = model.heads // model.kv_heads
        for window in (None, _WINDOW) if model.core or model.head_dim > 128 else (None,):
            by_shape = _by_shape(model, dtype, dtype, singles, window)
            for shape, capabilities in by_shape.items():
                yield _units_variant(model, dtype, dtype, shape, window, capabilities, singles)
            with_float8 = {} if dtype.itemsize > 2 else _by_shape(model, dtype, FLOAT8, singles, window)
            for shape, capabilities in with_float8.items():
                yield _units_variant(model, dtype, FLOAT8, shape, window, capabilities, singles)
        for queries in {1 if singles else shape.rows // group for shape in by_shape}:
            yield _merge_variant(model, dtype, queries)


def _by_shape(
    model: ModelShape, dtype: torch.dtype, kv_dtype: torch.dtype, singles: bool, window: int | None
) -> dict[TileShape, tuple[int, ...]]:
    """The shapes there are, and the capabilities that each is for."""
    found: dict[TileShape, tuple[int, ...]] = {}
    all_there_are = CAPABILITIES + FURTHER_CAPABILITIES
    for capability in FLOAT8_CAPABILITIES if kv_dtype == FLOAT8 else all_there_are:
        shape = tile_shape(
            model.head_dim,
            dtype,
            SHARED_BYTES[capability],
            singles=singles,
            hopper=window is None and capability == 90,
            kv_dtype=kv_dtype,
        )
        found[shape] = (*found.get(shape, ()), capability)
    return found


def _units_variant(
    model: ModelShape,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    shape: TileShape,
    window: int | None,
    capabilities: tuple[int, ...],
    singles: bool,
) -> Variant:
    kind, group = TRITON_DTYPES[dtype], model.heads // model.kv_heads
    stored = kv_kind(kv_dtype)
    queries = 1 if singles else shape.rows // group
    launch = _units_launch(group, model.kv_heads, model.head_dim, _BLOCK_SIZE_TOKENS, window, queries, shape)
    constants = launch.constants
    signature = {
        "qkv": f"*{kind}",
        "pool": f"*{stored}",
        "tables": "*i32",
        "units": "*i32",
        "output": f"*{kind}",
        "accumulators": "*fp32",
        "maxima": "*fp32",
        "totals": "*fp32",
        "table_stride": "i32",
        "block_stride": "i32:16",
        "scale": "fp32",
        **dict.fromkeys(constants, "constexpr"),
    }
    name = (
        f"attend {'tokens' if singles else 'chunks'} {kind} {_heads_text(model)} "
        f"{'' if stored == kind else f'kv={stored} '}"
        f"tile={shape.rows}x{shape.columns}x{shape.num_stages}{'' if window is None else f' window={window}'}"
    )
    core = model.core and kind == "bf16" and window is None
    return Variant(
        name,
        attend_units_kernel,
        signature,
        constants,
        shape.num_warps,
        shape.num_stages,
        core,
        capabilities,
    )


def _merge_variant(model: ModelShape, dtype: torch.dtype, queries: int) -> Variant:
    kind = TRITON_DTYPES[dtype]
    launch = _merge_launch(model.heads // model.kv_heads, model.kv_heads, model.head_dim, queries)
    constants = launch.constants
    signature = {
        "tiles": "*i32",
        "accumulators": "*fp32",
        "maxima": "*fp32",
        "totals": "*fp32",
        "output": f"*{kind}",
        **dict.fromkeys(constants, "constexpr"),
    }
    name = f"merge {kind} {_heads_text(model)} queries={queries}"
    core = model.core and kind == "bf16" and queries == 1
    return Variant(name, merge_units_kernel, signature, constants, _MERGE_WARPS, 1, core)


def _heads_text(model: ModelShape) -> str:
    return f"heads={model.heads}/{model.kv_heads}x{model.head_dim}"
