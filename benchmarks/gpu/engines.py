"""Executors with random weights, and the engine's loop around them with a meter that only listens."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from gpu.bench import Bench
from gpu.models import Config
from gpu.scale import DTYPE
from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.plan import Handle, Row, StepPlan, StepResult
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.executors.cuda.executor import TorchCudaExecutor
from ridgeline.engine.loop import Engine
from ridgeline.models.files import random_model
from ridgeline.protocol import Sampling

GREEDY = Sampling(temperature=0.0, seed=0)


def make_executor(
    bench: Bench, config: Config, *, max_batch: int, max_batch_tokens: int, weights_seed: int
) -> TorchCudaExecutor:
    """One with random weights, made on the device."""
    return TorchCudaExecutor(
        random_model(config, seed=weights_seed),
        dtype=DTYPE,
        kv_memory_bytes=bench.scale.kv_memory_bytes,
        max_batch=max_batch,
        max_batch_tokens=max_batch_tokens,
        max_context_tokens=bench.scale.max_context_tokens,
        device=bench.place.device(),
    )


def kv_pool(executor: TorchCudaExecutor) -> torch.Tensor:
    """The KV blocks of an executor, which nobody but a benchmark has a reason to touch."""
    pool: torch.Tensor = executor._forward.model.attention.pool
    return pool


def fill_with_random_numbers(bench: Bench, executor: TorchCudaExecutor) -> None:
    """All of the KV cache, as if prompts had been computed."""
    kv_pool(executor).normal_()
    bench.place.settle()


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was committed; see `StepMeter.record`."""

    plan: StepPlan
    running: int
    device_seconds: float
    host_seconds: float
    started: float
    ended: float


class Listener:
    """Keeps what the engine tells its meter."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def record(self, scheduler: Scheduler, plan: StepPlan, **times: float) -> None:
        """See `StepMeter.record`."""
        self.steps.append(Step(plan, scheduler.running, **times))

    def idle(self, scheduler: Scheduler, now: float) -> None:
        """See `StepMeter.idle`."""


class GivenPrompts:
    """An executor for which all of a prompt but its last token counts as computed.

    Decode is measured over long contexts without computing them first: the blocks that the scheduler
    gives a prompt are told to the executor as ever, but they hold what was put there. Nothing is
    changed about steps of single tokens.
    """

    depth = 1

    def __init__(self, executor: TorchCudaExecutor) -> None:
        self.geometry, self.fingerprint = executor.geometry, executor.fingerprint
        self._executor = executor
        self._taken: set[int] = set()

    def launch(self, plan: StepPlan) -> Handle:
        """See `Executor.launch`."""
        self._taken -= set(plan.releases)
        self._taken |= {admission.slot for admission in plan.admissions}
        return self._executor.launch(replace(plan, rows=tuple(_last_token(row) for row in plan.rows)))

    def collect(self, handle: Handle) -> StepResult:
        """See `Executor.collect`."""
        return self._executor.collect(handle)

    def close(self) -> None:
        """Free the slots; the executor goes on."""
        release(self._executor, self._taken)
        self._taken = set()


def _last_token(row: Row) -> Row:
    before = len(row.token_ids) - 1
    return replace(row, start=row.start + before, token_ids=row.token_ids[before:]) if before else row


def release(executor: TorchCudaExecutor, slots: Iterable[int]) -> None:
    """End the sequences of these slots."""
    executor.collect(executor.launch(StepPlan(0, (), releases=tuple(slots))))


def engine_of(executor: Any, limits: Limits) -> tuple[Engine, Listener]:
    """The engine's own loop, with the scheduler, over an executor."""
    listener = Listener()
    meter: Any = listener
    return Engine("benchmark", Scheduler(executor.geometry, limits), executor, meter), listener


def clock() -> float:
    """The clock of all times of day here."""
    return time.perf_counter()
