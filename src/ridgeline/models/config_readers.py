"""Reading a model's configuration from config.json or GGUF metadata."""

from collections.abc import Mapping
from typing import Any, cast

from ridgeline.models.config import ARCHITECTURES, Architecture, ModelConfig, RopeScaling
from ridgeline.models.errors import ModelError

GGUF_ARCHITECTURES: tuple[Architecture, ...] = ("llama", "qwen2", "qwen3")
"""GGUF files of Mistral models say `llama`."""


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
    layers = fields.positive("num_hidden_layers")
    qkv_bias = architecture == "qwen2" or bool(values.get("attention_bias", False))
    rope = _rope_parameters(values)
    config = ModelConfig(
        architecture=architecture,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=fields.positive("num_key_value_heads", heads),
        head_dim=fields.positive("head_dim", 128 if architecture == "qwen3" else max(1, hidden // heads)),
        ffn=fields.positive("intermediate_size"),
        vocab=fields.positive("vocab_size"),
        max_context=fields.positive("max_position_embeddings", 32768 if architecture != "llama" else 2048),
        rope_theta=_Fields(rope, source).number("rope_theta", fields.number("rope_theta", 10000.0)),
        rope_scaling=_json_rope_scaling(rope, fields),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        tied_head=bool(values.get("tie_word_embeddings", False)),
        attention_bias=qkv_bias,
        output_bias=qkv_bias and architecture != "qwen2",
        mlp_bias=architecture == "llama" and bool(values.get("mlp_bias", False)),
        qk_norm=architecture == "qwen3",
        windows=_json_windows(fields, architecture, layers),
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


def _json_windows(fields: _Fields, architecture: Architecture, layers: int) -> tuple[int | None, ...]:
    """Sliding window of each layer, or none at all; Qwen has it from a certain layer on."""
    if architecture == "llama" or fields.get("sliding_window") is None:
        return ()
    qwen = architecture.startswith("qwen")
    if qwen and not fields.get("use_sliding_window"):
        return ()
    window = fields.positive("sliding_window")
    first = fields.number("max_window_layers", 28) if qwen else 0
    kinds = fields.get("layer_types") or [
        "sliding_attention" if layer >= first else "full_attention" for layer in range(layers)
    ]
    if len(kinds) != layers:
        raise ModelError(f"{fields.source} has {len(kinds)} layer_types for {layers} layers.")
    windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return windows if any(windows) else ()


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
    layers = fields.positive("block_count")
    windowed = fields.get("attention.sliding_window")
    config = ModelConfig(
        architecture=architecture,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=fields.positive("attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn=fields.positive("feed_forward_length"),
        vocab=_gguf_vocab(fields, metadata),
        max_context=fields.positive("context_length"),
        rope_theta=fields.number("rope.freq_base", 10000.0),
        rope_scaling=_gguf_rope_scaling(fields, rope_factors),
        rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon", 1e-6),
        tied_head="output.weight" not in tensor_names,
        attention_bias="blk.0.attn_q.bias" in tensor_names,
        output_bias="blk.0.attn_output.bias" in tensor_names,
        mlp_bias="blk.0.ffn_down.bias" in tensor_names,
        qk_norm="blk.0.attn_q_norm.weight" in tensor_names,
        windows=(fields.positive("attention.sliding_window"),) * layers if windowed else (),
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
