"""The scheduler on the simulated device under a virtual clock, watched at every step.

What is watched, of whatever is thrown at it: the ledger adds up and no block is lost; a step keeps
to its token budget; a lower priority is not admitted past a higher one; the device finds every
KV position that a row relies on; whoever is accepted ends exactly once; and its tokens are those
of an undisturbed run, known beforehand from the hash model alone.
"""

import itertools
from array import array

from fake_tiers import FakeTiers

from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.executors.clock import VirtualClock
from ridgeline.engine.executors.simulated import SimulatedExecutor
from ridgeline.engine.executors.simulated_model import HashModel, extend_hashes
from ridgeline.engine.meter import CostModel
from ridgeline.kvcache import KVCache
from ridgeline.protocol import Refusal, Sampling
from ridgeline.protocol.timeline import (
    ANOTHER_USER,
    Admitted,
    Finished,
    FirstToken,
    Matched,
    Preempted,
    Queued,
    Refused,
)
from ridgeline.roofline import HARDWARE, ModelShape

SHAPE = ModelShape(4, 64, 4, 2, 16, 128, 64, tied_head=True)
BLOCK_BYTES = 16 * SHAPE.kv_bytes_per_token(2)
VOCAB = 64
EOS = 0
MEAN_ANSWER_TOKENS = 25.0
GREEDY = Sampling(temperature=0.0, seed=0)


def expected_tokens(spec):
    """The whole answer, from the hash model alone; `spec.min_tokens` bans the end until then."""
    model = HashModel(VOCAB, eos_token_id=EOS, mean_answer_tokens=MEAN_ANSWER_TOKENS)
    hashes = array("Q")
    extend_hashes(hashes, spec.prompt)
    tokens = []
    while len(tokens) < spec.max_tokens:
        banned = spec.stop_token_ids if len(tokens) < spec.min_tokens else ()
        token, _ = model.draw(hashes[-1], spec.sampling, banned)
        tokens.append(token)
        extend_hashes(hashes, (token,))
        if token in spec.stop_token_ids:
            break
    return tokens


class Foreseeing:
    """A drafter that knows what comes, and is wrong where `right` says so; it also drafts beyond the end."""

    def __init__(self, specs, right):
        self._specs, self._right = specs, itertools.cycle(right)
        self._known = {}

    def draft(self, sequence, room):
        name = sequence.spec.id
        if name not in self._known:
            self._known[name] = expected_tokens(self._specs[name])
        coming = (self._known[name] + [1] * room)[sequence.generated :][:room]
        return tuple(token if next(self._right) else (token + 1) % VOCAB for token in coming)

    def told(self, sequence, drafted, accepted):
        assert 0 <= accepted <= drafted

    def forget(self, sequence):
        self._known.pop(sequence.spec.id, None)


