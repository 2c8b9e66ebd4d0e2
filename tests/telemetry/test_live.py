"""The snapshot of an engine: plain data, stable steps, and what predicts badly said so."""

import dataclasses
import json
import math

import pytest
from step_record import STEP

from ridgeline.telemetry.ledger import FEW
from ridgeline.telemetry.live import SHOWN_POINTS
from ridgeline.telemetry.meter import EngineMeter


class Bench:
    """A meter and its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meter = EngineMeter(lambda: self.now, block_size_tokens=16, blocks_total=100)

    def step(self, seconds: float = 0.01, **changes: object) -> None:
        self.now += seconds
        self.meter.step(dataclasses.replace(STEP, ended_seconds=self.now, step_seconds=seconds, **changes))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_before_the_first_step_there_is_a_snapshot(bench: Bench) -> None:
    shown = json.loads(json.dumps(bench.meter.live().as_json(), allow_nan=False))
    assert shown["verdict"]["resource"] == "idle"
    assert shown["steps"] == [] and shown["predictions"] == {}
    assert shown["values"]["ridgeline_kv_utilization_ratio{device}"] == 0


def test_what_is_infinite_is_null_and_not_absent(bench: Bench) -> None:
    out_of_reach = dataclasses.replace(STEP.ridge, batch=None)
    bench.step(ridge=out_of_reach, headroom=dataclasses.replace(STEP.headroom, ridge=None))
    live = bench.meter.live()
    assert math.isinf(live.values["ridgeline_ridge_batch_sequences"])
    shown = json.loads(json.dumps(live.as_json(), allow_nan=False))["values"]
    assert shown["ridgeline_ridge_batch_sequences"] is None
    assert shown["ridgeline_headroom_sequences{ridge}"] is None
    assert shown["ridgeline_headroom_sequences{latency}"] == 5


def test_a_step_is_age_times_work_and_batch(bench: Bench) -> None:
    bench.step(predicted_seconds=0.009)
    bench.now += 2
    (shown,) = bench.meter.live().steps
    assert shown == [pytest.approx(2), 0.01, 0.009, 4e11, 1e10, 4, 40, 36]


def test_steps_older_than_a_minute_are_not_shown(bench: Bench) -> None:
    bench.step()
    bench.now += 59
    bench.step()
    bench.now += 5
    assert len(bench.meter.live().steps) == 1


def test_so_many_steps_that_some_are_left_out_do_not_flicker(bench: Bench) -> None:
    def shown() -> set[float]:
        return {round(bench.now - step[0], 6) for step in bench.meter.live().steps}

    for _ in range(3000):
        bench.step()
    before = shown()
    for _ in range(100):
        bench.step()
    after = shown()
    assert SHOWN_POINTS / 2 <= len(before) <= SHOWN_POINTS
    assert before <= after and len(after) <= SHOWN_POINTS


def test_a_model_that_predicts_badly_is_marked(bench: Bench) -> None:
    for _ in range(FEW - 1):
        bench.step(predicted_seconds=0.02)
    assert bench.meter.live().predictions["step"].calibration.judgement == "few"
    bench.step(predicted_seconds=0.02)
    told = bench.meter.live().predictions["step"]
    assert told.calibration.judgement == "bad"
    assert told.calibration.bias == told.calibration.median_error == pytest.approx(1.0)
    assert told.pairs[-1] == (0.02, 0.01)
    for _ in range(600):
        bench.step(predicted_seconds=0.0105)
    assert bench.meter.live().predictions["step"].calibration.judgement == "good"
    assert "wait" not in bench.meter.live().predictions
