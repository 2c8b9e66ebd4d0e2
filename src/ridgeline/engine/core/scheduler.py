"""Which sequence computes what in the next step, and what becomes of the result.

One token budget per step: decode rows first, then prefill chunks, shortest remaining first. All
blocks of a prompt are taken at admission, those of the answer as it grows. When they run out, the
running sequence that matters least is preempted: its blocks are released and it computes again
later whatever was evicted meanwhile.
"""

import bisect
import math

from ridgeline.engine.core.asked import Asked
from ridgeline.engine.core.budget import OLDEST_SHARE, prefill_order, served_before, share_prefill
from ridgeline.engine.core.copies import Copies, Moved, Order
from ridgeline.engine.core.counters import Counters
from ridgeline.engine.core.drafting import Drafter, Drafting
from ridgeline.engine.core.forecast import Outcome
from ridgeline.engine.core.foresight import Foresight, decode_work
from ridgeline.engine.core.journal import Journal
from ridgeline.engine.core.labelling import Labelling
from ridgeline.engine.core.limits import ExpectedOutput, Limits
from ridgeline.engine.core.line import Line
from ridgeline.engine.core.messages import Output
from ridgeline.engine.core.pace import Allowance, FixedPace, Pace, TargetPace
from ridgeline.engine.core.plan import Geometry, RowResult, StepPlan, StepResult
from ridgeline.engine.core.preemption import Victims
from ridgeline.engine.core.residence import Residence
from ridgeline.engine.core.rows import admission_of, ending, launch
from ridgeline.engine.core.sequence import LaunchedRow, LaunchedStep, Sequence, SequenceSpec
from ridgeline.engine.core.servable import refuse_unservable
from ridgeline.kvcache import KVCache, Match
from ridgeline.protocol import FinishReason, Refusal
from ridgeline.roofline import StepTime

LOADED_AHEAD = 4
"""Conversations that wait in the line are loaded from the tiers below the device before their turn
as long as no more than these wait: what is loaded for somebody far behind may be evicted again."""


