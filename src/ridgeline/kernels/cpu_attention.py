"""Paged attention on a CPU: gather the blocks in use, then plain matrix products.

Layout of a layer: [blocks, 2 (K, V), kv_heads, block_size, head_dim]. Seen as rows of
block_size * head_dim elements, one `index_select` with an index of [2, singles, kv_heads, blocks]
yields K and V as contiguous [singles, kv_heads, positions, head_dim]: it copies only what the
step's contexts hold, however large the pool is.

Single tokens: one batched product per KV head with the query heads of its group as rows (a call
of `scaled_dot_product_attention` with one query and grouped heads is 80 times slower). Chunks: the
flash kernel of `scaled_dot_product_attention`, KV heads as its batch and the group as its heads,
so that K and V need not be repeated.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ridgeline.kernels.interface import AttentionSpec, Batch, Chunk, HeadNorms, Integers, KVShape
from ridgeline.kernels.pools import read_blocks, write_blocks

_WASTE_BLOCKS = 64
"""Padding worth one more group: a group costs about 50 us per layer, a padded block about 0.8."""

_GATHER_BYTES = 16 * 2**20
"""Most K and V of a layer copied at a time: it stays in the cache until it is multiplied."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring single tokens computed together, padded to the longest of them.

    Attributes:
        first: index of the first in the batch.
        count: how many.
        gather: [2 * count * kv_heads * blocks], rows of the pool.
        masks: by window, [count * kv_heads, 1, positions], 0 or -inf; None if nothing is hidden.
    """

    first: int
    count: int
    gather: torch.Tensor
    masks: dict[int | None, torch.Tensor | None]


@dataclass(frozen=True, slots=True)
class _ChunkPlan:
    """A chunk; `gather` is None if nothing stands before it.

    masks: by window, [tokens, context], 0 or -inf; None where it is plainly causal.
    """

    first: int
    tokens: int
    context: int
    gather: torch.Tensor | None
    masks: dict[int | None, torch.Tensor | None]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all layers of a step share.

    Attributes:
        rotation: cosine and signed sine of each token, both [tokens, 1, head_dim].
        write: [tokens * 2 * kv_heads], rows of head_dim in the pool.
        groups: of single tokens.
        chunks: in the order of the batch.
    """

    rotation: tuple[torch.Tensor, torch.Tensor]
    write: torch.Tensor
    groups: tuple[_Group, ...]
    chunks: tuple[_ChunkPlan, ...]


