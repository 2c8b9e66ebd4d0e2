"""The set of kernels for an NVIDIA GPU."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ridgeline.kernels.cuda.attention import Partials, attend, chunk_queries, context_align
from ridgeline.kernels.cuda.linear import gated_linear, head, linear
from ridgeline.kernels.cuda.norm import add_rms_norm, rms_norm
from ridgeline.kernels.cuda.plan import DevicePlan, Work
from ridgeline.kernels.cuda.rotary import rotary_table, rotate_and_store
from ridgeline.kernels.cuda.units import Units, decode_capacity, decode_units, prefill_units
from ridgeline.kernels.interface import AttentionSpec, Batch, Chunk, HeadNorms, Integers, Linear

_CHUNK_PART_TOKENS = 1024
"""Contexts of chunks are cut at multiples of this: a shorter part would not pay for its merging."""


@dataclass(frozen=True, slots=True)
class GpuLimits:
    """What launches are fitted to.

    Attributes:
        processors: multiprocessors.
        shared_memory_bytes: most that one program may have.
    """

    processors: int
    shared_memory_bytes: int


class CudaAttention:
    """See `PagedAttention`. KV in [blocks, layers, 2, kv_heads, block_size, head_dim].

    All layers of a block lie together, so that moving a block is one copy. Memory that no
    sequence has written is never read: it may hold anything.

    Args:
        spec: of the model.
        device: where.
        limits: of the device.
        max_tiles: most single tokens in a step.
    """

    def __init__(self, spec: AttentionSpec, device: torch.device, limits: GpuLimits, max_tiles: int) -> None:
        self._spec, self._limits = spec, limits
        kv = spec.kv
        size = (kv.blocks, kv.layers, 2, kv.kv_heads, kv.block_size_tokens, kv.head_dim)
        self.pool = torch.empty(size, dtype=kv.dtype, device=device)
        # Copied as integers: not every operation knows every dtype that K and V are stored in.
        self._contents = self.pool.flatten(1).view(torch.int32)
        self._layers = [self.pool[:, layer] for layer in range(kv.layers)]
        self._rotary = rotary_table(spec.inverse_frequencies, spec.max_positions, device)
        windows = [spec.window(layer) for layer in range(kv.layers)]
        self._widest = None if None in windows else max(w for w in windows if w is not None)
        self._align = context_align(spec, singles=True)
        self._chunk_align = math.lcm(context_align(spec, singles=False), _CHUNK_PART_TOKENS)
        self.chunk_queries = chunk_queries(spec, limits.shared_memory_bytes)
        """Queries in a tile of a chunk."""
        self._partials = Partials(spec, decode_capacity(max_tiles, kv.kv_heads, limits.processors), device)

    def single_units(self, contexts: Integers, slots: Integers, tiles: int) -> Units:
        """Units of single tokens, as many as any step of so many `tiles` has."""
        heads = self._spec.kv.kv_heads
        return decode_units(
            contexts,
            slots,
            tiles=tiles,
            capacity=decode_capacity(tiles, heads, self._limits.processors),
            align=self._align,
            window=self._widest,
        )

    def chunk_units(self, chunks: Sequence[Chunk]) -> Units:
        """Units of chunks."""
        return prefill_units(
            chunks,
            tile_queries=self.chunk_queries,
            align=self._chunk_align,
            kv_heads=self._spec.kv.kv_heads,
            processors=self._limits.processors,
            window=self._widest,
        )

    def plan(self, batch: Batch) -> DevicePlan:
        """See `PagedAttention.plan`; the tables are brought to the device with it."""
        singles = len(batch.contexts)
        tables = [*batch.tables, *(chunk.blocks for chunk in batch.chunks)]
        width = max(len(table) for table in tables)
        rows = np.zeros((len(tables), width), dtype=np.int32)
        for row, table in zip(rows, tables, strict=True):
            row[: len(table)] = table
        slots = np.arange(singles)
        works = []
        if singles:
            units = self.single_units(batch.contexts, slots, singles)
            works.append(self._work(units, 1))
        owners = [slots]
        chunks = []
        for i, chunk in enumerate(batch.chunks):
            slot = singles + i
            owners.append(np.full(chunk.tokens, slot))
            chunks.append(Chunk(chunk.first, chunk.tokens, chunk.start, chunk.blocks, slot))
        if chunks:
            works.append(self._work(self.chunk_units(chunks), self.chunk_queries))
        return DevicePlan(
            self._ints(batch.positions), self._ints(np.concatenate(owners)), self._ints(rows), tuple(works)
        )

    def _work(self, units: Units, queries: int) -> Work:
        return Work(self._ints(units.units), self._ints(units.tiles), queries, units.merges)

    def _ints(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int32)).to(self.pool.device)

    def attend(
        self, layer: int, qkv: torch.Tensor, norms: HeadNorms | None, plan: DevicePlan
    ) -> torch.Tensor:
        """See `PagedAttention.attend`."""
        spec, pool = self._spec, self._layers[layer]
        rotate_and_store(qkv, norms, spec.norm_eps, self._rotary, plan, pool, spec.heads)
        return attend(qkv, pool, plan, spec.heads, spec.window(layer), self._partials)

    def clean(self, blocks: Integers) -> None:
        """See `PagedAttention.clean`: nothing to do where only what was written is read."""

    def read_blocks(self, blocks: torch.Tensor) -> torch.Tensor:
        """See `PagedAttention.read_blocks`."""
        return self._contents.index_select(0, blocks).view(torch.uint8)

    def write_blocks(self, blocks: torch.Tensor, contents: torch.Tensor) -> None:
        """See `PagedAttention.write_blocks`."""
        self._contents.index_copy_(0, blocks, contents.view(torch.int32))


class CudaKernels:
    """See `Kernels`.

    Args:
        device: where the operands are.
        limits: of the device.
        max_tiles: most single tokens in a step.
    """

    def __init__(self, device: torch.device, limits: GpuLimits, max_tiles: int, name: str = "cuda") -> None:
        self.name = name
        self._device, self._limits, self._max_tiles = device, limits, max_tiles

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """See `Kernels.linear`."""
        return linear(weight, bias, self._limits.shared_memory_bytes)

    def gated_linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """See `Kernels.gated_linear`."""
        return gated_linear(weight, bias, self._limits.shared_memory_bytes)

    def head(self, weight: torch.Tensor) -> Linear:
        """See `Kernels.head`."""
        return head(weight, self._limits.shared_memory_bytes)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See `Kernels.rms_norm`."""
        return rms_norm(x, weight, eps)

    def add_rms_norm(
        self, residual: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """See `Kernels.add_rms_norm`."""
        return add_rms_norm(residual, x, weight, eps)

    def paged_attention(self, spec: AttentionSpec) -> CudaAttention:
        """See `Kernels.paged_attention`."""
        return CudaAttention(spec, self._device, self._limits, self._max_tiles)
