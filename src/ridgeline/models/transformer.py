"""The forward pass of the Llama family, over a batch of tokens of many sequences."""

from typing import Any

import torch
import torch.nn.functional as F

from ridgeline.kernels.interface import AttentionSpec, Kernels, KVShape
from ridgeline.models.config import ModelConfig
from ridgeline.models.weights import PreparedWeights


class Transformer:
    """A model with its KV cache.

    Args:
        config: decides biases, norms and rotary frequencies; see `ModelConfig`.
        weights: of the same model and prepared by the same kernels.
        kernels: the operations.
        blocks: size of the KV cache.
        block_size_tokens: positions in a block.
        max_positions: longest context that will be computed, in tokens; None is the model's own.
        kv_dtype: of the KV cache; None is that of the weights.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: PreparedWeights,
        kernels: Kernels,
        *,
        blocks: int,
        block_size_tokens: int,
        max_positions: int | None = None,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        self.config = config
        self.dtype = weights.embedding.dtype
        self._weights = weights
        self._kernels = kernels
        self.kv_shape = KVShape(
            config.layers,
            config.kv_heads,
            config.head_dim,
            blocks,
            block_size_tokens,
            kv_dtype or self.dtype,
        )
        self.attention = kernels.paged_attention(
            AttentionSpec(
                self.kv_shape,
                config.heads,
                max_positions or config.max_context,
                config.rope_inverse_frequencies(),
                config.rms_norm_eps,
                config.windows,
                self.dtype,
            )
        )

    def forward(self, token_ids: torch.Tensor, plan: Any) -> torch.Tensor:
        """Compute a step's tokens and store their K and V.

        Args:
            token_ids: [tokens], integers, on the weights' device.
            plan: what `attention.plan` made of the step's batch.

        Returns:
            [tokens, hidden], normed: what `logits` takes (or some rows of it).
        """
        weights, kernels, eps = self._weights, self._kernels, self.config.rms_norm_eps
        residual = F.embedding(token_ids, weights.embedding)
        normed = kernels.rms_norm(residual, weights.layers[0].input_norm, eps)
        next_norms = [*(layer.input_norm for layer in weights.layers[1:]), weights.norm]
        for index, (layer, next_norm) in enumerate(zip(weights.layers, next_norms, strict=True)):
            attended = self.attention.attend(index, layer.qkv(normed), layer.head_norms, plan)
            normed = kernels.add_rms_norm(residual, layer.output(attended), layer.post_attention_norm, eps)
            normed = kernels.add_rms_norm(residual, layer.down(layer.gate_up(normed)), next_norm, eps)
        return normed

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the token after each row: [rows, hidden] to float32 [rows, vocab]."""
        return self._weights.head(hidden)