def group_bounds(blocks: Integers, most: int) -> list[tuple[int, int]]:
    """Cut a descending list of block counts into ranges [first, end) to be padded alike.

    A new range begins where all that is left would carry more than `_WASTE_BLOCKS` of padding, or
    where the range would hold more than `most` blocks (a sequence alone may).
    """
    bounds, first, total = [], 0, len(blocks)
    while first < total:
        waste = (blocks[first] - blocks[first:]) * np.arange(total - first, 0, -1)
        over = np.flatnonzero(waste > _WASTE_BLOCKS)
        end = first + int(over[0]) if len(over) else total
        end = min(end, first + max(1, most // int(blocks[first])))
        bounds.append((first, end))
        first = end
    return bounds


def _zeros(shape: KVShape) -> torch.Tensor:
    """Zeros that take memory only when written (calloc); torch's own would touch all of it.

    They must be numbers: positions masked out are multiplied by 0, and 0 * nan is nan.
    """
    size = (shape.layers, shape.blocks, 2, shape.kv_heads, shape.block_size_tokens * shape.head_dim)
    integer = {2: np.uint16, 4: np.uint32}[shape.dtype.itemsize]
    return torch.from_numpy(np.zeros(size, dtype=integer)).view(shape.dtype)


class CpuAttention:
    """See the head of this file, and `PagedAttention`."""

    def __init__(self, spec: AttentionSpec) -> None:
        self._spec = spec
        self._shape = shape = spec.kv
        self._scale = shape.head_dim**-0.5
        self._frequencies = torch.tensor(spec.inverse_frequencies, dtype=torch.float32)
        self._windows = tuple(dict.fromkeys(spec.window(layer) for layer in range(shape.layers)))
        self._pool = _zeros(shape)
        rows = (shape.blocks * 2 * shape.kv_heads, shape.block_size_tokens * shape.head_dim)
        self._blocks = [layer.view(rows) for layer in self._pool]
        self._positions = [layer.view(-1, shape.head_dim) for layer in self._pool]
        self._gather_blocks = max(1, _GATHER_BYTES * shape.layers // shape.block_bytes)
        self._heads = np.arange(2 * shape.kv_heads, dtype=np.int64)

    def plan(self, batch: Batch) -> _Plan:
        """See `PagedAttention.plan`."""
        size = self._shape.block_size_tokens
        planes = batch.write_blocks[:, None] * len(self._heads) + self._heads
        write = planes * size + (batch.positions % size)[:, None]
        bounds = group_bounds(-(-batch.contexts // size), self._gather_blocks)
        return _Plan(
            self._rotation(torch.from_numpy(batch.positions)),
            torch.from_numpy(write.reshape(-1)),
            tuple(self._group(batch, first, end) for first, end in bounds),
            tuple(self._chunk(chunk) for chunk in batch.chunks),
        )

    def _rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of float32 angles; both halves of the cosine alike, the sine's first half negated."""
        angles = positions.to(torch.float32)[:, None] * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        wide_cos = torch.cat((cos, cos), -1).unsqueeze(1)
        wide_sin = torch.cat((-sin, sin), -1).unsqueeze(1)
        return wide_cos.to(self._shape.dtype), wide_sin.to(self._shape.dtype)

    def _group(self, batch: Batch, first: int, end: int) -> _Group:
        contexts = batch.contexts[first:end]
        blocks = -(-int(contexts[0]) // self._shape.block_size_tokens)
        positions = np.arange(blocks * self._shape.block_size_tokens)

        def mask(window: int | None) -> torch.Tensor | None:
            hidden = positions >= contexts[:, None]
            if window is not None:
                hidden |= positions < contexts[:, None] - window
            if not hidden.any():
                return None
            return self._minus_infinity(hidden).repeat_interleave(self._shape.kv_heads, 0).unsqueeze(1)

        gather = self._gather_index(batch.tables[first:end, :blocks])
        return _Group(first, end - first, gather, {window: mask(window) for window in self._windows})

    def _gather_index(self, tables: Integers) -> torch.Tensor:
        """Rows that yield [2, sequences, kv_heads, blocks] from tables [sequences, blocks]."""
        planes = self._heads.reshape(2, 1, self._shape.kv_heads, 1)
        return torch.from_numpy((tables[:, None, :] * len(self._heads) + planes).reshape(-1))

    def _chunk(self, chunk: Chunk) -> _ChunkPlan:
        context = chunk.start + chunk.tokens

        def mask(window: int | None) -> torch.Tensor | None:
            if chunk.start == 0 and (window is None or window >= context):
                return None
            query, key = np.arange(chunk.start, context)[:, None], np.arange(context)
            hidden = key > query
            if window is not None:
                hidden |= key <= query - window
            return self._minus_infinity(hidden)

        masks = {window: mask(window) for window in self._windows}
        if chunk.start == 0:
            return _ChunkPlan(chunk.first, chunk.tokens, context, None, masks)
        used = chunk.blocks[: -(-context // self._shape.block_size_tokens)]
        return _ChunkPlan(chunk.first, chunk.tokens, context, self._gather_index(used[None]), masks)

    def _minus_infinity(self, hidden: npt.NDArray[np.bool_]) -> torch.Tensor:
        mask = torch.zeros(hidden.shape, dtype=self._shape.dtype)
        return mask.masked_fill_(torch.from_numpy(hidden), float("-inf"))

    def attend(self, layer: int, qkv: torch.Tensor, norms: HeadNorms | None, plan: _Plan) -> torch.Tensor:
        """See `PagedAttention.attend`."""
        query, key_value = self._query_key_value(qkv, norms, plan.rotation)
        self._positions[layer].index_copy_(0, plan.write, key_value.reshape(-1, self._shape.head_dim))
        output = query.new_empty(query.shape)
        for group in plan.groups:
            end = group.first + group.count
            self._attend_group(layer, query[group.first : end], group, output[group.first : end])
        for chunk in plan.chunks:
            tokens = slice(chunk.first, chunk.first + chunk.tokens)
            output[tokens] = self._attend_chunk(layer, query[tokens], key_value[tokens], chunk)
        return output.flatten(1)

    def _query_key_value(
        self, qkv: torch.Tensor, norms: HeadNorms | None, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        heads, eps = self._spec.heads, self._spec.norm_eps
        rows = qkv.view(len(qkv), heads + 2 * self._shape.kv_heads, self._shape.head_dim)
        if norms is not None:
            queries, keys = rows[:, :heads], rows[:, heads : heads + self._shape.kv_heads]
            queries.copy_(F.rms_norm(queries, norms.query.shape, norms.query, eps))
            keys.copy_(F.rms_norm(keys, norms.key.shape, norms.key, eps))
        turning = rows[:, : heads + self._shape.kv_heads]
        cos, sin = rotation
        turning.copy_((turning * cos).addcmul_(turning.roll(self._shape.head_dim // 2, -1), sin))
        return rows[:, :heads], rows[:, heads:]

    def _attend_group(self, layer: int, query: torch.Tensor, group: _Group, output: torch.Tensor) -> None:
        batch = group.count * self._shape.kv_heads
        stored = self._blocks[layer].index_select(0, group.gather)
        keys, values = stored.view(2, batch, -1, self._shape.head_dim)
        rows = query.reshape(batch, -1, self._shape.head_dim)
        mask = group.masks[self._spec.window(layer)]
        if mask is None:
            scores = torch.bmm(rows, keys.transpose(1, 2)).mul_(self._scale)
        else:
            scores = torch.baddbmm(mask, rows, keys.transpose(1, 2), alpha=self._scale)
        # On bfloat16 this computes in float32 and rounds once at the end.
        torch.bmm(scores.softmax(-1), values, out=output.view(rows.shape))

    def _attend_chunk(
        self, layer: int, query: torch.Tensor, key_value: torch.Tensor, chunk: _ChunkPlan
    ) -> torch.Tensor:
        kv_heads, head_dim = self._shape.kv_heads, self._shape.head_dim
        if chunk.gather is None:
            keys, values = key_value.transpose(0, 1).chunk(2)
        else:
            stored = self._blocks[layer].index_select(0, chunk.gather)
            keys, values = stored.view(2, kv_heads, -1, head_dim)[:, :, : chunk.context]
        heads = query.transpose(0, 1).view(kv_heads, -1, chunk.tokens, head_dim)
        mask = chunk.masks[self._spec.window(layer)]
        attended = F.scaled_dot_product_attention(
            heads,
            keys.unsqueeze(1).expand(-1, heads.shape[1], -1, -1),
            values.unsqueeze(1).expand(-1, heads.shape[1], -1, -1),
            attn_mask=mask,
            is_causal=mask is None,
        )
        return attended.flatten(0, 1).transpose(0, 1)

    def clean(self, blocks: Integers) -> None:
        """See `PagedAttention.clean`."""
        for block in blocks:
            self._pool[:, int(block)].nan_to_num_()

    def read_blocks(self, blocks: torch.Tensor) -> torch.Tensor:
        """See `PagedAttention.read_blocks`."""
        return read_blocks(self._pool, blocks)

    def write_blocks(self, blocks: torch.Tensor, contents: torch.Tensor) -> None:
        """See `PagedAttention.write_blocks`."""
        write_blocks(self._pool, blocks, contents)
