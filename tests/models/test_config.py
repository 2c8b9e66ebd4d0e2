"""Configurations: what is read, what is refused, and rotary frequencies as transformers has them."""

from typing import Any

import pytest
import torch
from small_files import CONFIG

from ridgeline.models.config import ModelConfig, RopeScaling
from ridgeline.models.config_readers import config_from_json
from ridgeline.models.errors import ModelError
from ridgeline.roofline.shape import ModelShape

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _read(**changes: Any) -> ModelConfig:
    return config_from_json({k: v for k, v in (CONFIG | changes).items() if v is not None}, "x/config.json")


def test_shape() -> None:
    assert _read().shape() == ModelShape(
        layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=96, vocab=320, tied_head=False
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"architecture": "llama", "attention_bias": False, "qk_norm": False, "tied_head": False}),
        ({"num_key_value_heads": None}, {"kv_heads": 4}),
        ({"head_dim": 8}, {"head_dim": 8}),
        ({"attention_bias": True}, {"attention_bias": True, "output_bias": True}),
        ({"mlp_bias": True}, {"mlp_bias": True}),
        ({"tie_word_embeddings": True}, {"tied_head": True}),
        ({"model_type": "qwen2"}, {"attention_bias": True, "output_bias": False, "qk_norm": False}),
        ({"model_type": "qwen3"}, {"attention_bias": False, "qk_norm": True, "head_dim": 128}),
        ({"model_type": "qwen3", "head_dim": 32}, {"head_dim": 32}),
        ({"rope_theta": None}, {"rope_theta": 10000.0, "rope_scaling": None}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {"rope_theta": 5e5}),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, {"rope_scaling": RopeScaling("linear", 2.0)}),
        (
            {"rope_scaling": LLAMA3},
            {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, original_max_context=64)},
        ),
        ({"model_type": "mistral", "sliding_window": 128}, {"max_context": 256, "windows": (128, 128)}),
        ({"model_type": "mistral", "sliding_window": None}, {"windows": ()}),
        ({"sliding_window": 128}, {"windows": ()}),
        ({"model_type": "qwen2", "sliding_window": 128}, {"windows": ()}),
        ({"model_type": "qwen2", "sliding_window": 128, "use_sliding_window": True}, {"windows": ()}),
        (
            {"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1},
            {"windows": (None, 8)},
        ),
        (
            {
                "model_type": "mistral",
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            {"windows": (8, None)},
        ),
    ],
)
def test_fields(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    config = _read(**changes)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "mamba"}, "architecture 'mamba'; Ridgeline runs llama, mistral, qwen2, qwen3"),
        ({"model_type": None}, "architecture None"),
        (
            {"model_type": "mistral", "sliding_window": 8, "layer_types": ["full_attention"]},
            "1 layer_types for 2 layers",
        ),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'; only 'silu'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config; take the unquantised"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "rope scaling 'yarn'; supported are"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"hidden_size": None}, "has no 'hidden_size'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0; it must be a whole number above 0"),
        ({"vocab_size": "many"}, "vocab_size = 'many'"),
        ({"rms_norm_eps": -1}, "rms_norm_eps = -1"),
        ({"num_key_value_heads": 3}, "4 attention heads and 3 key/value heads"),
        ({"head_dim": 15}, "head_dim = 15; rotary embedding needs an even one"),
    ],
)
def test_what_cannot_be_run_is_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as error:
        _read(**changes)
    assert "x/config.json" in str(error.value)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 10000.0},
        {"rope_type": "default", "rope_theta": 100000.0},
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
        LLAMA3 | {"rope_theta": 500000.0},
        LLAMA3 | {"rope_theta": 10000.0, "factor": 32.0, "original_max_position_embeddings": 8192},
    ],
)
def test_rotary_frequencies_equal_transformers(rope: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs = LlamaRotaryEmbedding(LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=rope))
    ours = _read(hidden_size=512, rope_parameters=rope).rope_inverse_frequencies()
    torch.testing.assert_close(torch.tensor(ours), theirs.inv_freq, rtol=1e-6, atol=0)
