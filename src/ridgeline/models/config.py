"""What a model is, in numbers."""

import math
from dataclasses import dataclass
from typing import Literal

from ridgeline.roofline.shape import ModelShape

Architecture = Literal["llama", "mistral", "qwen2", "qwen3"]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are changed for contexts longer than those first trained on.

    Attributes:
        kind: `linear` divides every frequency by `factor`; `llama3` divides only the slow ones,
            with a smooth passage between; `factors` divides each by its own entry of `factors`.
        factor: for `linear` and `llama3`.
        low_freq_factor: wavelengths above `original_max_context / low_freq_factor` are divided.
        high_freq_factor: wavelengths below `original_max_context / high_freq_factor` are kept.
        original_max_context: tokens of the first training, for `llama3`.
        factors: `head_dim / 2` divisors, as GGUF files carry them.
    """

    kind: Literal["linear", "llama3", "factors"]
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_context: int = 8192
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A dense decoder-only transformer of the Llama family. Tensors are named as Hugging Face's.

    Attributes:
        architecture: decides defaults only; the forward pass follows the fields below.
        hidden: width of the residual stream.
        layers: transformer blocks.
        heads: query heads.
        kv_heads: key and value heads, divides `heads`.
        head_dim: width of a head; `heads * head_dim` need not equal `hidden`.
        ffn: inner width of the SwiGLU feed-forward network.
        vocab: rows of the embedding table; at least the tokenizer's size.
        max_context: positions the model may be run at, in tokens.
        rope_theta: base of the rotary frequencies.
        rope_scaling: None for plain rotary embedding.
        rms_norm_eps: added to the mean square in every norm.
        tied_head: the LM head is the embedding table; there is no `lm_head.weight`.
        attention_bias: q, k and v projections have biases.
        output_bias: the o projection has one.
        mlp_bias: gate, up and down projections have biases.
        qk_norm: RMS norm over each head of q and k before rotation (Qwen3).
        windows: per layer, the positions a token attends to at most, itself among them; None for
            all of them. Empty: no layer has a sliding window.
    """

    architecture: Architecture
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_context: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-6
    tied_head: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int | None, ...] = ()

    def shape(self) -> ModelShape:
        """The sizes from which costs follow."""
        return ModelShape(
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            ffn=self.ffn,
            vocab=self.vocab,
            tied_head=self.tied_head,
            attention_bias=self.attention_bias,
            output_bias=self.output_bias,
            mlp_bias=self.mlp_bias,
            qk_norm=self.qk_norm,
            windows=self.windows,
        )

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor the model has, by canonical name, in the order they are used."""
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        linears = {
            "self_attn.q_proj": (query, self.hidden, self.attention_bias),
            "self_attn.k_proj": (key_value, self.hidden, self.attention_bias),
            "self_attn.v_proj": (key_value, self.hidden, self.attention_bias),
            "self_attn.o_proj": (self.hidden, query, self.output_bias),
            "mlp.gate_proj": (self.ffn, self.hidden, self.mlp_bias),
            "mlp.up_proj": (self.ffn, self.hidden, self.mlp_bias),
            "mlp.down_proj": (self.hidden, self.ffn, self.mlp_bias),
        }
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            shapes[f"{prefix}.input_layernorm.weight"] = (self.hidden,)
            if self.qk_norm:
                shapes[f"{prefix}.self_attn.q_norm.weight"] = (self.head_dim,)
                shapes[f"{prefix}.self_attn.k_norm.weight"] = (self.head_dim,)
            shapes[f"{prefix}.post_attention_layernorm.weight"] = (self.hidden,)
            for name, (rows, columns, bias) in linears.items():
                shapes[f"{prefix}.{name}.weight"] = (rows, columns)
                if bias:
                    shapes[f"{prefix}.{name}.bias"] = (rows,)
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied_head:
            shapes["lm_head.weight"] = (self.vocab, self.hidden)
        return shapes

    def rope_inverse_frequencies(self) -> tuple[float, ...]:
        """Radians per position of each of the `head_dim / 2` rotated pairs, scaling applied.

        The `llama3` rule is that of "The Llama 3 Herd of Models" as published with the weights.
        """
        plain = [self.rope_theta ** (-2 * i / self.head_dim) for i in range(self.head_dim // 2)]
        scaling = self.rope_scaling
        if scaling is None:
            return tuple(plain)
        if scaling.kind == "linear":
            return tuple(f / scaling.factor for f in plain)
        if scaling.kind == "factors":
            return tuple(f / divisor for f, divisor in zip(plain, scaling.factors, strict=True))
        return tuple(_llama3_frequency(f, scaling) for f in plain)


def _llama3_frequency(frequency: float, scaling: RopeScaling) -> float:
    turns = scaling.original_max_context * frequency / (2 * math.pi)
    if turns < scaling.low_freq_factor:
        return frequency / scaling.factor
    if turns > scaling.high_freq_factor:
        return frequency
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency
