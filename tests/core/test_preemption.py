"""Who is put back when KV runs out: whoever loses least; and a burst leaves no damage behind."""

from dataclasses import replace

import pytest
from simulation import Simulation

from ridgeline.roofline import HARDWARE

SLOW = replace(
    HARDWARE["l40s"], bytes_per_second=3e7, flops_per_second={"bfloat16": 4e9}, name="a slow device"
)
TIERS = {"sizes": {"host": 400}}


def text(seed, tokens):
    return [1 + (seed * 11 + i * 7) % 60 for i in range(tokens)]


def preempted_order(simulation):
    """Ids in the order in which they were put back, until all have ended."""
    order = []
    while simulation.step():
        for s in simulation.scheduler._sequences.values():
            if s.preemptions and s.spec.id not in order:
                order.append(s.spec.id)
    return order


@pytest.mark.parametrize("tiers", [None, TIERS], ids=["no tiers", "tiers"])
def test_the_short_one_is_put_back_although_the_long_one_came_last(tiers):
    simulation = Simulation(
        blocks=27, max_batch=4, hardware=SLOW, tiers=tiers, watermark=0.0, expected_output_tokens=1
    )
    never_ends = frozenset()
    oldest = simulation.submit(text(1, 100), max_tokens=90, stop_token_ids=never_ends)
    short = simulation.submit(text(2, 20), max_tokens=90, stop_token_ids=never_ends)
    long = simulation.submit(text(3, 180), max_tokens=90, stop_token_ids=never_ends)
    order = preempted_order(simulation)
    simulation.check_idle()
    assert order[0] == short
    assert oldest not in order
    assert long in simulation.ended


def test_what_others_hold_too_makes_no_room():
    """The shortest shares all its blocks but one with the oldest: to put it back would gain a block."""
    simulation = Simulation(blocks=20, max_batch=4, hardware=SLOW, watermark=0.0, expected_output_tokens=1)
    shared = text(1, 96)
    simulation.submit(shared, max_tokens=100, stop_token_ids=frozenset())
    simulation.step()
    for seed in (2, 3):
        simulation.submit([*shared, *text(seed, 20)], max_tokens=100, stop_token_ids=frozenset())
    simulation.run()
    assert simulation.scheduler.counters.preemptions < 8


def tokens_per_second(simulation, seconds):
    """Of everybody, while users with two turns each come at a steady rate for so long."""
    clock, began, counted = simulation.clock, simulation.clock.now(), simulation.steps
    before = sum(len(answer) for answer in simulation.answers.values())
    number = 0
    while clock.now() < began + seconds:
        if clock.now() >= began + number * 0.5:
            number += 1
            simulation.submit(text(1000 + number % 7, 60), max_tokens=30, stop_token_ids=frozenset())
        simulation.answer()
        if not simulation.step():
            clock.wait_until(began + number * 0.5)
    assert simulation.steps > counted
    return (sum(len(answer) for answer in simulation.answers.values()) - before) / (clock.now() - began)


@pytest.mark.parametrize("tiers", [None, TIERS], ids=["no tiers", "tiers"])
def test_after_a_burst_throughput_is_what_it_was_within_the_time_that_the_burst_took(tiers):
    simulation = Simulation(
        blocks=60, max_batch=12, hardware=SLOW, tiers=tiers, watermark=0.0, expected_output_tokens=1
    )
    before = tokens_per_second(simulation, 30.0)
    began = simulation.clock.now()
    for seed in range(60):  # far more than fits, all of it growing
        simulation.submit(text(seed, 80), max_tokens=150, stop_token_ids=frozenset())
    simulation.run()
    took = simulation.clock.now() - began
    assert simulation.scheduler.counters.preemptions > 5, "the burst was none"
    # Work was not done again and again: at most a quarter of the burst's tokens.
    assert simulation.scheduler.counters.recomputed_preempted < 0.25 * 60 * (80 + 150)
    tokens_per_second(simulation, took)
    assert tokens_per_second(simulation, 30.0) > 0.95 * before
