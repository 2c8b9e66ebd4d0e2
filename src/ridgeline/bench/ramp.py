"""A load that rises in steps until the server is saturated."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from ridgeline.bench.report import Report, Targets, summarise
from ridgeline.bench.runner import Load, RunResult
from ridgeline.bench.saturation import Step, knee, saturated_by, step_of


@dataclass(frozen=True, slots=True)
class Ramp:
    """How the load rises.

    Attributes:
        factor: from one step to the next, above 1.
        step_seconds: of each step; the server runs empty between them.
        steps: at most.
    """

    factor: float = 1.5
    step_seconds: float = 30.0
    steps: int = 12


@dataclass(frozen=True, slots=True)
class Climbed:
    """What a ramp found.

    Attributes:
        unit: of the load: conversations/s or users.
        steps: from the lowest load up; the last is saturated, or the highest that was asked for.
        knee: index of the last step that the server carries; None where it carries not even the first.
        reached: whether saturation was seen at all.
    """

    unit: str
    steps: tuple[Step, ...]
    knee: int | None
    reached: bool


def loads(start: float, ramp: Ramp, *, whole: bool) -> Iterator[float]:
    """The loads of the steps: strictly rising, whole numbers where they are users."""
    last = 0.0
    for number in range(ramp.steps):
        load = start * ramp.factor**number
        if whole:
            load = max(last + 1, round(load))
        yield load
        last = load


def _step_load(load: Load, value: float, number: int, seconds: float) -> Load:
    users = int(value) if load.concurrency is not None else None
    return replace(
        load,
        conversations=None,
        concurrency=users,
        rate_per_second=None if users is not None else value,
        warmup=0 if number else load.warmup,
        duration_seconds=seconds,
        cut_turns=True,
        seed=load.seed + number,
    )


async def climb(
    load: Load,
    ramp: Ramp,
    targets: Targets,
    run: Callable[[Load], Awaitable[RunResult]],
    on_step: Callable[[Step], None] = lambda step: None,
) -> tuple[Climbed, Report, RunResult]:
    """Raise the load until the server is saturated.

    Args:
        load: of the first step; the rest of it holds for all.
        ramp: how it rises.
        targets: for goodput.
        run: puts a load on.
        on_step: told each step.

    Returns:
        The steps, and report and records of the step at the knee (of the first, where there is none).
    """
    open_loop = load.concurrency is None
    start = load.rate_per_second if open_loop else load.concurrency
    if start is None:
        raise ValueError("a ramp begins at a rate or at a number of users")
    steps: list[Step] = []
    chosen: tuple[Report, RunResult] | None = None
    for number, value in enumerate(loads(start, ramp, whole=not open_loop)):
        result = await run(_step_load(load, value, number, ramp.step_seconds))
        report = summarise(
            result, targets, open_loop=open_loop, requested_per_second=value if open_loop else None
        )
        records = [record for record in result.records if not record.warmup]
        step = step_of(value, records, result.started, ramp.step_seconds, targets, report)
        step = replace(step, saturated_by=saturated_by(step, steps, open_loop=open_loop))
        steps.append(step)
        on_step(step)
        if chosen is None or not step.saturated_by:
            chosen = report, result
        if step.saturated_by:
            break
    assert chosen is not None  # a ramp has at least one step
    unit = "conversations/s" if open_loop else "users"
    return Climbed(unit, tuple(steps), knee(steps), bool(steps[-1].saturated_by)), *chosen
