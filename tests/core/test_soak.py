"""An hour of a busy service on the virtual clock: conversations, bursts, cancels, tiers that fail."""

import random
from dataclasses import replace

import pytest
from fake_tiers import FakeTiers
from simulation import Simulation

from ridgeline.roofline import HARDWARE

USERS = 60
SLOW = replace(
    HARDWARE["l40s"], bytes_per_second=3e7, flops_per_second={"bfloat16": 4e9}, name="a slow device"
)
"""Its steps take some 30 ms, so that sixty people are a load for it."""

COPY_SECONDS = [1e-4] * 30 + [1e-3, 0.05]
"""Most copies are quick; one that is not should not end them for good."""

BLOCKS = 120
"""Some twelve conversations of the sixty."""


class User:
    """Somebody with a conversation that grows, or is left and begun anew."""

    def __init__(self, number, rng):
        self.number, self.rng = number, rng
        self.tenant = f"tenant {number % 5}"
        self.next_seconds = rng.uniform(0, 60)
        self.waiting_for = None
        self.begin()

    def begin(self):
        self.turns = 0
        self.history = [1 + self.rng.randrange(60) for _ in range(self.rng.choice([5, 40, 90]))]

    def ask(self, simulation):
        self.waiting_for = simulation.submit(
            self.history,
            max_tokens=self.rng.choice([1, 10, 40, 160]),
            tenant=self.tenant,
            priority=self.rng.choice([0, 0, 0, 10]),
            stop_token_ids=frozenset({0}) if self.rng.random() < 0.7 else frozenset(),
        )
        if self.waiting_for is None:  # refused
            self.next_seconds = simulation.clock.now() + self.rng.expovariate(1 / 10)

    def answered(self, simulation):
        self.history = self.history + simulation.answers[self.waiting_for]
        self.history += [1 + self.rng.randrange(60) for _ in range(self.rng.choice([3, 20]))]
        self.turns += 1
        if self.turns >= 6 or len(self.history) > 300:
            self.begin()
        self.waiting_for = None
        self.next_seconds = simulation.clock.now() + self.rng.expovariate(1 / 20)


def forget_the_ended(simulation, keep):
    """What has ended and was looked at; an hour's answers would only take memory."""
    for name in [name for name in simulation.ended if name not in keep]:
        simulation.check_answer(name, simulation.specs[name])
        for kept in (simulation.specs, simulation.answers, simulation.ended, simulation.scores):
            kept.pop(name)


def faults(rng, kinds, share):
    return lambda: rng.choice(kinds) if rng.random() < share else None


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize(("depth", "seconds"), [(1, 3600.0), (0, 900.0)])
def test_an_hour(depth, seconds):
    rng = random.Random(depth)
    simulation = Simulation(
        blocks=BLOCKS,
        max_batch=24,
        depth=depth,
        check=False,
        max_waiting=40,
        watermark=0.0,
        hardware=SLOW,
        tiers={"sizes": {"host": 150, "disk": 500}, "most_on_the_way": 60},
    )
    tiers = simulation.tiers
    tiers.read_fault = faults(rng, FakeTiers.READ_FAULTS, 0.05)
    tiers.write_fault = faults(rng, FakeTiers.WRITE_FAULTS, 0.05)
    users = [User(number, rng) for number in range(USERS)]
    clock, bursts, requests, cancelled = simulation.clock, 0, 0, 0
    while clock.now() < seconds:
        now = clock.now()
        if int(now / 300) > bursts:  # everybody at once, every five minutes
            bursts += 1
            for user in users:
                user.next_seconds = min(user.next_seconds, now)
        tiers.read_seconds, tiers.write_seconds = (rng.choice(COPY_SECONDS) for _ in range(2))
        for user in users:
            if user.waiting_for is None and user.next_seconds <= now:
                user.ask(simulation)
                requests += user.waiting_for is not None
            elif user.waiting_for in simulation.ended:
                user.answered(simulation)
            elif user.waiting_for is not None and rng.random() < 0.0005:
                simulation.cancel(user.waiting_for)
                cancelled += 1
        simulation.answer()
        if not simulation.step():
            clock.wait_until(min([seconds, *(u.next_seconds for u in users if u.waiting_for is None)]))
            # Nobody runs or waits: every block is free or idle, and the device's ledger adds up.
            simulation.scheduler.check()
            assert simulation.scheduler.cache.held == 0
            forget_the_ended(simulation, {user.waiting_for for user in users})
        elif simulation.steps % 50 == 0:
            simulation.scheduler.check()
    simulation.run()
    simulation.settle()
    simulation.check_idle()
    tiers.copies.check()
    assert tiers.copies.on_the_way == 0 and tiers.copies.next_deadline() is None
    for ledger in tiers.copies.tiers.ledgers:
        assert ledger.used == ledger.stored <= ledger.blocks
    counters, counted = tiers.copies.counters, simulation.scheduler.counters
    # It was no quiet hour.
    assert requests > seconds and cancelled > 10 and bursts == seconds // 300 - 1
    assert counted.preemptions > 0 and counted.evicted_blocks > 1000 and counted.hit > 10_000
    assert all(
        each.loaded > 100 and each.not_loaded > 10 and each.not_saved > 10 for each in counters.values()
    )
