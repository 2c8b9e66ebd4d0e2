"""Small random models on the device against the plain reference, before anything is timed.

    logits     of prompts, of a step of prompts and answers, of answers, against float32
    chunked    the same prompt in pieces
    batched    answers drawn together are those drawn alone (float32)
    graphs     a step launched kernel by kernel and the same step from its CUDA graph

Memory that nothing has been written to holds nan. Inputs and weights are new in every run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gpu.answers import check_answers
from gpu.bench import Bench, token_ids
from gpu.compare import ERROR_LIMITS, put_check, relative_error, worst
from gpu.paged import BLOCK_SIZE_TOKENS, Ids, Sequences, plan_of
from ridgeline.kernels.interface import Batch, Kernels
from ridgeline.kernels.reference import ReferenceKernels
from ridgeline.models.files import ModelFiles, random_model
from ridgeline.models.random_weights import RandomWeights
from ridgeline.models.transformer import Transformer
from ridgeline.models.weights import assemble

_NEW_TOKENS = 3
"""Room after each prompt."""


@dataclass(frozen=True)
class Rounded:
    """Random weights that a dtype holds exactly, so that all compute with the same ones."""

    weights: RandomWeights
    dtype: torch.dtype

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `Weights.shapes`."""
        return self.weights.shapes()

    def tensor(self, name: str, device: torch.device | None = None) -> torch.Tensor:
        """See `Weights.tensor`: made on the host, whose generator the reference has too."""
        del device
        return self.weights.tensor(name).to(self.dtype).float()


def check_model(bench: Bench, name: str) -> None:
    """All checks of one architecture, in every dtype."""
    for salt, (dtype, limit) in enumerate(ERROR_LIMITS.items()):
        if not bench.has_time(10.0, f"correctness of {name} in {dtype}"):
            continue
        files = rounded_model(bench, name, getattr(torch, dtype))
        with torch.inference_mode():
            _check_logits(bench, name, files, dtype, limit, bench.generator(salt))
        check_answers(bench, name, files, dtype)


def rounded_model(bench: Bench, name: str, dtype: torch.dtype) -> ModelFiles:
    """A small model whose weights the dtype holds exactly."""
    made = random_model(bench.scale.compared[name], seed=bench.seed, name=name)
    return ModelFiles(
        name=name,
        config=made.config,
        tokenizer=lambda: made.tokenizer,
        weights=Rounded(RandomWeights(made.config, bench.seed), dtype),
        weights_bytes_on_disk=0,
        fingerprint=made.fingerprint,
        source=name,
    )


def make_transformer(
    files: ModelFiles, kernels: Kernels, dtype: torch.dtype, place: torch.device, blocks: int
) -> Transformer:
    """A model whose KV cache holds nan, but for that of the reference, which may read anything."""
    weights = assemble(files.config, files.tensors(place), kernels, dtype, place)
    size = BLOCK_SIZE_TOKENS
    model = Transformer(files.config, weights, kernels, blocks=blocks, block_size_tokens=size)
    attention: Any = model.attention
    if not isinstance(kernels, ReferenceKernels):
        attention.pool.fill_(float("nan"))
    return model


def logits_of(model: Transformer, batch: Batch, place: torch.device) -> torch.Tensor:
    """Of every token of a step, [tokens, vocab]."""
    tokens = torch.from_numpy(batch.token_ids).to(place)
    return model.logits(model.forward(tokens, plan_of(model.attention, batch)))


def _check_logits(
    bench: Bench, name: str, files: ModelFiles, dtype: str, limit: float, generator: np.random.Generator
) -> None:
    place, lengths = bench.place, bench.scale.prompt_tokens
    known = {i: _ids(generator, n + _NEW_TOKENS, files.config.vocab) for i, n in enumerate(lengths)}
    sequences = Sequences([len(ids) for ids in known.values()], generator)
    host = torch.device("cpu")
    reference = make_transformer(files, ReferenceKernels(), torch.float32, host, sequences.blocks)
    kind = getattr(torch, dtype)
    model = make_transformer(files, place.kernels(8), kind, place.torch_device, sequences.blocks)
    errors = []
    whole = torch.zeros(0)
    for batch in _steps(sequences, lengths, known):
        wanted = logits_of(reference, batch, host)
        got = logits_of(model, batch, place.torch_device)
        errors.append(relative_error(got, wanted))
        whole = wanted[: lengths[0]] if batch.chunks and not len(whole) else whole
    put_check(bench, name, dtype, "logits", worst(errors), limit)

    pieces = make_transformer(files, place.kernels(8), kind, place.torch_device, sequences.blocks)
    parts = [
        logits_of(pieces, batch, place.torch_device)
        for batch in _pieces(sequences, lengths[0], known, generator)
    ]
    put_check(bench, name, dtype, "chunked", relative_error(torch.cat(parts), whole), limit)


def _steps(sequences: Sequences, lengths: tuple[int, int, int], known: dict[int, Ids]) -> Iterator[Batch]:
    """Two prompts, a third beside the first one's answer, then all answers."""
    first, second, third = lengths
    yield sequences.batch({}, {0: (0, first), 1: (0, second)}, known)
    yield sequences.batch({0: first, 1: second}, {2: (0, third)}, known)
    yield sequences.batch({0: first + 1, 1: second + 1, 2: third}, {}, known)


def _pieces(
    sequences: Sequences, length: int, known: dict[int, Ids], generator: np.random.Generator
) -> Iterator[Batch]:
    """The first prompt in four pieces cut anywhere; one may be a single token."""
    cuts = np.unique(generator.integers(1, length, 3))
    for start, end in zip([0, *cuts], [*cuts, length], strict=True):
        if end - start == 1:
            yield sequences.batch({0: int(start)}, {}, known)
        else:
            yield sequences.batch({}, {0: (int(start), int(end - start))}, known)


def _ids(generator: np.random.Generator, count: int, vocab: int) -> Ids:
    return np.array(token_ids(generator, count, vocab), dtype=np.int64)
