"""When a load is too much: on records of servers that are a formula, and on the virtual clock."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.bench.ramp import Ramp, climb, loads
from ridgeline.bench.report import Targets, summarise
from ridgeline.bench.runner import Load, RunResult, TurnRecord
from ridgeline.bench.saturation import (
    Step,
    in_flight_slope,
    knee,
    mean_in_flight,
    saturated_by,
    slope,
    step_of,
    ttft_slope,
)
from ridgeline.bench.workload import poisson_starts

SERVICE_SECONDS = 0.5
TOKENS = 10


def served(arrivals: Sequence[float], places: int, queue: int | None = None) -> list[TurnRecord]:
    """Requests of a server that answers `places` at a time in half a second each, first come first served.

    More than `queue` waiting are refused.
    """
    free = [0.0] * places
    records = []
    for number, at in enumerate(arrivals):
        waiting = sum(
            record.outcome == "completed" and record.chunk_times[0] - 0.05 > at for record in records
        )
        if queue is not None and waiting >= queue:
            refused = TurnRecord(number, 0, False, at, at, outcome="refused", finished=at + 0.001, status=503)
            records.append(refused)
            continue
        begin = max(at, min(free))
        free[free.index(min(free))] = begin + SERVICE_SECONDS
        times = [begin + SERVICE_SECONDS * (token + 1) / TOKENS for token in range(TOKENS)]
        records.append(TurnRecord(number, 0, False, at, at, times, begin + SERVICE_SECONDS))
    return records


def run_of(records: list[TurnRecord], seconds: float) -> RunResult:
    busy = sum(record.finished - record.sent for record in records)
    ended = max([seconds, *(record.finished for record in records)])
    return RunResult(records, 0.0, ended, busy, 0, 0.1, [0.0])


def step(records: list[TurnRecord], seconds: float, load: float = 1.0, targets: Targets = Targets()) -> Step:  # noqa: B008
    report = summarise(run_of(records, seconds), targets)
    return step_of(load, records, 0.0, seconds, targets, report)


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    return [at for at, _ in zip(poisson_starts(rate, seed), range(100_000), strict=False) if at < seconds]


def test_a_line_is_found_and_noise_is_not() -> None:
    times = [float(n) for n in range(8)]
    line = slope(times, [3 + 2 * time for time in times])
    assert line is not None
    assert (line.per_second, line.low) == (pytest.approx(2), pytest.approx(2))
    assert line.rises
    flat = slope(times, [5, 6, 5, 6, 5, 6, 5, 6])
    assert flat is not None
    assert not flat.rises
    slight = slope(times, [100 + 0.1 * time for time in times])
    assert slight is not None
    assert slight.low > 0
    assert not slight.rises  # surely, but by less than a percent
    assert slope([1.0, 2.0], [1.0, 2.0]) is None
    assert slope([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


@given(st.floats(-5, 5), st.floats(1, 100), st.lists(st.floats(-1, 1), min_size=8, max_size=8))
def test_the_bound_lies_below_the_slope(by: float, base: float, noise: list[float]) -> None:
    found = slope([float(n) for n in range(8)], [base + by * n + noise[n] for n in range(8)])
    assert found is not None
    assert found.low <= found.per_second + 1e-9
    assert abs(found.per_second - by) <= 1


def test_requests_in_flight_are_averaged() -> None:
    records = [TurnRecord(0, 0, False, 0.0, sent, [], end) for sent, end in ((0.0, 4.0), (2.0, 9.0))]
    assert mean_in_flight(records, 0.0, 4.0) == pytest.approx((4 + 2) / 4)
    assert mean_in_flight(records, 5.0, 5.0) == 0


def test_a_server_below_its_limit_is_steady_and_above_it_piles_up() -> None:
    """Four places of half a second carry eight requests a second."""
    steady = pile = 0
    for seed in range(20):
        low, high = (served(poisson(rate, 60.0, seed), places=4) for rate in (5.0, 12.0))
        steady += bool(saturated_by(step(low, 60.0), [], open_loop=True))
        grows = in_flight_slope(high, 0, 60), ttft_slope(high, 0, 60)
        pile += all(line is not None and line.rises for line in grows)
    assert steady <= 2
    assert pile == 20


def test_refusals_are_goodput_lost() -> None:
    refusing = served(poisson(16.0, 60.0, 1), places=4, queue=3)
    found = step(refusing, 60.0)
    assert found.refused > 0
    (reason,) = saturated_by(found, [], open_loop=True)
    assert "met the targets" in reason  # nothing piles up: the queue is bounded
    assert found.goodput_per_second == pytest.approx(8, rel=0.05)


def test_a_step_counts_what_came_within_it() -> None:
    records = served([0.0, 0.75], places=4)
    found = step(records, 1.0)
    assert (found.offered_per_second, found.completed_per_second) == (2, 1)
    assert found.output_tokens_per_second == pytest.approx(15)
    assert found.goodput_ratio == 1


def test_more_users_that_bring_nothing_are_too_many() -> None:
    def closed(users: float, tokens_per_second: float) -> Step:
        base = step(served([0.0], places=1), 1.0, users)
        fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
        return Step(**fields | {"output_tokens_per_second": tokens_per_second})

    before = [closed(4, 100)]
    assert not saturated_by(closed(6, 140), before, open_loop=False)
    assert "4 to 6 users" in saturated_by(closed(6, 101), before, open_loop=False)[0]
    assert not saturated_by(closed(4.4, 101), before, open_loop=False)  # too few more to tell


@given(st.floats(0.1, 50), st.floats(1.01, 4), st.integers(1, 12), st.booleans())
def test_loads_rise(start: float, factor: float, steps: int, whole: bool) -> None:
    found = list(loads(max(1, round(start)) if whole else start, Ramp(factor, 1, steps), whole=whole))
    assert len(found) == steps
    assert found == sorted(set(found))
    assert not whole or all(load == int(load) for load in found)


async def test_a_ramp_finds_what_the_server_carries() -> None:
    """Eight requests a second; the ramp goes 2, 4, 8 and so on, and stops above eight."""
    asked: list[Load] = []

    async def run(load: Load) -> RunResult:
        asked.append(load)
        assert load.rate_per_second is not None and load.duration_seconds == 60
        return run_of(served(poisson(load.rate_per_second, 60, load.seed), places=4), 60)

    load = Load(conversations=None, concurrency=None, rate_per_second=2.0, warmup=3)
    targets = Targets(ttft_seconds=2.0)
    climbed, report, result = await climb(load, Ramp(1.6, 60, 12), targets, run)
    assert climbed.reached
    assert climbed.knee == len(climbed.steps) - 2
    assert climbed.steps[climbed.knee].load <= 8 <= climbed.steps[-1].load * 1.05
    assert report.offered == len(result.records) == round(climbed.steps[climbed.knee].offered_per_second * 60)
    assert [load.warmup for load in asked] == [3] + [0] * (len(asked) - 1)
    assert len({load.seed for load in asked}) == len(asked)
    assert all(load.cut_turns for load in asked)


async def test_a_ramp_that_ends_before_saturation_says_so() -> None:
    async def run(load: Load) -> RunResult:
        draw = random.Random(load.seed)
        return run_of(served(sorted(draw.uniform(0, 30) for _ in range(30)), places=40), 30)

    load = Load(conversations=None, concurrency=None, rate_per_second=1.0)
    climbed, _, _ = await climb(load, Ramp(1.1, 30, 3), Targets(), run)
    assert (climbed.reached, climbed.knee, len(climbed.steps)) == (False, 2, 3)


def test_knees() -> None:
    good = step(served([0.0], places=1), 1.0)
    fields = {name: getattr(good, name) for name in good.__dataclass_fields__}
    bad = Step(**fields | {"saturated_by": ("why",)})
    assert knee([good, good, bad]) == 1
    assert knee([bad]) is None
    assert knee([good]) == 0
    assert knee([]) is None
