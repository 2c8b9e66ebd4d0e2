"""The operations written plainly, one token at a time: what the fast ones are compared with."""

import torch

from ridgeline.kernels.interface import AttentionSpec, Batch, HeadNorms, Integers, Linear
from ridgeline.kernels.pools import read_blocks, write_blocks


class ReferenceAttention:
    """KV in [layers, blocks, block_size, 2 * kv_heads, head_dim]; float32 softmax, no batching."""

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec
        kv = spec.kv
        self.pool = torch.zeros(
            (kv.layers, kv.blocks, kv.block_size_tokens, 2 * kv.kv_heads, kv.head_dim), dtype=kv.dtype
        )

    def plan(self, batch: Batch) -> list[tuple[Integers, int]]:
        """Block table and context of each token."""
        rows = [(table, int(context)) for table, context in zip(batch.tables, batch.contexts, strict=True)]
        for chunk in batch.chunks:
            rows += [(chunk.blocks, chunk.start + i + 1) for i in range(chunk.tokens)]
        return rows

    def attend(
        self, layer: int, qkv: torch.Tensor, norms: HeadNorms | None, plan: list[tuple[Integers, int]]
    ) -> torch.Tensor:
        """See `PagedAttention.attend`."""
        spec, kv = self.spec, self.spec.kv
        heads = qkv.view(len(qkv), spec.heads + 2 * kv.kv_heads, kv.head_dim)
        query, key, value = heads.tensor_split((spec.heads, spec.heads + kv.kv_heads), dim=1)
        if norms is not None:
            query = rms_norm(query, norms.query, spec.norm_eps)
            key = rms_norm(key, norms.key, spec.norm_eps)
        positions = torch.tensor([context - 1 for _, context in plan])
        query, key = (rope(x, positions, spec.inverse_frequencies) for x in (query, key))
        key_value = torch.cat((key, value), 1)
        for (table, context), row in zip(plan, key_value, strict=True):
            block, offset = divmod(context - 1, kv.block_size_tokens)
            self.pool[layer, int(table[block]), offset] = row
        window = spec.window(layer)
        outputs = []
        for (table, context), q in zip(plan, query, strict=True):
            used = torch.from_numpy(table[: -(-context // kv.block_size_tokens)])
            seen = slice(0 if window is None else max(0, context - window), context)
            stored = self.pool[layer, used].flatten(0, 1)[seen].float()
            keys, values = stored.repeat_interleave(spec.heads // kv.kv_heads, dim=1).chunk(2, dim=1)
            scores = torch.einsum("hd,thd->ht", q.float(), keys) * kv.head_dim**-0.5
            outputs.append(torch.einsum("ht,thd->hd", scores.softmax(-1), values).flatten())
        return torch.stack(outputs).to(qkv.dtype)

    def clean(self, blocks: Integers) -> None:
        """See `PagedAttention.clean`."""
        for block in blocks:
            self.pool[:, int(block)].nan_to_num_()

    def read_blocks(self, blocks: torch.Tensor) -> torch.Tensor:
        """See `PagedAttention.read_blocks`."""
        return read_blocks(self.pool, blocks)

    def write_blocks(self, blocks: torch.Tensor, contents: torch.Tensor) -> None:
        """See `PagedAttention.write_blocks`."""
        write_blocks(self.pool, blocks, contents)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See `Kernels.rms_norm`."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight.float()).to(x.dtype)


def rope(x: torch.Tensor, positions: torch.Tensor, inverse_frequencies: tuple[float, ...]) -> torch.Tensor:
    """Rotate pairs (i, i + head_dim / 2) of [tokens, heads, head_dim]; angles in float32."""
    angles = positions.float()[:, None, None] * torch.tensor(inverse_frequencies)
    cos, sin = angles.cos(), angles.sin()
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


class ReferenceKernels:
    """Plain torch in float32 inside, rounded to the input's dtype at the end of each operation."""

    name = "reference"

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """See `Kernels.linear`."""

        def product(x: torch.Tensor) -> torch.Tensor:
            y = x.float() @ weight.float().T
            return (y if bias is None else y + bias.float()).to(x.dtype)

        return product

    def head(self, weight: torch.Tensor) -> Linear:
        """See `Kernels.head`."""
        return lambda x: x.float() @ weight.float().T

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See `Kernels.rms_norm`."""
        return rms_norm(x, weight, eps)

    def add_rms_norm(
        self, residual: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """See `Kernels.add_rms_norm`."""
        residual += x
        return rms_norm(residual, weight, eps)

    def gated_linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """See `Kernels.gated_linear`."""
        product = self.linear(weight, bias)
        return lambda x: self.silu_mul(product(x))

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """`silu(gate) * up` of [tokens, 2 * ffn], gate before up: [tokens, ffn]."""
        gate, up = gate_up.float().chunk(2, -1)
        return (gate * torch.sigmoid(gate) * up).to(gate_up.dtype)

    def paged_attention(self, spec: AttentionSpec) -> ReferenceAttention:
        """See `Kernels.paged_attention`."""
        return ReferenceAttention(spec)
