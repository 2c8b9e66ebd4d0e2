"""Small random models, made by transformers so that it can be asked what they answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from ridgeline.models.config_readers import config_from_json
from ridgeline.models.files import ModelFiles
from ridgeline.text.byte_tokenizer import ByteTokenizer

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "llama3-rope": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "linear-rope": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-one-head": ("Llama", {"num_key_value_heads": 6, "rope_theta": 500000.0}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 16}),
    "mistral-window": ("Mistral", {"sliding_window": 21, "head_dim": 16}),
    "qwen2-window": (
        "Qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 33,
            "max_window_layers": 1,
            "tie_word_embeddings": False,
        },
    ),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True, "rope_theta": 1000000.0}),
    "qwen3": ("Qwen3", {"head_dim": 32, "attention_bias": False}),
    "qwen3-biases": ("Qwen3", {"head_dim": 8, "attention_bias": True}),
}


@dataclass(frozen=True)
class StateDict:
    """Tensors of a model of transformers, as `ModelFiles` takes them."""

    tensors: Mapping[str, torch.Tensor]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def tensor(self, name: str, device: torch.device | None = None) -> torch.Tensor:
        del device
        return self.tensors[name]


def make_model(architecture: str, seed: int = 0, **sizes: Any) -> tuple[Any, ModelFiles]:
    """The same random model for transformers (float32, evaluating) and for Ridgeline.

    Weights are spread wide enough that the next token is seldom a near-tie; norms and biases too are
    random, so that one left out would be seen. `sizes` go before those of `SIZES` and the architecture.
    """
    family, changes = ARCHITECTURES[architecture]
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **changes, **sizes})
    config._attn_implementation = "eager"
    reference = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.3 * noise)
            else:
                spread = 3.0 if "embed" in name or "lm_head" in name else 1.5
                parameter.copy_(noise * spread / parameter.shape[-1] ** 0.5)
    tensors = dict(reference.state_dict())
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    files = ModelFiles(
        name=architecture,
        config=config_from_json(config.to_dict(), architecture),
        tokenizer=ByteTokenizer,
        weights=StateDict(tensors),
        weights_bytes_on_disk=0,
        fingerprint=f"{architecture}-{seed}",
        source=architecture,
    )
    return reference, files


def reference_logits(reference: Any, token_ids: list[int]) -> torch.Tensor:
    """[tokens, vocab] by transformers."""
    with torch.inference_mode():
        logits: torch.Tensor = reference(torch.tensor([token_ids])).logits[0]
        return logits


def reference_greedy(reference: Any, token_ids: list[int], new_tokens: int) -> tuple[list[int], list[float]]:
    """transformers' greedy answer without any cache, and the distance of the two best logits per step."""
    ids, gaps = list(token_ids), []
    for _ in range(new_tokens):
        best = reference_logits(reference, ids)[-1].topk(2)
        ids.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
    return ids[len(token_ids) :], gaps
