"""The learned time of a step, on devices whose truth is known here and not to it."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.roofline import HARDWARE, Attained, Efficiency, ModelShape, StepTime, Work, step_cost

SHAPE = ModelShape(32, 4096, 32, 8, 128, 14336, 128256, tied_head=False)
BELIEVED = HARDWARE["h100"]
TRUTH = replace(BELIEVED, efficiency=Efficiency(0.4, 0.6, 10e-6, 3e-3))


def believed(work: Work) -> float:
    return step_cost(SHAPE, BELIEVED, "bfloat16", work).seconds


def true_seconds(work: Work) -> float:
    return step_cost(SHAPE, TRUTH, "bfloat16", work).seconds + 20e-6 * work.sequences


def some_work(draw: random.Random) -> Work:
    decoding = [(1, draw.randrange(50, 4000)) for _ in range(draw.choice((0, 1, 4, 30, 120)))]
    chunks = [(draw.choice((16, 100, 700, 2000)), draw.randrange(0, 3000))] if draw.random() < 0.5 else []
    rows = decoding + chunks or [(1, 10)]
    return Work.of(rows, len(decoding) + len(chunks))


def taught(steps: int = 2000, noise: float = 0.05, seed: int = 1) -> StepTime:
    learner, draw = StepTime(believed, 8192), random.Random(seed)
    for _ in range(steps):
        work = some_work(draw)
        learner.observe(work, true_seconds(work) * math.exp(draw.gauss(0, noise)))
    return learner


def errors(learner: StepTime, seed: int = 99, count: int = 400) -> list[float]:
    draw = random.Random(seed)
    works = [some_work(draw) for _ in range(count)]
    return sorted(abs(learner.seconds(work) / true_seconds(work) - 1) for work in works)


def test_before_anything_was_seen_it_is_the_roofline():
    learner = StepTime(believed, 8192)
    for tokens in (1, 64, 4096):
        work = Work.of([(tokens, 0)], 0)
        assert learner.seconds(work) == pytest.approx(believed(work), rel=0.02)
    assert errors(learner)[200] > 0.2  # so that there is something to learn


def test_it_learns_what_other_steps_will_take():
    found = errors(taught())
    assert found[200] < 0.05
    assert found[360] < 0.15


def test_slow_steps_now_and_then_do_not_spoil_it():
    learner, draw = StepTime(believed, 8192), random.Random(3)
    for _ in range(2000):
        work = some_work(draw)
        learner.observe(work, true_seconds(work) * (draw.uniform(3, 20) if draw.random() < 0.05 else 1.0))
    assert errors(learner)[200] < 0.08


def test_it_follows_a_device_that_becomes_slower():
    learner, draw = taught(), random.Random(5)
    for _ in range(1500):
        work = some_work(draw)
        learner.observe(work, 1.7 * true_seconds(work))
    ratios = [learner.seconds(work) / true_seconds(work) for work in (some_work(draw) for _ in range(200))]
    assert sorted(ratios)[100] == pytest.approx(1.7, rel=0.08)


def test_an_hour_of_decoding_does_not_wash_out_prefill():
    learner = taught()
    prompt = Work.of([(2000, 500)], 1)
    before = learner.seconds(prompt)
    for _ in range(5000):
        work = Work.decode(30, 700)
        learner.observe(work, true_seconds(work))
    assert learner.seconds(prompt) == pytest.approx(before, rel=0.05)


def test_what_was_never_seen_follows_its_neighbours():
    learner = StepTime(believed, 8192)
    for tokens in (256, 512, 1024) * 50:
        work = Work.of([(tokens, 0)], 1)
        learner.observe(work, 3 * believed(work))
    unseen = Work.of([(4096, 0)], 1)
    assert learner.seconds(unseen) > 1.8 * believed(unseen)


def test_the_high_ratio_covers_nearly_all_steps():
    learner, draw = taught(4000, noise=0.1), random.Random(8)
    works = [some_work(draw) for _ in range(1000)]
    kept = sum(
        true_seconds(work) * math.exp(draw.gauss(0, 0.1)) <= learner.high_ratio * learner.seconds(work)
        for work in works
    )
    assert 0.93 <= kept / 1000 <= 1.0
    assert 1.05 < learner.high_ratio < 1.6


@given(st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 9000), st.floats(1e-6, 1e3)), max_size=60))
def test_whatever_it_is_told_its_predictions_are_times(steps):
    learner = StepTime(believed, 8192)
    for tokens, context, seconds in steps:
        learner.observe(Work.of([(tokens, context)], 1), seconds)
    for tokens in (1, 3, 100, 20_000):
        predicted = learner.seconds(Work.of([(tokens, 100)], 1))
        assert 0 < predicted < 1e9
    assert 1.0 <= learner.high_ratio <= 2.0


def played(draw_work, believed_hardware=BELIEVED, steps=300):
    attained, draw = Attained(believed_hardware, "bfloat16", SHAPE.layers), random.Random(4)
    for _ in range(steps):
        work = draw_work(draw)
        cost = step_cost(SHAPE, believed_hardware, "bfloat16", work)
        attained.observe(cost, true_seconds(work) * math.exp(draw.gauss(0, 0.03)))
    return attained.hardware.efficiency


def test_attained_efficiencies_are_the_devices():
    found = played(some_work)
    # The device's 3.3 ms a step are more than the 2.1 believed, and what is over counts as reading.
    assert found.compute == pytest.approx(0.4, rel=0.15)
    assert found.bandwidth == pytest.approx(0.6, rel=0.15)
    assert found.step_seconds == pytest.approx(2.13e-3, rel=0.01)


def test_decoding_alone_says_nothing_of_arithmetic():
    found = played(lambda draw: Work.decode(1, draw.randrange(100, 300)))
    assert found.compute == BELIEVED.efficiency.compute


def test_launching_cannot_take_longer_than_short_steps_do():
    slow = replace(BELIEVED, efficiency=replace(BELIEVED.efficiency, step_seconds=0.5))
    found = played(lambda draw: Work.decode(1, 200), slow)
    assert found.step_seconds < 8e-3
    assert found.bandwidth > 0.5


def test_coefficients_are_named():
    names = taught(50).coefficients
    assert {"step_of_1_tokens", "step_of_8192_tokens", "cached_token", "attended_pair", "sequence"} < set(
        names
    )
    assert all(value > 0 for value in names.values())
