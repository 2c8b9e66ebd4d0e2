"""Whether an executor's answers depend on who else is in the batch, or on CUDA graphs."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gpu.bench import Bench, token_ids
from gpu.compare import ERROR_LIMITS, put_check
from gpu.engines import GREEDY, clock, engine_of, kv_pool, release
from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.plan import Admission, Row, RowResult, StepPlan
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.executors.cuda.executor import TorchCudaExecutor
from ridgeline.models.files import ModelFiles

_TOP = 8

_NEAR_TIE = 1e-3
"""Log probabilities this close in float32 may change places with the order of a sum."""


def check_answers(bench: Bench, name: str, files: ModelFiles, dtype: str) -> None:
    """Of an executor of its own, whose KV cache holds nan."""
    executor = TorchCudaExecutor(
        files,
        dtype=dtype,
        kv_memory_bytes=200 * files.config.shape().kv_bytes_per_token(4) * 16,
        max_batch=8,
        max_batch_tokens=512,
        max_context_tokens=512,
        device=bench.place.device(),
    )
    kv_pool(executor).fill_(float("nan"))
    bench.place.settle()
    generator = bench.generator(7)
    if dtype == "float32":
        _check_batched(bench, name, files, executor, generator)
    _check_graphs(bench, name, executor, dtype, generator)
    executor.close()


def _check_batched(
    bench: Bench, name: str, files: ModelFiles, executor: TorchCudaExecutor, generator: np.random.Generator
) -> None:
    """The error is the share of answers that differ where no near-tie explains it."""
    most, (sequences, tokens) = bench.scale.prompt_tokens[0], bench.scale.answers
    prompts = [
        token_ids(generator, int(generator.integers(1, most)), files.config.vocab) for _ in range(sequences)
    ]
    together = _answers(executor, prompts, tokens)
    alone = [_answers(executor, [prompt], tokens)[0] for prompt in prompts]
    differ = sum(not _same(a, b) for a, b in zip(together, alone, strict=True))
    put_check(bench, name, "float32", "batched", differ / sequences, 0.0)


Answer = list[tuple[int, float]]
"""Tokens, and by how much the log probability of each exceeded that of the next best."""


def _same(a: Answer, b: Answer) -> bool:
    for (token, gap), (other, other_gap) in zip(a, b, strict=True):
        if token != other:
            return min(gap, other_gap) < _NEAR_TIE
    return True


def _answers(executor: TorchCudaExecutor, prompts: list[tuple[int, ...]], tokens: int) -> list[Answer]:
    """Through scheduler and engine; a cache of its own, so that no prefix is found."""
    engine, _ = engine_of(executor, Limits(max_batch_tokens=64, max_waiting=len(prompts)))
    sampling = replace(GREEDY, logprobs=2)
    answers: list[Answer] = [[] for _ in prompts]
    for index, prompt in enumerate(prompts):
        engine.scheduler.submit(SequenceSpec(str(index), prompt, sampling, tokens), clock())
    while engine.has_work:
        for output in engine.step(clock):
            if output.refusal is not None:
                raise RuntimeError(output.refusal.message)
            for score in output.scores:
                (_, best), (_, second) = score.top
                answers[int(output.sequence_id)].append((score.token_id, best - second))
    release(executor, range(executor.geometry.max_batch))
    return answers


def _check_graphs(
    bench: Bench, name: str, executor: TorchCudaExecutor, dtype: str, generator: np.random.Generator
) -> None:
    """A step launched, another one recorded and replayed, then the first one replayed. Once with the
    best log probabilities, which are compared, and once without, where drawing is part of the graph."""
    length = bench.scale.prompt_tokens[0]
    for scored in (True, False):
        sampling = replace(GREEDY, logprobs=_TOP if scored else None)
        prompts = [token_ids(generator, length - i, executor._vocab) for i in range(3)]
        blocks = -(-(length + 1) // executor.geometry.block_size_tokens)
        admissions = tuple(Admission(i, prompt, len(prompt), sampling) for i, prompt in enumerate(prompts))
        rows = tuple(
            Row(i, 0, prompt, tuple(range(i * blocks, (i + 1) * blocks)), sample=True)
            for i, prompt in enumerate(prompts)
        )
        first = _run(executor, StepPlan(0, rows, admissions))
        drawn = [_token(row) for row in first]
        other = [(token + 1) % executor._vocab for token in drawn]
        steps = [
            tuple(Row(i, len(prompts[i]), (token,), sample=True) for i, token in enumerate(tokens))
            for tokens in (drawn, other, drawn)
        ]
        eager, between, replayed = (_run(executor, StepPlan(1, rows)) for rows in steps)
        release(executor, range(3))
        if not executor.recorded_batch_sizes:
            raise RuntimeError("no graph was recorded, so none was compared")
        if scored and _distance(eager, between, scored) == 0:
            raise RuntimeError("steps with other tokens gave the same log probabilities")
        what = "graphs" if scored else "graphs, drawn"
        error = _distance(eager, replayed, scored)
        put_check(bench, name, dtype, what, error, ERROR_LIMITS[dtype] if scored else 0.0)


def _run(executor: TorchCudaExecutor, plan: StepPlan) -> tuple[RowResult, ...]:
    rows = executor.collect(executor.launch(plan)).rows
    for row in rows:
        if row.error is not None:
            raise RuntimeError(row.error)
    return rows


def _token(result: RowResult) -> int:
    (token,) = result.token_ids
    return token


def _distance(eager: tuple[RowResult, ...], replayed: tuple[RowResult, ...], scored: bool) -> float:
    """Share of other tokens, or relative error of the best log probabilities; 0 is bit for bit."""
    if not scored:
        return sum(a.token_ids != b.token_ids for a, b in zip(eager, replayed, strict=True)) / len(eager)
    a, b = (torch.tensor([_best(row) for row in rows], dtype=torch.float64) for rows in (eager, replayed))
    norm = float(torch.linalg.vector_norm(a))
    error = float(torch.linalg.vector_norm(a - b)) / norm if norm else math.nan
    return error if math.isfinite(error) else math.nan


def _best(row: RowResult) -> list[Any]:
    (score,) = row.scores
    return [value for _, value in score.top]
