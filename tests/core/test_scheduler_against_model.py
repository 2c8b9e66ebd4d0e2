"""Anything in any order: submissions, cancellations and steps, on pools too small for them."""

import itertools
from functools import partial

import pytest
from fake_tiers import FakeTiers
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from simulation import EOS, GREEDY, Simulation

from ridgeline.protocol import Sampling

# Prompts are made of a few texts, so that they share prefixes of every length.
TEXTS = [[1 + (i * 7 + j) % 60 for j in range(40)] for i in range(3)]
PROMPTS = st.builds(
    lambda first, kept, second, more: TEXTS[first][:kept] + TEXTS[second][:more],
    st.integers(0, 2),
    st.integers(1, 40),
    st.integers(0, 2),
    st.integers(0, 40),
)
SAMPLINGS = st.one_of(
    st.just(GREEDY),
    st.builds(Sampling, temperature=st.just(1.0), seed=st.integers(0, 3)),
    st.just(Sampling(temperature=0.0, seed=0, prompt_logprobs=1)),
)

TIERS = st.fixed_dictionaries(
    {
        "sizes": st.sampled_from([{"host": 40}, {"disk": 5}, {"host": 6, "disk": 60}]),
        "most_on_the_way": st.sampled_from([3, 1000]),
    }
)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        depth=st.sampled_from([0, 1]),
        blocks=st.integers(9, 30),
        max_batch=st.integers(1, 6),
        spare=st.integers(0, 40),
        max_waiting=st.integers(1, 12),
        expected=st.sampled_from([1, 20, 200]),
        target_seconds=st.sampled_from([0.0, 1e-6, 0.0013, 0.1]),
        tiers=st.one_of(st.none(), TIERS),
        right=st.one_of(st.none(), st.lists(st.booleans(), min_size=1)),
        copy_seconds=st.tuples(*[st.sampled_from([1e-7, 1e-3, 0.1])] * 2),
        read_faults=st.lists(st.sampled_from([None, None, None, *FakeTiers.READ_FAULTS]), min_size=1),
        write_faults=st.lists(st.sampled_from([None, None, None, *FakeTiers.WRITE_FAULTS]), min_size=1),
    )
    def begin(
        self,
        depth,
        blocks,
        max_batch,
        spare,
        max_waiting,
        expected,
        target_seconds,
        tiers,
        right,
        copy_seconds,
        read_faults,
        write_faults,
    ):
        self.simulation = Simulation(
            blocks=blocks,
            max_batch=max_batch,
            depth=depth,
            max_batch_tokens=max_batch + spare,
            max_waiting=max_waiting,
            expected_output_tokens=expected,
            target_seconds=target_seconds,
            tiers=tiers,
            right=right if depth == 0 else None,
        )
        if tiers is not None:
            fake = self.simulation.tiers
            fake.write_seconds, fake.read_seconds = copy_seconds
            fake.read_fault, fake.write_fault = (
                partial(next, itertools.cycle(faults)) for faults in (read_faults, write_faults)
            )

    @rule(
        prompt=PROMPTS,
        max_tokens=st.integers(0, 60),
        sampling=SAMPLINGS,
        min_tokens=st.sampled_from([0, 0, 10]),
        priority=st.sampled_from([0, 10]),
        tenant=st.sampled_from(["", "a", "b"]),
        ignore_eos=st.booleans(),
    )
    def submit(self, prompt, max_tokens, sampling, min_tokens, priority, tenant, ignore_eos):
        simulation = self.simulation
        full = simulation.scheduler.waiting >= simulation.limits.max_waiting
        taken = simulation.submit(
            prompt,
            max_tokens,
            sampling=sampling,
            min_tokens=min_tokens,
            priority=priority,
            tenant=tenant,
            stop_token_ids=frozenset() if ignore_eos else frozenset({EOS}),
        )
        if taken is None:
            fits = len(prompt) + max_tokens <= 16 * simulation.executor.geometry.blocks
            code = simulation.refusal.code
            assert code == ("at_capacity" if fits else "context_length_exceeded")
            assert full or not fits
        assert simulation.scheduler.running <= simulation.executor.geometry.max_batch

    @rule(
        prompts=st.lists(PROMPTS, min_size=2, max_size=10),
        max_tokens=st.integers(1, 100),
        priority=st.sampled_from([0, 10]),
        tenant=st.sampled_from(["", "a"]),
    )
    def burst(self, prompts, max_tokens, priority, tenant):
        for prompt in prompts:
            self.simulation.submit(
                prompt, max_tokens, priority=priority, tenant=tenant, stop_token_ids=frozenset()
            )

    @rule(count=st.integers(1, 40))
    def step(self, count):
        for _ in range(count):
            self.simulation.step()

    @precondition(lambda self: self.simulation.specs)
    @rule(data=st.data())
    def cancel(self, data):
        name = data.draw(st.sampled_from(sorted(self.simulation.specs)))
        ended = self.simulation.ended.get(name)
        self.simulation.cancel(name)
        assert self.simulation.ended[name] == (ended or "cancelled")

    def teardown(self):
        if hasattr(self, "simulation") and not self.simulation.broken:
            self.simulation.run(max_steps=5_000)
            self.simulation.settle()


SchedulerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestScheduler = SchedulerMachine.TestCase
TestScheduler.pytestmark = [pytest.mark.timeout(300)]
