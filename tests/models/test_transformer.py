"""The forward pass against Hugging Face transformers, for small random models of each architecture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from small_models import ARCHITECTURES, make_model, reference_logits

from ridgeline.kernels.cpu import CpuKernels, packs_weights
from ridgeline.kernels.interface import Batch, Chunk, Kernels
from ridgeline.kernels.reference import ReferenceKernels
from ridgeline.models.files import ModelFiles
from ridgeline.models.transformer import Transformer
from ridgeline.models.weights import assemble

BLOCK_SIZE = 16
PROMPT = [(i * i * 7 + 3 * i) % 320 for i in range(90)]


@dataclass
class Model:
    reference: Any
    files: ModelFiles

    def run(self, kernels: Kernels, dtype: torch.dtype = torch.float32, *, cut: int = 0) -> torch.Tensor:
        """Logits of all of PROMPT; the first `cut` tokens one at a time, the rest in one chunk."""
        config = self.files.config
        weights = assemble(config, self.files.tensors(), kernels, dtype)
        model = Transformer(config, weights, kernels, blocks=8, block_size_tokens=BLOCK_SIZE)
        table = np.array([5, 2, 7, 0, 1, 6, 3, 4], dtype=np.int64)
        spans = [(i, i + 1) for i in range(cut)] + [(cut, len(PROMPT))]
        logits = []
        with torch.inference_mode():
            for start, end in spans:
                positions = np.arange(start, end)
                single = end - start == 1
                batch = Batch(
                    np.array(PROMPT[start:end]),
                    positions,
                    np.zeros_like(positions),
                    table[positions // BLOCK_SIZE],
                    table[None] if single else table[None][:0],
                    positions + 1 if single else positions[:0],
                    () if single else (Chunk(0, end - start, start, table, 0),),
                )
                hidden = model.forward(torch.from_numpy(batch.token_ids), model.attention.plan(batch))
                logits.append(model.logits(hidden))
        return torch.cat(logits)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Model:
    return Model(*make_model(request.param))


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference over a prompt's logits, over the largest logit."""
    return float((got - wanted).abs().max() / wanted.abs().max())


def test_logits_equal_transformers(model: Model) -> None:
    wanted = reference_logits(model.reference, PROMPT)
    assert relative_error(model.run(CpuKernels(packed=True)), wanted) < 1e-4
    assert relative_error(model.run(CpuKernels(packed=False), cut=40), wanted) < 1e-4


def test_plain_kernels_equal_transformers(model: Model) -> None:
    assert relative_error(model.run(ReferenceKernels()), reference_logits(model.reference, PROMPT)) < 1e-4


def test_bfloat16_stays_near(model: Model) -> None:
    """Three layers with 8 bits of mantissa: the logits keep two digits on average."""
    wanted = reference_logits(model.reference, PROMPT)
    got = model.run(CpuKernels(packed=packs_weights(torch.bfloat16)), torch.bfloat16, cut=20)
    assert float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()) < 0.05


def test_order_of_tensors_does_not_matter() -> None:
    _, files = make_model("qwen2")
    kernels = ReferenceKernels()
    tensors = list(files.tensors())
    for order in (tensors, tensors[::-1]):
        weights = assemble(files.config, order, kernels, torch.float32)
        x = torch.ones(1, files.config.hidden)
        expected = torch.cat(
            [
                x @ dict(tensors)[f"model.layers.1.self_attn.{part}_proj.weight"].T
                + dict(tensors)[f"model.layers.1.self_attn.{part}_proj.bias"]
                for part in "qkv"
            ],
            dim=1,
        )
        torch.testing.assert_close(weights.layers[1].qkv(x), expected, rtol=1e-5, atol=1e-5)