class Simulation:
    """One engine, stepped by hand. `answers` and `ended` fill as outputs come. `right` tells which drafts
    are; None: there are none."""

    def __init__(
        self,
        *,
        blocks=64,
        max_batch=8,
        depth=1,
        max_context_tokens=512,
        check=True,
        target_seconds=0.0,
        tiers=None,
        policy=None,
        right=None,
        hardware=HARDWARE["l40s"],
        **limits,
    ):
        self.clock = VirtualClock()
        self.executor = SimulatedExecutor(
            SHAPE,
            hardware,
            dtype="bfloat16",
            vocab_size=VOCAB,
            kv_memory_bytes=blocks * BLOCK_BYTES,
            max_batch=max_batch,
            max_context_tokens=max_context_tokens,
            depth=depth,
            clock=self.clock,
            eos_token_id=EOS,
            mean_answer_tokens=MEAN_ANSWER_TOKENS,
        )
        self.limits = Limits(**{"max_batch_tokens": 64, "max_waiting": 1000, **limits})
        self.costs = CostModel(SHAPE, hardware, "bfloat16", self.limits.max_batch_tokens)
        geometry = self.executor.geometry
        cache = KVCache(geometry.blocks, geometry.block_size_tokens, policy)
        self.tiers = None if not tiers else FakeTiers(self.executor, cache, self.costs, **tiers)
        self.specs = {}
        self.scheduler = Scheduler(
            self.executor.geometry,
            self.limits,
            cache,
            drafter=None if right is None else Foreseeing(self.specs, right),
            copies=self.tiers.copies if self.tiers else None,
            step_time=self.costs.step_time,
            target_seconds=target_seconds,
        )
        self.answers = {}
        self.ended = {}
        self.scores = {}
        self.first_seconds = {}
        self.events = {}
        self.submitted_seconds = {}
        self.steps = 0
        self.broken = False  # a step failed: what follows would only hide why
        self._in_flight = []
        self._check = check
        self._made = 0

    def submit(self, prompt, max_tokens=20, **more):
        """Returns the id, or None when it was refused."""
        self._made += 1
        spec = SequenceSpec(
            **{
                "id": str(self._made),
                "prompt": tuple(prompt),
                "sampling": GREEDY,
                "max_tokens": max_tokens,
                "stop_token_ids": frozenset({EOS}),
                **more,
            }
        )
        try:
            outputs = self.scheduler.submit(spec, self.clock.now())
        except Refusal as refusal:
            self.refusal = refusal
            return None
        self.specs[spec.id] = spec
        self.answers[spec.id] = []
        self.scores[spec.id] = []
        self.submitted_seconds[spec.id] = self.clock.now()
        self._take(outputs)
        self._copy()
        return spec.id

    def cancel(self, sequence_id):
        """Blocks and slot are free at once."""
        running = self.scheduler.running
        was_running = any(s.spec.id == sequence_id for s in self.scheduler._running)
        self._take(self.scheduler.cancel(sequence_id, self.clock.now()))
        assert self.scheduler.running == running - was_running
        self._copy()
        self.check()

    def step(self):
        """Schedule, execute, sample, commit, as `Engine.step` does; False when nothing was left."""
        if not self.scheduler.has_work:
            return False
        self.steps += 1
        self.broken = True
        self.answer()
        plan = self.scheduler.schedule(self.clock.now())
        self.check()
        self._copy()
        if plan is not None:
            self._check_plan(plan)
            self._in_flight.append(self.executor.launch(plan))
        if plan is None and not self._in_flight:
            self._wait_for_copies()
        elif plan is None or len(self._in_flight) > self.executor.depth:
            handle = self._in_flight.pop(0)
            result = self.executor.collect(handle)
            self._take(self.scheduler.commit(handle.plan, result, self.clock.now()))
            self._copy()
            work = self.costs.work(handle.plan)
            self.costs.observe(work, self.costs.cost(work), result.device_seconds)
            self.check()
        self.broken = False
        return True

    def answer(self):
        """What the tiers have done by now reaches the scheduler."""
        if self.tiers is not None:
            for message in self.tiers.due(self.clock.now()):
                self.scheduler.moved(message, self.clock.now())
                self._copy()
                self.check()

    def _copy(self):
        for order in self.scheduler.take_orders():
            self.tiers.carry_out(order, self.clock.now())

    def _wait_for_copies(self):
        """Nothing can be computed: then something is on its way, or will not be waited for any more."""
        until = self.scheduler.rests_until
        assert until is not None, "deadlock: work, but nothing to compute"
        arrives = self.tiers.next_seconds
        self.clock.wait_until(until if arrives is None else min(until, arrives))

    def settle(self):
        """Until all copies have come to an end."""
        while self.tiers is not None and self.tiers.next_seconds is not None:
            self.clock.wait_until(self.tiers.next_seconds)
            self.answer()

    def run(self, max_steps=100_000):
        """Until everything has ended."""
        before = self.steps
        while self.step():
            assert self.steps - before < max_steps, "livelock: steps without an end"
        self.check_idle()

    def check(self):
        if self._check:
            self.scheduler.check()
            cache = self.scheduler.cache
            assert cache.free + cache.held + cache.idle == cache.total
            held = {block for s in self.scheduler._running for block in s.blocks}
            assert cache.held == len(held)

    def check_idle(self):
        """Nobody left: nothing is held, nothing is waiting, all answers are right."""
        scheduler = self.scheduler
        scheduler.check()
        assert scheduler.running == scheduler.waiting == scheduler.cache.held == 0
        assert not scheduler.has_work and not self._in_flight
        assert not scheduler.cache._coming, "a block is announced by nobody"
        for name, spec in self.specs.items():
            self.check_answer(name, spec)
            self.check_story(name, spec)

    def check_answer(self, name, spec):
        answer, ended, right = self.answers[name], self.ended[name], expected_tokens(spec)
        assert answer == right[: len(answer)], f"{name} got other tokens than alone"
        if ended in ("stop", "length"):
            assert answer == right, f"{name} ended too early"
            assert (ended == "stop") == (bool(answer) and answer[-1] in spec.stop_token_ids)
        if ended == "at_capacity":
            assert not answer

    def check_story(self, name, spec):
        """It begins in the line, ends once, and every token of a prompt is accounted for."""
        events, ended = self.story(name), self.ended[name]
        assert isinstance(events[0], Queued)
        assert [type(e) for e in events if isinstance(e, Finished | Refused)] == [type(events[-1])]
        if ended == "at_capacity":
            assert events[-1].code == ended
        else:
            assert (events[-1].reason, events[-1].tokens) == (ended, len(self.answers[name]))
        for matched in (e for e in events if isinstance(e, Matched)):
            found = matched.device_tokens + sum(matched.loaded_tokens.values())
            known = found + matched.evicted_tokens + matched.cold_tokens + matched.short_tokens
            assert known >= len(spec.prompt)
            assert sum(e.tokens for e in matched.evictions) <= matched.evicted_tokens
            for evicted in matched.evictions:
                assert evicted.by in ("", ANOTHER_USER) or self.specs[evicted.by].tenant == spec.tenant
        for left in (e for e in events if isinstance(e, Preempted)):
            assert left.by == ANOTHER_USER or self.specs[left.by].tenant == spec.tenant
        times = [e.seconds for e in events]
        assert times == sorted(times)
        if ended in ("stop", "length") and spec.max_tokens:
            assert sum(isinstance(e, FirstToken) for e in events) == 1
            admitted = next(e for e in events if isinstance(e, Admitted))
            waited = admitted.seconds - self.submitted_seconds[name]
            assert abs(sum(admitted.waited.values()) - waited) < 1e-9

    def _check_plan(self, plan):
        allowed = self.scheduler._launched[plan.step].allowance
        assert 0 < plan.tokens <= allowed.tokens <= self.limits.max_batch_tokens
        assert len(plan.rows) <= self.executor.geometry.max_batch
        if not plan.admissions or not self._check:
            return
        scheduler = self.scheduler
        admitted = {a.slot for a in plan.admissions}
        worst = max(s.spec.priority for s in scheduler._running if s.slot in admitted)
        parked = scheduler._line._parked
        for s in scheduler._line._waiting.values():
            assert s.spec.id in parked or s.spec.priority >= worst, "admitted past a higher priority"

    def story(self, name, *kinds):
        """What the journal told of a sequence, of these kinds alone if any are given."""
        self._listen()
        return [event for event in self.events.get(name, []) if not kinds or isinstance(event, kinds)]

    def _listen(self):
        for told in self.scheduler.journal.take():
            self.events.setdefault(told.sequence_id, []).extend(told.events)

    def _take(self, outputs):
        self._listen()
        for output in outputs:
            name = output.sequence_id
            assert name not in self.ended, f"{name} has ended and goes on"
            self.answers[name] += output.token_ids
            self.scores[name] += output.prompt_scores
            if output.token_ids:
                self.first_seconds.setdefault(name, self.clock.now())
            if output.refusal is not None:
                assert output.refusal.code == "at_capacity", output.refusal
                self.ended[name] = "at_capacity"
            elif output.finish is not None:
                self.ended[name] = output.finish
