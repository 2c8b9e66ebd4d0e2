"""A model small enough that nothing waits for it."""

import json
from pathlib import Path

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "rms_norm_eps": 1e-5,
}


def write_config(folder: Path, max_context: int) -> Path:
    """A config.json for `--random-weights`; the model is called `tiny`."""
    path = folder / "tiny.json"
    path.write_text(json.dumps(CONFIG | {"max_position_embeddings": max_context}))
    return path
