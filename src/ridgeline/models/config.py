"""What a model is, in numbers: read from config.json or GGUF metadata, used by everyone else."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from ridgeline.models.errors import ModelError
from ridgeline.roofline.shape import ModelShape

log = logging.getLogger(__name__)

Architecture = Literal["llama", "mistral", "qwen2", "qwen3"]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "mistral", "qwen2", "qwen3")
GGUF_ARCHITECTURES: tuple[Architecture, ...] = ("llama", "qwen2", "qwen3")
"""GGUF files of Mistral models say `llama`."""


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


class _Fields:
    """Typed access to a mapping with errors that name its source."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values = values
        self.source = source

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def positive(self, name: str, default: int | None = None) -> int:
        value = self.values.get(name)
        if value is None:
            value = default
        if value is None:
            raise ModelError(f"{self.source} has no '{name}'; it is needed to know the model's shape.")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"{self.source} says {name} = {value!r}; it must be a whole number above 0.")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.values.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ModelError(f"{self.source} says {name} = {value!r}; it must be a number above 0.")
        return float(value)


def _check(config: ModelConfig, source: str) -> ModelConfig:
    if config.heads % config.kv_heads:
        raise ModelError(
            f"{source} says {config.heads} attention heads and {config.kv_heads} key/value heads; "
            "the second must divide the first."
        )
    if config.head_dim % 2:
        raise ModelError(f"{source} says head_dim = {config.head_dim}; rotary embedding needs an even one.")
    if config.rope_scaling and config.rope_scaling.kind == "factors":
        given = len(config.rope_scaling.factors)
        if given != config.head_dim // 2:
            raise ModelError(
                f"{source} has {given} rope factors; head_dim / 2 = {config.head_dim // 2} belong."
            )
    return config


def refuse_architecture(found: object, source: str) -> ModelError:
    """The error for an architecture that nothing here can run."""
    return ModelError(
        f"{source} holds a model of architecture {found!r}; Ridgeline runs {', '.join(ARCHITECTURES)} "
        "(dense). Choose a model of one of these families."
    )


