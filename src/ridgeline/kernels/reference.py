"""The operations written plainly, one token at a time: what the fast ones are compared with."""

import torch

from ridgeline.kernels.interface import Batch, Integers, KVShape, Linear


class ReferenceAttention:
    """KV in [layers, blocks, block_size, 2 * kv_heads, head_dim]; float32 softmax, no batching."""

    def __init__(self, shape: KVShape) -> None:
        self.shape = shape
        size = (shape.layers, shape.blocks, shape.block_size_tokens, 2 * shape.kv_heads, shape.head_dim)
        self.pool = torch.zeros(size, dtype=shape.dtype)

    def plan(self, batch: Batch) -> list[tuple[Integers, int]]:
        """Block table and context of each token."""
        rows = [(table, int(context)) for table, context in zip(batch.tables, batch.contexts, strict=True)]
        for chunk in batch.chunks:
            rows += [(chunk.blocks, chunk.start + i + 1) for i in range(chunk.tokens)]
        return rows

    def attend(
        self, layer: int, query: torch.Tensor, key_value: torch.Tensor, plan: list[tuple[Integers, int]]
    ) -> torch.Tensor:
        """See `PagedAttention.attend`."""
        shape = self.shape
        for (table, context), row in zip(plan, key_value, strict=True):
            block, offset = divmod(context - 1, shape.block_size_tokens)
            self.pool[layer, int(table[block]), offset] = row
        outputs = []
        for (table, context), q in zip(plan, query, strict=True):
            used = torch.from_numpy(table[: -(-context // shape.block_size_tokens)])
            stored = self.pool[layer, used].flatten(0, 1)[:context].float()
            group = q.shape[0] // shape.kv_heads
            keys, values = stored.repeat_interleave(group, dim=1).chunk(2, dim=1)
            scores = torch.einsum("hd,thd->ht", q.float(), keys) * shape.head_dim**-0.5
            outputs.append(torch.einsum("ht,thd->hd", scores.softmax(-1), values).flatten())
        return torch.stack(outputs).to(query.dtype)

    def clean(self, blocks: Integers) -> None:
        """See `PagedAttention.clean`."""
        for block in blocks:
            self.pool[:, int(block)].nan_to_num_()


class ReferenceKernels:
    """Plain torch in float32 inside, rounded to the input's dtype at the end of each operation."""

    name = "reference"

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """See `Kernels.linear`."""

        def product(x: torch.Tensor) -> torch.Tensor:
            y = x.float() @ weight.float().T
            return (y if bias is None else y + bias.float()).to(x.dtype)

        return product

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See `Kernels.rms_norm`."""
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return (wide * scale * weight.float()).to(x.dtype)

    def rope(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """See `Kernels.rope`."""
        first, second = x.float().chunk(2, -1)
        swapped = torch.cat((second, first), -1)
        return (x.float() * cos.float() + swapped * sin.float()).to(x.dtype)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `Kernels.silu_mul`."""
        gate, up = gate_up.float().chunk(2, -1)
        return (gate * torch.sigmoid(gate) * up).to(gate_up.dtype)

    def paged_attention(self, shape: KVShape) -> ReferenceAttention:
        """See `Kernels.paged_attention`."""
        return ReferenceAttention(shape)
