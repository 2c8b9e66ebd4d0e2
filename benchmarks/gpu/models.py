"""The models that are measured, and the small ones whose answers are compared, as config.json has them."""

from typing import Any

Config = dict[str, Any]

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

LLAMA_1B: Config = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": _LLAMA3_ROPE | {"factor": 32.0},
    "tie_word_embeddings": True,
}
"""Llama-3.2-1B."""

LLAMA_8B: Config = LLAMA_1B | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "rope_parameters": _LLAMA3_ROPE | {"factor": 8.0},
    "tie_word_embeddings": False,
}
"""Llama-3.1-8B."""

_SMALL: Config = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
_SHORT_ROPE = _LLAMA3_ROPE | {"factor": 8.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}


def _heads(heads: int, kv_heads: int, head_dim: int) -> Config:
    return {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}


COMPARED: dict[str, Config] = {
    "llama": _SMALL | {"model_type": "llama"} | _heads(8, 2, 64),
    "llama3-rope": _SMALL | {"model_type": "llama", "rope_parameters": _SHORT_ROPE} | _heads(4, 4, 128),
    "mistral-window": _SMALL | {"model_type": "mistral", "sliding_window": 77} | _heads(6, 2, 96),
    "qwen2": _SMALL | {"model_type": "qwen2", "tie_word_embeddings": True} | _heads(14, 2, 128),
    "qwen3": _SMALL | {"model_type": "qwen3"} | _heads(8, 2, 256),
}
"""Every architecture, with groups of 1, 3, 4 and 7 query heads and heads of 64 to 256 elements."""


def tiny(config: Config) -> Config:
    """The same kind of model in a size that a CPU computes at once, with as many heads to a group."""
    group = config["num_attention_heads"] // config["num_key_value_heads"]
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 320}
    return config | sizes | {"max_position_embeddings": 2048} | _heads(2 * group, 2, 16)