class Scheduler:
    """Owns the sequences, the waiting line and the KV ledger of one engine.

    Used from one thread. `schedule` and `commit` alternate, or, at depth 1, `schedule` may be
    called once more before the `commit` of the plan before; plans are committed in order.

    Args:
        geometry: of the executor.
        limits: beyond which no step and no queue goes.
        cache: the KV ledger; None makes one.
        step_time: predicts steps; without it nothing is foretold of a sequence.
        target_seconds: inter-token latency that steps are kept under; 0: all are as `limits` allow.
        copies: to and from the tiers below the device; None where there are none.
        shared: keys of what tenants may share, from `kvcache.shared_keys`.
        drafter: guesses tokens in advance; None for no drafts, and where the executor's depth is not 0.
    """

    def __init__(
        self,
        geometry: Geometry,
        limits: Limits,
        cache: KVCache | None = None,
        *,
        step_time: StepTime | None = None,
        target_seconds: float = 0.0,
        copies: Copies | None = None,
        shared: frozenset[bytes] = frozenset(),
        drafter: Drafter | None = None,
    ) -> None:
        if limits.max_batch_tokens < geometry.max_batch:
            raise ValueError(
                f"max_batch_tokens is {limits.max_batch_tokens} but must be at least max_batch, "
                f"{geometry.max_batch}: every running sequence needs one token of the budget"
            )
        if target_seconds and step_time is None:
            raise ValueError("a target of inter-token latency needs a model of how long steps take")
        self.geometry = geometry
        self.limits = limits
        self.allowance = Allowance(limits.max_batch_tokens, geometry.max_batch, target_seconds)
        """What the step committed last was allowed."""
        self.outcomes: list[Outcome] = []
        """Forecasts that met their outcome; whoever reads them clears the list."""
        self.asked: list[Asked] = []
        """Prompts admitted; whoever reads them clears the list."""
        self.pace: Pace = (
            TargetPace(step_time, target_seconds, limits, geometry.max_batch)
            if step_time is not None and target_seconds
            else FixedPace(limits, geometry.max_batch)
        )
        """Sets the size of steps; another may take its place between two of them."""
        self.cache = cache or KVCache(geometry.blocks, geometry.block_size_tokens)
        self.counters = Counters()
        self.journal = Journal()
        """What is done with each sequence, and why; whoever tells it takes it."""
        self.copies = copies
        if copies is not None:
            copies.journal = self.journal
        self.starved_of_blocks = False
        """Whether the last `schedule` left somebody waiting because KV blocks were short."""
        self._expected = ExpectedOutput(limits.expected_output_tokens)
        self.labelling = Labelling(self.cache, copies)
        """What front doors call what is cached; whoever tells them takes what is new."""
        self._residence = Residence(self.cache, self._expected, limits.watermark, shared, self.labelling)
        self._drafting = Drafting(drafter, self._residence, self.cache, self.counters)
        self._foresight = Foresight(self._residence, step_time, copies)
        self._victims = Victims(self.cache, self._foresight)
        self._line = Line(limits.max_waiting, geometry.max_batch, self._expected)
        self._sequences: dict[str, Sequence] = {}
        self._running: list[Sequence] = []
        self._launched: dict[int, LaunchedStep] = {}
        self._free_slots = list(range(geometry.max_batch - 1, -1, -1))
        self._releases: list[int] = []
        self._step = 0
        self._order = 0
        self._last_commit = -math.inf

    @property
    def running(self) -> int:
        """Sequences with a slot: the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences without one."""
        return len(self._line)

    @property
    def blocks_promised(self) -> int:
        """KV blocks that those who run and those who wait are expected to take yet."""
        growth = self._residence.expected_growth(self._running)
        return growth + sum(map(self._residence.expected_need, self._line.sequences))

    @property
    def has_work(self) -> bool:
        """Whether some sequence is neither finished nor refused, or some step not collected."""
        return bool(self._sequences) or bool(self._launched)

    def estimated_wait_seconds(self, now: float) -> float:
        """What a request arriving now would wait for its first step."""
        if not self.waiting and self._free_slots and not self.starved_of_blocks:
            return 0.0
        return self._line.wait_seconds(self._running, now) or 0.0

    @property
    def rests_until(self) -> float | None:
        """When there may be something to do although nobody says so: a copy is waited for that long."""
        return None if self.copies is None else self.copies.next_deadline()

    def take_orders(self) -> list[Order]:
        """Copies to be carried out now, before another step is launched."""
        return [] if self.copies is None else self.copies.take_orders()

    def moved(self, message: Moved, now: float) -> None:
        """What became of a copy."""
        assert self.copies is not None, "nothing was ordered"
        self.copies.moved(message, now)

    # --- arrivals and departures ---------------------------------------------------------------

    def submit(self, spec: SequenceSpec, now: float, arrived_seconds: float | None = None) -> list[Output]:
        """Put a sequence into the queue; returns the refusal of another that had to make room.

        Raises:
            Refusal: `context_length_exceeded` when it can never fit, `at_capacity` when the
                queue is full, or when it must begin at once and would have to wait.
        """
        if spec.id in self._sequences:
            raise Refusal("invalid_request", f"The id {spec.id} is already in use.", param="id")
        refuse_unservable(spec, self.geometry)
        arrived = now if arrived_seconds is None else arrived_seconds
        sequence = Sequence(spec, arrived, tokens=list(spec.prompt), order=self._order)
        if spec.begin_at_once:
            self._refuse_to_wait(sequence, now)
        self.labelling.begin(sequence)
        wait = self.estimated_wait_seconds(now)
        displaced = self._line.join(sequence, self._running, now, len(self._free_slots))
        self._order += 1
        self._sequences[spec.id] = sequence
        sequence.forecast = self._foresight.forecast(sequence, wait, self._running, self.pace, now)
        self.journal.queued(sequence, self.waiting - 1, self.running, sequence.forecast, now)
        self._load_ahead(sequence, now)
        if displaced is None:
            return []
        del self._sequences[displaced.spec.id]
        self.labelling.ended(displaced)
        if self.copies is not None:
            self.copies.leave(displaced)
        refusal = self._line.refusal(self._running, now)
        self.journal.failed(displaced, refusal, now)
        return [Output(displaced.spec.id, refusal=refusal)]

    def _refuse_to_wait(self, sequence: Sequence, now: float) -> None:
        """Raises `at_capacity` where one would wait for a slot, or for the memory that others will free.

        What is decided is what `_admit` will decide in the next step, if nobody goes before this one.
        """
        if not self._sequences:
            return
        # What was allowed last says nothing of a batch that is empty now.
        most = self.allowance.sequences if self.running else self.geometry.max_batch
        places = min(len(self._free_slots), most - self.running) - self.waiting
        match = self._residence.match(sequence)
        if places > 0 and self._residence.has_room(sequence, match, self.blocks_promised):
            return
        raise Refusal(
            "at_capacity",
            f"{self.running} sequences run and {self.waiting} wait, with {self.cache.available} of "
            f"{self.cache.total} KV blocks free: this request would have to wait, and is not to.",
            retry_after_seconds=self.estimated_wait_seconds(now),
        )

    def _load_ahead(self, sequence: Sequence, now: float) -> None:
        """Begin to load a conversation that has come back, unless it would have to wait for long."""
        if self.copies is None or self.waiting > LOADED_AHEAD:
            return
        match = self._residence.match(sequence)
        if not self._residence.is_being_computed(sequence, match):
            self.copies.load(sequence, len(match.blocks), now)

    def cancel(self, sequence_id: str, now: float, reason: FinishReason = "cancelled") -> list[Output]:
        """End a sequence and free its blocks at once; nothing for unknown ids."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            return []
        self._end(sequence, now)
        self.journal.finished(sequence, reason, now)
        return [
            Output(
                sequence_id,
                finish=reason,
                cached_tokens=sequence.cached,
                queue_seconds=sequence.queue_seconds,
            )
        ]

    def fail(self, plan: StepPlan, now: float, refusal: Refusal) -> list[Output]:
        """A step broke: end every sequence of it, and let nobody find the KV it leaves behind."""
        broken = [
            row.sequence for row in self._launched.pop(plan.step).rows if row.sequence.epoch == row.epoch
        ]
        for sequence in broken:
            self._break(sequence, refusal, now)
        return [Output(sequence.spec.id, refusal=refusal) for sequence in broken]

    def _break(self, sequence: Sequence, refusal: Refusal, now: float) -> None:
        self.cache.discard(sequence.blocks)
        self._end(sequence, now)
        self.journal.failed(sequence, refusal, now)

    def _end(self, sequence: Sequence, now: float) -> None:
        if self.copies is not None:
            self.copies.leave(sequence)
        self.labelling.ended(sequence)
        if sequence.slot is None:
            self._line.leave(sequence)
        else:
            self._vacate(sequence, now)
            self._line.place_freed(now)
        del self._sequences[sequence.spec.id]

    def _vacate(self, sequence: Sequence, now: float) -> None:
        """Give back slot and blocks; the sequence's own tokens stay known."""
        assert sequence.slot is not None, "only a running sequence has something to give back"
        self._running.remove(sequence)
        self._releases.append(sequence.slot)
        self._free_slots.append(sequence.slot)
        sequence.slot = None
        sequence.epoch += 1
        self.journal.prefill_ends(sequence, now)
        if self.copies is not None:
            self.copies.save(sequence, now)
        self._residence.move_out(sequence, now)
        self._drafting.forget(sequence)

    # --- schedule ------------------------------------------------------------------------------

    def schedule(self, now: float) -> StepPlan | None:
        """Plan the next step; None when there is nothing to compute (yet)."""
        self.starved_of_blocks = False
        self._make_way(now)
        decoding = self._decoding(now)
        in_step = {sequence.slot for sequence in decoding}
        prefilling = [s for s in self._running if s.wants_more and s.slot not in in_step]
        allowed = self._allow(decoding, prefilling)
        budget = allowed.tokens - len(decoding)
        admitted = self._admit(prefilling, budget, allowed.sequences, now)
        prefilling += admitted
        # Beside a prompt nothing is hidden by reading weights.
        rows = self._drafting.decode_rows(decoding, 0 if prefilling else allowed.tokens, now)
        rows += [launch(s, count) for s, count in share_prefill(prefilling, budget)]
        if not rows:
            return None
        releases, self._releases = tuple(self._releases), []
        admissions = tuple(admission_of(sequence) for sequence in admitted)
        plan = StepPlan(self._step, tuple(row for row, _ in rows), admissions, releases)
        launched = tuple(launched for _, launched in rows)
        self._launched[self._step] = LaunchedStep(now, launched, allowed)
        self._step += 1
        return plan

    def _allow(self, decoding: list[Sequence], prefilling: list[Sequence]) -> Allowance:
        """How large this step may be."""
        first = min(prefilling, key=prefill_order, default=None)
        contexts = [s.next_position for s in self._running]
        mean = sum(contexts) / len(contexts) if contexts else 0.0
        work = decode_work(decoding)
        return Allowance(
            self.pace.tokens(work, 0 if first is None else first.next_position),
            self.pace.sequences(mean),
            self.pace.target_seconds,
        )

    def _decoding(self, now: float) -> list[Sequence]:
        """Sequences with one token left to compute, each with a block to put it into."""
        return [
            sequence
            for sequence in list(self._running)
            # Making room for one may have preempted another further down the list.
            if sequence.slot is not None
            and sequence.remaining == 1
            and sequence.wants_more
            and self._grow(sequence, now)
        ]

    def _grow(self, sequence: Sequence, now: float) -> bool:
        """Room for one more token; False when the sequence itself had to be preempted for it.

        Victims come from behind it in `_running`, where nobody has a row in this step yet.
        """
        while (need := self._residence.lacks(sequence)) > self.cache.available:
            victim = self._victims.of_growth(sequence, self._running)
            self._preempt(victim, sequence, now)
            if victim is sequence:
                return False
        self._residence.grow(sequence, need, now)
        return True

    def _preempt(self, sequence: Sequence, whom: Sequence, now: float) -> None:
        self.journal.preempted(sequence, whom, self._foresight.seconds_to_return(sequence), now)
        self._vacate(sequence, now)
        sequence.preemptions += 1
        self.counters.preemptions += 1
        self._line.rejoin(sequence, now)

    def _make_way(self, now: float) -> None:
        """Preempt what runs at a lower priority for a waiting sequence that finds no room."""
        while (waiting := self._line.head()) is not None and self._running:
            if self._running[-1].spec.priority <= waiting.spec.priority:
                return
            match = self._residence.match(waiting)
            growth = self._residence.expected_growth(self._running)
            if self._free_slots and self._residence.has_room(waiting, match, growth):
                return
            if (victim := self._victims.of_priority(waiting, self._running)) is None:
                return
            self._preempt(victim, waiting, now)

    def _admit(self, prefilling: list[Sequence], budget: int, most: int, now: float) -> list[Sequence]:
        """Give slots and blocks to waiting sequences that would compute something in this step."""
        admitted: list[Sequence] = []
        growth: int | None = None
        for sequence in self._line.candidates():
            ahead = [*prefilling, *admitted]
            reserved = budget // OLDEST_SHARE if ahead else 0
            is_full = not self._free_slots or self.running >= most
            if is_full:
                self.journal.held_up(sequence, "pace" if self._free_slots else "slots", now)
                break
            if served_before(sequence, ahead) >= budget - reserved:
                self.journal.held_up(sequence, "step", now)
                break
            match = self._residence.match(sequence)
            if self._is_coming(sequence, match, now):
                if not self._line.park(sequence):
                    break
                continue
            if growth is None and self._running:
                growth = self._residence.expected_growth(self._running)
            if not self._residence.has_room(sequence, match, growth):
                self.starved_of_blocks = True
                self.journal.held_up(sequence, "blocks", now)
                break
            if self.copies is not None and self.copies.load(sequence, len(match.blocks), now):
                self.journal.held_up(sequence, "load", now)
                if not self._line.park(sequence):
                    break
                continue
            self._start(sequence, match, now)
            growth = (growth or 0) + self._residence.expected_growth([sequence])
            admitted.append(sequence)
        return admitted

    def _is_coming(self, sequence: Sequence, match: Match, now: float) -> bool:
        """Whether what the device lacks is on its way there, by a copy or by another's computing."""
        if self.copies is not None and self.copies.is_loading(sequence, now):
            self.journal.held_up(sequence, "load", now)
            return True
        if self._residence.is_being_computed(sequence, match):
            self.journal.awaits(sequence, self._running, match, now)
            return True
        return False

    def _start(self, sequence: Sequence, match: Match, now: float) -> None:
        """Into the batch: a slot, the cached prefix, blocks for the rest of the known tokens."""
        self._line.leave(sequence, served=True)
        self.counters.count(match, sequence)
        self.journal.admitted(sequence, match, self.cache, now)
        self._residence.move_in(sequence, match, now)
        sequence.slot = self._free_slots.pop()
        bisect.insort(self._running, sequence, key=_rank)
        if sequence.admitted_seconds is None:
            if not sequence.scores_prompt:
                hits = len(match.blocks)
                self.asked.append(Asked(now, tuple(sequence.keys), hits, sequence.load_seconds))
            sequence.admitted_seconds = now
            sequence.cached = match.hit
            if sequence.forecast is not None:
                foretold, waited = sequence.forecast, now - sequence.arrived_seconds
                self.outcomes.append(Outcome("wait", foretold.wait_seconds, waited))
                self.outcomes.append(Outcome("cached_tokens", foretold.cached_tokens, match.hit))

    # --- commit --------------------------------------------------------------------------------

    def commit(self, plan: StepPlan, result: StepResult, now: float) -> list[Output]:
        """Take over what a step gave: counters, published blocks, new tokens, finished sequences."""
        outputs = []
        step = self._launched.pop(plan.step)
        self.allowance = step.allowance
        for launched, row_result in zip(step.rows, result.rows, strict=True):
            if launched.sequence.epoch != launched.epoch:
                continue  # finished, cancelled or preempted while the step was in flight
            output = self._commit_row(launched, row_result, now)
            if output is not None:
                outputs.append(output)
        self.counters.evicted_blocks = self.cache.evicted_blocks
        # Steps in flight at once overlap: only the time since the one before is this one's.
        self._line.step_took(now - max(step.launched_seconds, self._last_commit))
        self._last_commit = now
        return outputs

    def _commit_row(self, launched: LaunchedRow, result: RowResult, now: float) -> Output | None:
        sequence = launched.sequence
        if result.error is not None:
            refusal = Refusal("internal_error", result.error)
            self._break(sequence, refusal, now)
            return Output(sequence.spec.id, refusal=refusal)
        sequence.computed += launched.count
        sequence.scheduled -= launched.count
        sequence.drawing -= launched.sampled
        new_tokens, finish, stop_token_id = self._take_drawn(launched, result)
        # Drafts that were drawn are in the KV cache; the next step writes over the others.
        sequence.computed += max(0, len(new_tokens) - 1)
        sequence.reached = max(sequence.reached, sequence.computed)
        if sequence.prefill is not None:
            self._prefilled(sequence, launched.sampled, now)
        self._residence.publish(sequence)
        # After a preemption positions are scored a second time; they were reported before.
        prompt_scores = result.prompt_scores[max(0, sequence.scored - launched.start) :]
        sequence.scored += len(prompt_scores)
        if finish is not None:
            self._expected.observe(sequence.generated)
            self._end(sequence, now)
            self.journal.finished(sequence, finish, now)
        elif not (new_tokens or prompt_scores):
            return None
        return Output(
            sequence.spec.id,
            new_tokens,
            result.scores[: len(new_tokens)],
            prompt_scores,
            finish,
            stop_token_id,
            sequence.cached,
            sequence.queue_seconds,
        )

    def _take_drawn(
        self, launched: LaunchedRow, result: RowResult
    ) -> tuple[tuple[int, ...], FinishReason | None, int | None]:
        """What a row drew, up to where the answer ends; whether it does, and by which stop token."""
        assert bool(result.token_ids) == launched.sampled, "a row drew without being asked, or did not"
        assert len(result.token_ids) <= 1 + launched.drafts, "more was drawn than was computed"
        sequence, taken = launched.sequence, 0
        finish, stop_token_id = ending(sequence, None)
        while finish is None and taken < len(result.token_ids):
            sequence.tokens.append(result.token_ids[taken])
            taken += 1
            finish, stop_token_id = ending(sequence, sequence.tokens[-1])
        self._drafting.took(launched, taken)
        return result.token_ids[:taken], finish, stop_token_id

    def _prefilled(self, sequence: Sequence, last: bool, now: float) -> None:
        """A chunk of what was known at admission is computed; after the last one tokens are drawn."""
        self.journal.computed(sequence, last, now)
        if not last or sequence.first_token_seconds is not None:
            return
        sequence.first_token_seconds = now
        self.journal.first_token(sequence, now)
        if sequence.forecast is not None:
            predicted, took = sequence.forecast.first_token_seconds, now - sequence.arrived_seconds
            self.outcomes.append(Outcome("time_to_first_token", predicted, took))
            sequence.forecast = None

    # --- invariants ----------------------------------------------------------------------------

    def check(self) -> None:
        """Prove what must hold between any two calls; AssertionError if it does not."""
        self.cache.check([s.blocks for s in self._running])
        if self.copies is not None:
            self.copies.check()
        slots = [s.slot for s in self._running]
        assert None not in slots and len(set(slots)) == len(slots), "two sequences share a slot"
        assert len(slots) + len(self._free_slots) == self.geometry.max_batch, "a slot is lost"
        assert self._running == sorted(self._running, key=_rank), "the batch is out of order"
        assert self.running + self.waiting == len(self._sequences), "a sequence is lost"
        for s in self._running:
            assert len(s.blocks) >= self.cache.blocks_for(s.next_position), "KV without a block"


def _rank(sequence: Sequence) -> tuple[int, int]:
    """Order of the batch; the last is preempted first. Arrival counts, so the oldest progresses."""
    return (sequence.spec.priority, sequence.order)
