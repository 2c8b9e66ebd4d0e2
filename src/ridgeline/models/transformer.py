"""The forward pass of the Llama family, over a batch of tokens of many sequences."""

import torch
import torch.nn.functional as F

from ridgeline.kernels.interface import Batch, Kernels, KVShape
from ridgeline.models.config import ModelConfig
from ridgeline.models.weights import Layer, PreparedWeights


class Transformer:
    """A model with its KV cache.

    Args:
        config: decides biases, norms and rotary frequencies; see `ModelConfig`.
        weights: of the same model and prepared by the same kernels.
        kernels: the operations.
        blocks: size of the KV cache.
        block_size_tokens: positions in a block.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: PreparedWeights,
        kernels: Kernels,
        *,
        blocks: int,
        block_size_tokens: int,
    ) -> None:
        self.config = config
        self.dtype = weights.embedding.dtype
        self._weights = weights
        self._kernels = kernels
        self.kv_shape = KVShape(
            config.layers, config.kv_heads, config.head_dim, blocks, block_size_tokens, self.dtype
        )
        self.attention = kernels.paged_attention(self.kv_shape)
        self._frequencies = torch.tensor(config.rope_inverse_frequencies(), dtype=torch.float32)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Compute a step's tokens and store their K and V.

        Returns:
            [tokens, hidden], what `logits` takes (or some rows of it).
        """
        weights, kernels, eps = self._weights, self._kernels, self.config.rms_norm_eps
        plan = self.attention.plan(batch)
        rotation = self._rotation(torch.from_numpy(batch.positions))
        hidden = F.embedding(torch.from_numpy(batch.token_ids), weights.embedding)
        for index, layer in enumerate(weights.layers):
            normed = kernels.rms_norm(hidden, layer.input_norm, eps)
            query, key_value = self._query_key_value(layer, normed, rotation)
            hidden += layer.output(self.attention.attend(index, query, key_value, plan))
            normed = kernels.rms_norm(hidden, layer.post_attention_norm, eps)
            hidden += layer.down(kernels.silu_mul(layer.gate_up(normed)))
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the token after each row: [rows, hidden] to float32 [rows, vocab]."""
        normed = self._kernels.rms_norm(hidden, self._weights.norm, self.config.rms_norm_eps)
        return self._weights.head(normed).float()

    def _query_key_value(
        self, layer: Layer, normed: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        config, kernels = self.config, self._kernels
        heads = layer.qkv(normed).view(-1, config.heads + 2 * config.kv_heads, config.head_dim)
        turning = config.heads + config.kv_heads
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = heads[:, : config.heads], heads[:, config.heads : turning]
            queries.copy_(kernels.rms_norm(queries, layer.query_norm, config.rms_norm_eps))
            keys.copy_(kernels.rms_norm(keys, layer.key_norm, config.rms_norm_eps))
        rotated = heads[:, :turning]
        rotated.copy_(kernels.rope(rotated, *rotation))
        return heads[:, : config.heads], heads[:, config.heads :]

    def _rotation(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and signed sine as `Kernels.rope` takes them, of float32 angles."""
        angles = positions.to(torch.float32)[:, None] * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        wide_cos = torch.cat((cos, cos), -1).unsqueeze(1)
        wide_sin = torch.cat((-sin, sin), -1).unsqueeze(1)
        return wide_cos.to(self.dtype), wide_sin.to(self.dtype)
