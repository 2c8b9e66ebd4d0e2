"""The last minute: what is in it, what is not any more, and quantiles as Prometheus gives them."""

import dataclasses

import pytest
from step_record import STEP

from ridgeline.telemetry.meter import EngineMeter
from ridgeline.telemetry.recent import quantile
from ridgeline.telemetry.records import RequestRecord


class Bench:
    """A meter and its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meter = EngineMeter(lambda: self.now)

    def finish(self, outcome: str = "stop", first_token: float = 0.4) -> None:
        self.meter.finished(RequestRecord(outcome, 0.1, first_token, 2.0, 10, 20))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_came_within_the_minute_is_in_it(bench: Bench) -> None:
    for _ in range(90):
        bench.now += 1
        bench.finish()
    recent = bench.meter.live().recent
    assert recent.seconds == 60
    assert 58 <= recent.counters["ridgeline_requests_total{stop}"] <= 61
    assert 58 <= recent.quantiles["ridgeline_time_to_first_token_seconds"]["count"] <= 61


def test_a_burst_after_a_long_rest_is_counted_whole(bench: Bench) -> None:
    bench.finish("length")
    bench.now += 500
    bench.meter.prefix(hit=7)
    bench.finish("at_capacity")
    recent = bench.meter.live().recent
    assert recent.counters["ridgeline_prefix_tokens_total{hit}"] == 7
    assert recent.counters["ridgeline_requests_total{at_capacity}"] == 1
    assert recent.counters["ridgeline_requests_total{length}"] == 0


def test_after_a_quiet_minute_nothing_is_left(bench: Bench) -> None:
    bench.now += 5
    bench.meter.step(dataclasses.replace(STEP, ended_seconds=bench.now))
    bench.finish()
    bench.now += 63
    recent = bench.meter.live().recent
    assert recent.quantiles == {}
    assert recent.counters["ridgeline_requests_total{stop}"] == 0


def test_the_first_minute_is_as_long_as_it_is(bench: Bench) -> None:
    bench.now += 12
    bench.finish(first_token=0.4)
    recent = bench.meter.live().recent
    assert recent.seconds == 12
    assert 0.3 < recent.quantiles["ridgeline_time_to_first_token_seconds"]["p50"] <= 0.5


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, [10, 0, 0], 0.5),
        (0.5, [0, 4, 0], 1.5),
        (0.95, [50, 45, 5], 2.0),
        (0.99, [1, 0, 9], 2.0),  # beyond every bound: the last of them
        (0.75, [1, 1, 0], 1.5),
    ],
)
def test_quantiles_are_even_within_a_bucket(share: float, counts: list[int], expected: float) -> None:
    assert quantile(share, counts, (1.0, 2.0)) == pytest.approx(expected)
