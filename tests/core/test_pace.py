"""Steps that keep a target of inter-token latency, by a time that is known here."""

import pytest
from simulation import Simulation

from ridgeline.engine.core.forecast import prefill_seconds
from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.pace import LEAST_PREFILL, FixedPace, TargetPace
from ridgeline.engine.core.plan import Geometry
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.roofline import StepTime, Work

LIMITS = Limits(max_batch_tokens=1024)
NOTHING = Work.of([], 0)


def linear(work: Work) -> float:
    """2 ms, 0.1 ms a token, 1 us a cached token."""
    return 2e-3 + 1e-4 * work.new_tokens + 1e-6 * work.cached_tokens


def pace(target: float = 0.05, max_batch: int = 256) -> TargetPace:
    time = StepTime(linear, 1024, sequence_seconds=1e-9)
    time.high_ratio = 1.0
    return TargetPace(time, target, LIMITS, max_batch)


def test_prompts_get_what_decoding_leaves_of_the_target():
    # 20 answers take 4 ms; 46 ms are left: 460 tokens, less a little for the growing pairs.
    assert pace().tokens(Work.decode(20, 0), 0) == pytest.approx(480, abs=8)
    assert pace(0.1).tokens(Work.decode(20, 0), 0) == pytest.approx(980, abs=16)


def test_where_nobody_waits_for_a_token_steps_are_as_large_as_allowed():
    assert pace().tokens(NOTHING, 0) == 1024


def test_prompts_get_on_even_if_decoding_takes_it_all():
    decoding = Work.decode(600, 0)
    assert pace().tokens(decoding, 0) == 600 + LEAST_PREFILL
    assert pace().tokens(Work.decode(1020, 0), 0) == 1024


def test_the_batch_ends_where_its_steps_would_be_late():
    # 45 ms of the 50 are for decoding: 430 sequences without a context, fewer with one.
    assert pace(max_batch=1000).sequences(0) == pytest.approx(430, abs=5)
    assert pace(max_batch=1000).sequences(1000) < 50
    assert pace(max_batch=100).sequences(0) == 100
    assert pace(target=1e-6).sequences(4000) == 1


def test_uncertain_predictions_make_smaller_steps():
    careful = pace()
    careful._time.high_ratio = 1.25
    assert careful.tokens(Work.decode(20, 0), 0) < pace().tokens(Work.decode(20, 0), 0) - 80


def test_a_fixed_pace_looks_at_nothing():
    fixed = FixedPace(Limits(max_batch_tokens=300), 7)
    assert (fixed.tokens(Work.decode(250, 9000), 0), fixed.sequences(1e9)) == (300, 7)


def test_prefill_takes_as_many_steps_as_it_needs():
    time = StepTime(linear, 1024, sequence_seconds=1e-9)
    time.high_ratio = 1.0
    fixed = FixedPace(Limits(max_batch_tokens=100), 8)
    assert prefill_seconds(time, fixed, NOTHING, 100) == pytest.approx(12e-3, rel=0.1)
    assert prefill_seconds(time, fixed, NOTHING, 250) == pytest.approx(2 * 12e-3 + 7e-3, rel=0.1)
    beside = prefill_seconds(time, fixed, Work.decode(50, 0), 250)
    assert beside == pytest.approx(5 * 12e-3, rel=0.1)  # half of each step is taken


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="target_seconds must be above 0"):
        TargetPace(StepTime(linear, 64), 0.0, LIMITS, 8)
    with pytest.raises(ValueError, match="needs a model of how long steps take"):
        Scheduler(Geometry(64, 16, 1, 8, 512), Limits(max_batch_tokens=64), target_seconds=0.05)


def test_forecasts_meet_their_outcomes():
    simulation = Simulation(blocks=400, max_batch=4, max_batch_tokens=64)
    for number in range(12):
        simulation.submit([number + 1] + [(number * i) % 60 for i in range(100)], max_tokens=20)
        for _ in range(8):
            simulation.step()
    simulation.submit([1] + [0 for i in range(100)], max_tokens=5)  # the first one's prompt
    simulation.run()
    found = {}
    for outcome in simulation.scheduler.outcomes:
        found.setdefault(outcome.what, []).append((outcome.predicted, outcome.outcome))
    assert {what: len(pairs) for what, pairs in found.items()} == {
        "wait": 13, "cached_tokens": 13, "time_to_first_token": 13
    }  # fmt: skip
    assert found["cached_tokens"][-1] == (96, 96)
    alone = found["time_to_first_token"][0]
    assert alone[0] == pytest.approx(alone[1], rel=0.3)