def config_from_json(values: Mapping[str, Any], source: str) -> ModelConfig:
    """Read the contents of a Hugging Face `config.json`; `source` names it in errors.

    Raises:
        ModelError: for an architecture, activation or rope scaling that is not supported, or a
            missing or senseless number.
    """
    fields = _Fields(values, source)
    found = values.get("model_type")
    if found not in ARCHITECTURES:
        raise refuse_architecture(found, source)
    architecture = cast(Architecture, found)
    activation = values.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelError(f"{source} says hidden_act = {activation!r}; only 'silu' is supported.")
    if values.get("quantization_config"):
        raise ModelError(
            f"{source} has a quantization_config; take the unquantised folder or a GGUF file of the model."
        )
    hidden, heads = fields.positive("hidden_size"), fields.positive("num_attention_heads")
    qkv_bias = architecture == "qwen2" or bool(values.get("attention_bias", False))
    rope = _rope_parameters(values)
    config = ModelConfig(
        architecture=architecture,
        hidden=hidden,
        layers=fields.positive("num_hidden_layers"),
        heads=heads,
        kv_heads=fields.positive("num_key_value_heads", heads),
        head_dim=fields.positive("head_dim", 128 if architecture == "qwen3" else max(1, hidden // heads)),
        ffn=fields.positive("intermediate_size"),
        vocab=fields.positive("vocab_size"),
        max_context=_json_context(fields, architecture),
        rope_theta=_Fields(rope, source).number("rope_theta", fields.number("rope_theta", 10000.0)),
        rope_scaling=_json_rope_scaling(rope, fields),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        tied_head=bool(values.get("tie_word_embeddings", False)),
        attention_bias=qkv_bias,
        output_bias=qkv_bias and architecture != "qwen2",
        mlp_bias=architecture == "llama" and bool(values.get("mlp_bias", False)),
        qk_norm=architecture == "qwen3",
    )
    return _check(config, source)


def _rope_parameters(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rope settings: newer files keep all of them in `rope_parameters`, older ones in `rope_scaling`."""
    found = values.get("rope_parameters") or values.get("rope_scaling") or {}
    return cast(Mapping[str, Any], found)


def _json_rope_scaling(rope: Mapping[str, Any], fields: _Fields) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    partial = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise ModelError(f"{fields.source} says partial_rotary_factor = {partial!r}; only 1 is supported.")
    if kind == "default":
        return None
    numbers = _Fields(rope, fields.source)
    if kind == "linear":
        return RopeScaling("linear", factor=numbers.number("factor", 1.0))
    if kind == "llama3":
        return RopeScaling(
            "llama3",
            factor=numbers.number("factor", 8.0),
            low_freq_factor=numbers.number("low_freq_factor", 1.0),
            high_freq_factor=numbers.number("high_freq_factor", 4.0),
            original_max_context=numbers.positive("original_max_position_embeddings", 8192),
        )
    raise ModelError(
        f"{fields.source} asks for rope scaling {kind!r}; supported are 'default', 'linear' and 'llama3'."
    )


def _json_context(fields: _Fields, architecture: Architecture) -> int:
    """Positions, cut at the sliding window where one is in use: within it attention is the plain one."""
    context = fields.positive("max_position_embeddings", 32768 if architecture != "llama" else 2048)
    window = fields.get("sliding_window")
    if architecture.startswith("qwen") and not fields.get("use_sliding_window"):
        window = None
    if architecture == "llama" or window is None:
        return context
    return _cap_at_window(context, fields.positive("sliding_window"), fields.source)


def _cap_at_window(context: int, window: int, source: str) -> int:
    if window >= context:
        return context
    log.warning(
        "%s uses a sliding window of %d tokens, which is not supported beyond the window: "
        "the context is limited to %d of %d tokens",
        source,
        window,
        window,
        context,
    )
    return window


def config_from_gguf(
    metadata: Mapping[str, Any],
    tensor_names: frozenset[str],
    source: str,
    rope_factors: tuple[float, ...] | None = None,
) -> ModelConfig:
    """Read GGUF metadata; `rope_factors` are the contents of the tensor `rope_freqs.weight`.

    Raises:
        ModelError: as `config_from_json`.
    """
    found = metadata.get("general.architecture")
    if found not in GGUF_ARCHITECTURES:
        raise refuse_architecture(found, source)
    architecture = cast(Architecture, found)
    prefix = f"{architecture}."
    fields = _Fields({k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}, source)
    if fields.get("expert_count"):
        raise ModelError(f"{source} is a mixture of experts; only dense models are supported.")
    hidden, heads = fields.positive("embedding_length"), fields.positive("attention.head_count")
    head_dim = fields.positive("attention.key_length", max(1, hidden // heads))
    for name in ("attention.value_length", "rope.dimension_count"):
        if fields.positive(name, head_dim) != head_dim:
            raise ModelError(
                f"{source} says {name} = {fields.get(name)}; only the head width ({head_dim}) is supported."
            )
    context = fields.positive("context_length")
    window = fields.get("attention.sliding_window")
    config = ModelConfig(
        architecture=architecture,
        hidden=hidden,
        layers=fields.positive("block_count"),
        heads=heads,
        kv_heads=fields.positive("attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn=fields.positive("feed_forward_length"),
        vocab=_gguf_vocab(fields, metadata),
        max_context=_cap_at_window(context, window, source) if window else context,
        rope_theta=fields.number("rope.freq_base", 10000.0),
        rope_scaling=_gguf_rope_scaling(fields, rope_factors),
        rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon", 1e-6),
        tied_head="output.weight" not in tensor_names,
        attention_bias="blk.0.attn_q.bias" in tensor_names,
        output_bias="blk.0.attn_output.bias" in tensor_names,
        mlp_bias="blk.0.ffn_down.bias" in tensor_names,
        qk_norm="blk.0.attn_q_norm.weight" in tensor_names,
    )
    return _check(config, source)


def _gguf_vocab(fields: _Fields, metadata: Mapping[str, Any]) -> int:
    tokens = metadata.get("tokenizer.ggml.tokens")
    return fields.positive("vocab_size", len(tokens) if tokens else None)


def _gguf_rope_scaling(fields: _Fields, rope_factors: tuple[float, ...] | None) -> RopeScaling | None:
    if rope_factors is not None:
        return RopeScaling("factors", factors=rope_factors)
    kind = fields.get("rope.scaling.type")
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    if kind in (None, "none", "linear"):
        return RopeScaling("linear", factor=factor) if factor != 1.0 and kind != "none" else None
    raise ModelError(
        f"{fields.source} asks for rope scaling {kind!r}; supported are 'none', 'linear' and Llama 3's."
    )
