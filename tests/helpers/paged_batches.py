"""Batches over a paged cache, and a set of kernels beside the plain one."""

import numpy as np
import torch

from ridgeline.kernels.interface import (
    AttentionSpec,
    Batch,
    Chunk,
    HeadNorms,
    Kernels,
    KVShape,
    PagedAttention,
)
from ridgeline.kernels.reference import ReferenceKernels

BLOCK_SIZE = 16


def attention_spec(
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    *,
    blocks: int = 64,
    windows: tuple[int | None, ...] = (None, None),
    max_positions: int = 1024,
) -> AttentionSpec:
    """One layer per entry of `windows`."""
    frequencies = tuple(10000.0 ** (-2 * i / head_dim) for i in range(head_dim // 2))
    shape = KVShape(len(windows), kv_heads, head_dim, blocks, BLOCK_SIZE, dtype)
    return AttentionSpec(shape, heads, max_positions, frequencies, 1e-6, windows)


class Sequences:
    """Sequences with blocks scattered over a pool, of which every step computes some tokens."""

    def __init__(self, contexts: list[int], blocks: int) -> None:
        order = np.random.default_rng(0).permutation(blocks).astype(np.int64)
        width = max(-(-context // BLOCK_SIZE) for context in contexts)
        self.tables = np.zeros((len(contexts), width), dtype=np.int64)
        for i, context in enumerate(contexts):
            used = -(-context // BLOCK_SIZE)
            self.tables[i, :used], order = order[:used], order[used:]

    def batch(self, singles: dict[int, int], chunks: dict[int, tuple[int, int]]) -> Batch:
        """singles: position by sequence; chunks: (start, tokens) by sequence."""
        ordered = sorted(singles.items(), key=lambda item: -item[1])
        rows = [(sequence, position) for sequence, position in ordered]
        parts = []
        for sequence, (start, tokens) in chunks.items():
            parts.append(Chunk(len(rows), tokens, start, self.tables[sequence], sequence))
            rows += [(sequence, position) for position in range(start, start + tokens)]
        sequences, positions = np.array(rows, dtype=np.int64).T
        return Batch(
            np.zeros_like(positions),
            positions,
            sequences,
            self.tables[sequences, positions // BLOCK_SIZE],
            self.tables[[sequence for sequence, _ in ordered]],
            np.array([position + 1 for _, position in ordered], dtype=np.int64),
            tuple(parts),
        )


def attend_both(
    kernels: Kernels, spec: AttentionSpec, steps: list[Batch], *, normed: bool = False
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Output of each step and layer, by `kernels` and by the plain ones."""
    kv = spec.kv
    caches: list[PagedAttention] = [k.paged_attention(spec) for k in (kernels, ReferenceKernels())]
    norms = HeadNorms(*(1 + 0.2 * torch.randn(2, kv.head_dim)).to(kv.dtype)) if normed else None
    pairs = []
    for batch in steps:
        width = (spec.heads + 2 * kv.kv_heads) * kv.head_dim
        for layer in range(kv.layers):
            qkv = torch.randn(len(batch.positions), width).to(kv.dtype)
            got, wanted = (c.attend(layer, qkv.clone(), norms, c.plan(batch)) for c in caches)
            pairs.append((got, wanted))
    return pairs
