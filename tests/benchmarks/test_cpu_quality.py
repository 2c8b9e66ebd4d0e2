"""What the benchmark of quality compares is what it says."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import make_model, reference_logits
from tiny_model import CONFIG

from ridgeline.kernels.jit.blocks import from_floats, quantise_activations, reference_product
from ridgeline.models.files import random_model

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from cpu import quality

PROMPT = [(i * i * 7 + 3 * i) % 320 for i in range(60)]
SMALL: dict[str, Any] = CONFIG | {"head_dim": 32, "max_position_embeddings": 256}


@pytest.mark.parametrize("architecture", ["llama-tied", "llama-biases", "mistral-window", "qwen2", "qwen3"])
def test_the_plain_model_is_that_of_transformers(architecture: str) -> None:
    reference, files = make_model(architecture)
    model = quality.PlainModel(files.config, dict(files.tensors()))
    with torch.inference_mode():
        found = model(torch.tensor(PROMPT))
    torch.testing.assert_close(found, reference_logits(reference, PROMPT), rtol=1e-4, atol=1e-4)


def test_rounded_activations_give_the_kernels_product() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((5, 96)).astype(np.float32)
    x[2, :32] = 0
    weights = from_floats(generator.standard_normal((7, 96)), 8)
    rounded = quality.to_int8(torch.from_numpy(x))
    quants, scales = quantise_activations(x)
    assert np.allclose(rounded, quants * np.repeat(scales, 32, axis=1), rtol=1e-6, atol=0)
    product = rounded @ torch.from_numpy(weights.to_floats()).T
    assert np.allclose(product, reference_product(weights, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_come_out_of_blocks_under_their_names(tied: bool) -> None:
    files = random_model(SMALL | {"tie_word_embeddings": tied, "model_type": "qwen2"})
    plain = dict(files.tensors())
    found = quality.unpacked(files, plain)
    assert found.keys() == plain.keys()
    for name, tensor in plain.items():
        expected = tensor.numpy() if tensor.ndim == 1 else from_floats(tensor.numpy(), 8).to_floats()
        assert np.array_equal(found[name].numpy(), expected), name


def test_each_variant_rounds_what_it_says() -> None:
    models = quality.variants(random_model(SMALL, seed=2))
    with torch.inference_mode():
        logits = {name: model(torch.tensor(PROMPT)) for name, model in models.items()}
    differences = {name: float((x - logits["float32"]).abs().max()) for name, x in logits.items()}
    assert differences.pop("float32") == 0
    assert all(differences.values())
    # No blocks of a file are at hand: the kernels' weights are those of 8 bits.
    assert torch.equal(logits["kernels"], logits["8-bit weights, int8 activations"])
    assert differences["float16 K and V alone"] < differences["int8 activations alone"]
    assert differences["float16 K and V alone"] < differences["float8 K and V alone"]
    assert differences["8-bit weights alone"] < differences["Q4_0 weights alone"] / 4


@pytest.mark.slow
def test_compiled_kernels_lose_what_their_roundings_do() -> None:
    files = random_model(SMALL, seed=2)
    models = quality.variants(files)
    models = {name: models[name] for name in ("float32", "kernels")}
    compiled = quality.compiled(files, 40)
    assert "compiled kernels" in compiled
    found = quality.summary(quality.score(models | compiled, PROMPT, 40))
    for name in compiled:
        assert 0 < found[name]["divergence_nats"] < 2 * found["kernels"]["divergence_nats"]


def test_losses_are_of_perplexity() -> None:
    """Three tokens by hand: every window's first token is not scored, nor is what follows its last."""
    likely = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]))
    even = torch.full((3, 3), 7.0)
    scores = quality.score(
        {"float32": lambda ids: likely[ids], "even": lambda ids: even[ids]}, [0, 1, 1, 2, 0], 3
    )
    found = quality.summary(scores)
    # Scored are 1 after 0, 1 after 1, and 0 after 2.
    perplexity = (1 / (0.25 * 0.5 * 0.1)) ** (1 / 3)
    assert math.isclose(found["float32"]["perplexity"], perplexity, rel_tol=1e-6)
    assert found["float32"]["loss_percent"] == found["float32"]["divergence_nats"] == 0
    assert found["float32"]["same_token_percent"] == 100
    assert math.isclose(found["even"]["perplexity"], 3, rel_tol=1e-6)
    assert math.isclose(found["even"]["loss_percent"], 100 * (3 / perplexity - 1), rel_tol=1e-5)
    assert math.isclose(found["even"]["same_token_percent"], 100 / 3, rel_tol=1e-6)
    divergences = [float((row.exp() * (row + math.log(3))).sum()) for row in likely]
    assert math.isclose(found["even"]["divergence_nats"], sum(divergences) / 3, rel_tol=1e-5)


def test_the_text_is_long_enough() -> None:
    text = quality.TEXT.read_text(encoding="utf-8")
    assert text.isascii()
    assert 80_000 < len(text) < 90_000
