"""Kernels that count: operations from the sizes of operands, bytes of weights and of K and V.

Knows nothing of `roofline`. Activations are not counted, nor the additions of biases and norms; see
the head of `roofline/cost.py`.
"""

from dataclasses import dataclass
from typing import Any

import torch

from ridgeline.kernels.interface import AttentionSpec, Batch, HeadNorms, Linear


@dataclass
class Count:
    """Of all calls so far."""

    flops: int = 0
    bytes: int = 0


def size_of(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()


class CountingKernels:
    """Passes everything on to other kernels, and counts."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.name = inner.name
        self.count = Count()

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        return self._counted(self._inner.linear(weight, bias), weight, bias)

    def gated_linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        return self._counted(self._inner.gated_linear(weight, bias), weight, bias)

    def head(self, weight: torch.Tensor) -> Linear:
        return self._counted(self._inner.head(weight), weight, None)

    def _counted(self, product: Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        elements, moved = weight.numel(), size_of(weight) + size_of(bias)

        def counted(x: torch.Tensor) -> torch.Tensor:
            self.count.flops += 2 * len(x) * elements
            self.count.bytes += moved
            return product(x)

        return counted

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        self.count.bytes += size_of(weight)
        return self._inner.rms_norm(x, weight, eps)

    def add_rms_norm(
        self, residual: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        self.count.bytes += size_of(weight)
        return self._inner.add_rms_norm(residual, x, weight, eps)

    def embedding(self, token_ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Stands in for `F.embedding`, which is no kernel."""
        rows = table[token_ids]
        self.count.bytes += size_of(rows)
        return rows

    def paged_attention(self, spec: AttentionSpec) -> "CountingAttention":
        return CountingAttention(self._inner.paged_attention(spec), spec, self.count)


class CountingAttention:
    """Counts, position by position, what each layer attends to."""

    def __init__(self, inner: Any, spec: AttentionSpec, count: Count) -> None:
        self._inner, self._spec, self._count = inner, spec, count

    def plan(self, batch: Batch) -> tuple[Batch, Any]:
        return batch, self._inner.plan(batch)

    def attend(self, layer: int, qkv: torch.Tensor, norms: HeadNorms | None, plan: Any) -> torch.Tensor:
        batch, inner = plan
        spec, kv = self._spec, self._spec.kv
        position_bytes = 2 * kv.kv_heads * kv.head_dim * kv.dtype.itemsize
        per_pair = 2 * 2 * spec.heads * kv.head_dim  # a product with K and one with V
        window = spec.window(layer) or 10**9
        spans = [(context - 1, 1) for context in batch.contexts.tolist()]
        spans += [(chunk.start, chunk.tokens) for chunk in batch.chunks]
        for start, tokens in spans:
            seen = [range(max(0, at + 1 - window), at + 1) for at in range(start, start + tokens)]
            self._count.flops += per_pair * sum(map(len, seen))
            cached = {position for positions in seen for position in positions if position < start}
            self._count.bytes += position_bytes * (len(cached) + tokens)
        if norms is not None:
            self._count.bytes += size_of(norms.query) + size_of(norms.key)
        return self._inner.attend(layer, qkv, norms, inner)

    def clean(self, blocks: Any) -> None:
        self._inner.clean(blocks)
