"""Which sequence computes what in the next step, and what becomes of the result.

One token budget per step: decode rows first, then prefill chunks, shortest remaining first. All
blocks of a prompt are taken at admission, those of the answer as it grows. When they run out, the
running sequence that matters least is preempted: its blocks are released and it computes again
later whatever was evicted meanwhile.
"""

import bisect
from collections.abc import Iterator

from ridgeline.admission import DrainRate, WaitingQueue, at_capacity, wait_behind_batch
from ridgeline.engine.core.budget import OLDEST_SHARE, served_before, share_prefill
from ridgeline.engine.core.counters import Counters
from ridgeline.engine.core.limits import ExpectedOutput, Limits
from ridgeline.engine.core.messages import Output
from ridgeline.engine.core.plan import (
    IN_FLIGHT,
    Admission,
    Geometry,
    Row,
    RowResult,
    StepPlan,
    StepResult,
)
from ridgeline.engine.core.sequence import LaunchedRow, Sequence, SequenceSpec
from ridgeline.kvcache import KVCache, Match, extend_keys, root_key
from ridgeline.protocol import FinishReason, Refusal


class Scheduler:
    """Owns the sequences, the waiting queue and the KV ledger of one engine.

    Used from one thread. `schedule` and `commit` alternate, or, at depth 1, `schedule` may be
    called once more before the `commit` of the plan before; plans are committed in order.
    """

    def __init__(self, geometry: Geometry, limits: Limits, cache: KVCache | None = None) -> None:
        if limits.max_batch_tokens < geometry.max_batch:
            raise ValueError(
                f"max_batch_tokens is {limits.max_batch_tokens} but must be at least max_batch, "
                f"{geometry.max_batch}: every running sequence needs one token of the budget"
            )
        self.geometry = geometry
        self.limits = limits
        self.cache = cache or KVCache(geometry.blocks, geometry.block_size_tokens)
        self.queue = WaitingQueue(limits.max_waiting)
        self.drain = DrainRate()
        self.counters = Counters()
        self.starved_of_blocks = False
        """Whether the last `schedule` left somebody waiting because KV blocks were short."""
        self._expected = ExpectedOutput(limits.expected_output_tokens)
        self._watermark = max(1, round(limits.watermark * geometry.blocks))
        self._sequences: dict[str, Sequence] = {}
        self._running: list[Sequence] = []
        self._parked: list[Sequence] = []
        self._launched: dict[int, tuple[LaunchedRow, ...]] = {}
        self._free_slots = list(range(geometry.max_batch - 1, -1, -1))
        self._releases: list[int] = []
        self._step = 0
        self._order = 0
        self._step_seconds = 0.0
        self._last_commit: float | None = None

    # --- what is known of the load -------------------------------------------------------------

    @property
    def running(self) -> int:
        """Sequences with a slot: the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences without one."""
        return len(self._sequences) - len(self._running)

    @property
    def has_work(self) -> bool:
        """Whether some sequence is neither finished nor refused."""
        return bool(self._sequences) or bool(self._launched)

    def estimated_wait_seconds(self, now: float) -> float:
        """What a request arriving now would wait for its first step."""
        if not self.waiting and self._free_slots:
            return 0.0
        position = self.waiting + 1
        measured = self.drain.estimated_wait(position, now)
        if measured is None:
            to_come = [
                self._expected.total(s.generated, s.spec.max_tokens) - s.generated for s in self._running
            ]
            service = self._expected.total(0, self.geometry.max_context_tokens) * self._step_seconds
            measured = wait_behind_batch(position, [n * self._step_seconds for n in to_come], service)
        return measured or 0.0

    # --- arrivals and departures ---------------------------------------------------------------

    def submit(self, spec: SequenceSpec, now: float, arrived_seconds: float | None = None) -> list[Output]:
        """Put a sequence into the queue; returns the refusal of another that had to make room.

        Raises:
            Refusal: `context_length_exceeded` when it can never fit, `at_capacity` when the
                queue is full.
        """
        self._refuse_unservable(spec)
        displaced = self._displace(spec, now)
        arrived = now if arrived_seconds is None else arrived_seconds
        sequence = Sequence(spec, arrived, tokens=list(spec.prompt), order=self._order)
        self._order += 1
        self.queue.add(
            spec.id,
            priority=spec.priority,
            tenant=spec.tenant,
            cost_tokens=len(spec.prompt) + self._expected.total(0, spec.max_tokens),
            now=now,
            estimated_wait=lambda: self.estimated_wait_seconds(now),
        )
        self._sequences[spec.id] = sequence
        return displaced

    def _displace(self, spec: SequenceSpec, now: float) -> list[Output]:
        """Make room in a full queue, where priority or fairness says that another should go."""
        if not self.queue.full:
            return []
        victim = self.queue.displaced_by(priority=spec.priority, tenant=spec.tenant)
        if victim is None:
            return []
        wait = self.estimated_wait_seconds(now)
        refusal = at_capacity(len(self.queue), self.queue.max_waiting, wait)
        return [self._end(self._sequences[victim], now, Output(victim, refusal=refusal))]

    def _refuse_unservable(self, spec: SequenceSpec) -> None:
        if spec.id in self._sequences:
            raise Refusal("invalid_request", f"id {spec.id} is already in use", param="id")
        limit = min(self.geometry.max_context_tokens, self.geometry.blocks * self.geometry.block_size_tokens)
        asked = len(spec.prompt) + spec.max_tokens
        if not spec.prompt:
            raise Refusal("invalid_request", "the prompt has no tokens", param="prompt")
        if asked > limit:
            raise Refusal(
                "context_length_exceeded",
                f"prompt ({len(spec.prompt)} tokens) and max_tokens ({spec.max_tokens}) make {asked} "
                f"tokens, but at most {limit} fit into the context",
                param="max_tokens" if len(spec.prompt) < limit else "messages",
            )

    def cancel(self, sequence_id: str, now: float, reason: FinishReason = "cancelled") -> list[Output]:
        """End a sequence and free its blocks at once; nothing for unknown ids."""
        sequence = self._sequences.get(sequence_id)
        return [] if sequence is None else [self._end(sequence, now, Output(sequence_id, finish=reason))]

    def fail(self, plan: StepPlan, now: float, refusal: Refusal) -> list[Output]:
        """A step broke: end every sequence of it."""
        rows = self._launched.pop(plan.step)
        return [
            self._end(row.sequence, now, Output(row.sequence.spec.id, refusal=refusal))
            for row in rows
            if row.sequence.epoch == row.epoch
        ]

    def _end(self, sequence: Sequence, now: float, output: Output) -> Output:
        if sequence.slot is not None:
            self._vacate(sequence, now)
            self.drain.finished(now, backlog=self.waiting > 0)
        elif sequence in self._parked:
            self._parked.remove(sequence)
        else:
            self.queue.remove(sequence.spec.id)
        sequence.epoch += 1
        del self._sequences[sequence.spec.id]
        return output

    def _vacate(self, sequence: Sequence, now: float) -> None:
        """Give back slot and blocks; the sequence's own tokens stay known."""
        assert sequence.slot is not None
        self._running.remove(sequence)
        self._releases.append(sequence.slot)
        self._free_slots.append(sequence.slot)
        sequence.slot = None
        self.cache.retract(sequence.announced)
        self.cache.release(sequence.blocks, now)
        sequence.announced, sequence.blocks = [], []

    # --- schedule ------------------------------------------------------------------------------

    def schedule(self, now: float) -> StepPlan | None:
        """Plan the next step; None when there is nothing to compute (yet)."""
        self.starved_of_blocks = False
        self._make_way(now)
        rows = [self._launch(sequence, 1) for sequence in self._decoding(now)]
        budget = self.limits.max_batch_tokens - len(rows)
        in_step = {row.slot for row, _ in rows}
        prefilling = [s for s in self._running if s.wants_more and s.slot not in in_step]
        admitted = self._admit(prefilling, budget, now)
        prefilling += admitted
        rows += [self._launch(sequence, count) for sequence, count in share_prefill(prefilling, budget)]
        if not rows:
            return None
        releases, self._releases = tuple(self._releases), []
        plan = StepPlan(
            self._step, tuple(row for row, _ in rows), tuple(map(self._admission, admitted)), releases
        )
        self._launched[self._step] = tuple(launched for _, launched in rows)
        self._step += 1
        return plan

    def _decoding(self, now: float) -> list[Sequence]:
        """Sequences with one token left to compute, each with a block to put it into."""
        decoding = []
        for sequence in list(self._running):
            if sequence.slot is None or sequence.remaining != 1 or not sequence.wants_more:
                continue
            if self._grow(sequence, now):
                decoding.append(sequence)
        return decoding

    def _grow(self, sequence: Sequence, now: float) -> bool:
        """Room for one more token; False when the sequence itself had to be preempted for it.

        Victims come from the end of `_running`, which has no row in this step yet.
        """
        need = self.cache.blocks_for(sequence.next_position + 1) - len(sequence.blocks)
        while need > self.cache.available:
            victim = self._running[-1]
            self._preempt(victim, now)
            if victim is sequence:
                return False
        if need > 0:
            sequence.blocks += self.cache.allocate(need, now)
        return True

    def _preempt(self, sequence: Sequence, now: float) -> None:
        """Back to the queue's front; what was published stays cached as long as nobody needs it."""
        self._vacate(sequence, now)
        sequence.computed = sequence.scheduled = sequence.drawing = 0
        sequence.published = sequence.told_blocks = 0
        sequence.epoch += 1
        sequence.preemptions += 1
        self.counters.preemptions += 1
        spec = sequence.spec
        self.queue.requeue_front(
            spec.id, priority=spec.priority, tenant=spec.tenant, cost_tokens=len(sequence.tokens), now=now
        )

    def _launch(self, sequence: Sequence, count: int) -> tuple[Row, LaunchedRow]:
        """The next `count` tokens of a sequence, as a row and as what commit needs of it."""
        start = sequence.next_position
        end = start + count
        token_ids = tuple(sequence.tokens[start:end])
        token_ids += (IN_FLIGHT,) * (count - len(token_ids))
        sampled = end == len(sequence.tokens) + sequence.drawing and sequence.spec.max_tokens > 0
        assert sequence.slot is not None
        row = Row(
            sequence.slot,
            start,
            token_ids,
            tuple(sequence.blocks[sequence.told_blocks :]),
            sample=sampled,
            score_prompt=sequence.scores_prompt and start + 1 < len(sequence.spec.prompt),
        )
        sequence.told_blocks = len(sequence.blocks)
        sequence.scheduled += count
        sequence.drawing += sampled
        return row, LaunchedRow(sequence, sequence.epoch, start, count, sampled)

    # --- admission -----------------------------------------------------------------------------

    def _admit(self, prefilling: list[Sequence], budget: int, now: float) -> list[Sequence]:
        """Give slots and blocks to waiting sequences that would compute something in this step."""
        admitted: list[Sequence] = []
        growth: int | None = None
        for sequence in self._candidates():
            in_line = [*prefilling, *admitted]
            reserved = budget // OLDEST_SHARE if in_line else 0
            if not self._free_slots or served_before(sequence, in_line) >= budget - reserved:
                break
            match = self._match(sequence)
            if self._is_being_computed(sequence, match):
                self._park(sequence)
                continue
            if growth is None:
                growth = self._expected_growth(self._running)
            if not self._has_room(sequence, match, growth):
                self.starved_of_blocks = True
                break
            self._start(sequence, match, now)
            growth += self._expected_growth([sequence])
            admitted.append(sequence)
        return admitted

    def _candidates(self) -> Iterator[Sequence]:
        """Parked sequences first, which have been at the queue's head already, then the queue."""
        yield from list(self._parked)
        while (head := self.queue.peek()) is not None:
            sequence = self._sequences[head]
            yield sequence
            if self.queue.peek() == head:
                return

    def _match(self, sequence: Sequence) -> Match:
        """What the cache has of a waiting sequence; keys are computed once per token."""
        size = self.cache.block_size
        extend_keys(sequence.keys, root_key(sequence.spec.tenant), sequence.tokens, size)
        if sequence.scores_prompt:
            short = len(sequence.tokens)
            return Match((), 0, 0, 0, short)
        return self.cache.match(sequence.keys, sequence.tokens)

    def _is_being_computed(self, sequence: Sequence, match: Match) -> bool:
        """Whether a running sequence is about to publish the first block that is missing here."""
        first = len(match.blocks)
        return (
            not sequence.scores_prompt
            and first < (len(sequence.tokens) - 1) // self.cache.block_size
            and self.cache.is_coming(sequence.keys[first])
        )

    def _park(self, sequence: Sequence) -> None:
        if sequence not in self._parked:
            self.queue.remove(sequence.spec.id)
            self._parked.append(sequence)

    def _expected_growth(self, sequences: list[Sequence]) -> int:
        """Blocks that running sequences will still take, as far as can be expected."""
        growth = 0
        for s in sequences:
            final = len(s.spec.prompt) + self._expected.total(s.generated, s.spec.max_tokens)
            growth += max(0, self.cache.blocks_for(final) - len(s.blocks))
        return growth

    def _has_room(self, sequence: Sequence, match: Match, growth: int) -> bool:
        """Whether prompt and expected answer fit beside what runs, keeping the watermark.

        With nothing running there is nothing to wait for: whatever fits at all is let in.
        """
        need = self.cache.blocks_for(len(sequence.tokens)) - len(match.blocks)
        available = self.cache.available - self.cache.idle_among(match.blocks)
        if not self._running:
            return need <= available
        spec = sequence.spec
        final = len(spec.prompt) + self._expected.total(sequence.generated, spec.max_tokens)
        own_growth = self.cache.blocks_for(final) - self.cache.blocks_for(len(sequence.tokens))
        return need + max(0, own_growth) + growth + self._watermark <= available

    def _start(self, sequence: Sequence, match: Match, now: float) -> None:
        """Take a slot, the cached prefix, and blocks for the rest of the known tokens."""
        if sequence in self._parked:
            self._parked.remove(sequence)
        else:
            self.queue.remove(sequence.spec.id, served=True)
        self._count_match(sequence, match)
        self.cache.hold(match.blocks)
        need = self.cache.blocks_for(len(sequence.tokens)) - len(match.blocks)
        sequence.blocks = [*match.blocks, *self.cache.allocate(need, now)]
        sequence.computed = match.hit
        sequence.published = len(match.blocks)
        sequence.announced = sequence.keys[len(match.blocks) :]
        self.cache.announce(sequence.announced)
        sequence.slot = self._free_slots.pop()
        bisect.insort(self._running, sequence, key=_rank)
        if sequence.admitted_seconds is None:
            sequence.admitted_seconds = now
            sequence.cached = match.hit

    def _count_match(self, sequence: Sequence, match: Match) -> None:
        counters = self.counters
        if sequence.preemptions:
            counters.recomputed_preempted += max(0, sequence.reached - match.hit)
            return
        counters.hit += match.hit
        counters.evicted += match.evicted
        counters.cold += match.cold
        counters.short += match.short
        counters.recomputed_evicted += match.evicted

    def _admission(self, sequence: Sequence) -> Admission:
        spec = sequence.spec
        assert sequence.slot is not None
        return Admission(
            sequence.slot,
            tuple(sequence.tokens),
            len(spec.prompt),
            spec.sampling,
            banned_token_ids=tuple(sorted(spec.stop_token_ids)) if spec.min_tokens else (),
            min_tokens=spec.min_tokens,
        )

    def _make_way(self, now: float) -> None:
        """Preempt what runs at a lower priority for a waiting sequence that finds no room."""
        while (head := self.queue.peek()) is not None and self._running:
            sequence, victim = self._sequences[head], self._running[-1]
            if victim.spec.priority <= sequence.spec.priority:
                return
            match = self._match(sequence)
            growth = self._expected_growth(self._running)
            if self._free_slots and self._has_room(sequence, match, growth):
                return
            below = [s for s in self._running if s.spec.priority > sequence.spec.priority]
            need = self.cache.blocks_for(len(sequence.tokens))
            if need > self.cache.available + sum(len(s.blocks) for s in below):
                return
            self._preempt(victim, now)

    # --- commit --------------------------------------------------------------------------------

    def commit(self, plan: StepPlan, result: StepResult, now: float) -> list[Output]:
        """Take over what a step gave: counters, published blocks, new tokens, finished sequences."""
        outputs = []
        for launched, row_result in zip(self._launched.pop(plan.step), result.rows, strict=True):
            if launched.sequence.epoch != launched.epoch:
                continue  # finished, cancelled or preempted while the step was in flight
            output = self._commit_row(launched, row_result, now)
            if output is not None:
                outputs.append(output)
        self.counters.evicted_blocks = self.cache.evicted_blocks
        self._time_step(now)
        return outputs

    def _time_step(self, now: float) -> None:
        """Mean seconds from step to step while there is work: what one more token takes."""
        if self._last_commit is not None:
            seconds = now - self._last_commit
            self._step_seconds += (seconds - self._step_seconds) * (0.1 if self._step_seconds else 1.0)
        self._last_commit = now if self._running else None

    def _commit_row(self, launched: LaunchedRow, result: RowResult, now: float) -> Output | None:
        sequence = launched.sequence
        sequence.computed += launched.count
        sequence.scheduled -= launched.count
        sequence.reached = max(sequence.reached, sequence.computed)
        new_tokens: tuple[int, ...] = ()
        if launched.sampled:
            assert result.token_id is not None, "a sampling row gave no token"
            sequence.drawing -= 1
            sequence.tokens.append(result.token_id)
            new_tokens = (result.token_id,)
        self._publish(sequence)
        prompt_scores = result.prompt_scores[max(0, sequence.scored - launched.start) :]
        sequence.scored += len(prompt_scores)
        finish, stop_token_id = self._finish(sequence, new_tokens)
        if not (new_tokens or prompt_scores or finish):
            return None
        output = Output(
            sequence.spec.id,
            new_tokens,
            (result.score,) if result.score is not None else (),
            prompt_scores,
            finish,
            stop_token_id,
            sequence.cached,
            None
            if sequence.admitted_seconds is None
            else sequence.admitted_seconds - sequence.arrived_seconds,
        )
        if finish is not None:
            self._expected.observe(sequence.generated)
            return self._end(sequence, now, output)
        return output

    def _publish(self, sequence: Sequence) -> None:
        """Make blocks findable whose last token's KV is written."""
        size = self.cache.block_size
        full = sequence.computed // size
        if full == sequence.published:
            return
        extend_keys(sequence.keys, root_key(sequence.spec.tenant), sequence.tokens, size)
        for i in range(sequence.published, full):
            tokens = tuple(sequence.tokens[i * size : (i + 1) * size])
            self.cache.publish(sequence.blocks[i], sequence.keys[i], tokens, i)
        done = sequence.announced[: full - sequence.published]
        self.cache.retract(done)
        sequence.announced = sequence.announced[len(done) :]
        sequence.published = full

    @staticmethod
    def _finish(sequence: Sequence, new_tokens: tuple[int, ...]) -> tuple[FinishReason | None, int | None]:
        spec = sequence.spec
        if new_tokens and new_tokens[-1] in spec.stop_token_ids and sequence.generated > spec.min_tokens:
            return "stop", new_tokens[-1]
        if spec.max_tokens == 0:
            return ("length" if sequence.computed >= len(spec.prompt) else None), None
        return ("length" if sequence.generated >= spec.max_tokens else None), None

    # --- invariants ----------------------------------------------------------------------------

    def check(self) -> None:
        """Prove what must hold between any two calls; AssertionError if it does not."""
        self.cache.check([s.blocks for s in self._running])
        slots = [s.slot for s in self._running]
        assert None not in slots and len(set(slots)) == len(slots), "two sequences share a slot"
        assert len(slots) + len(self._free_slots) == self.geometry.max_batch, "a slot is lost"
        assert self._running == sorted(self._running, key=_rank), "the batch is out of order"
        states = len(self._running) + len(self._parked) + len(self.queue)
        assert states == len(self._sequences), "a sequence is neither waiting nor running"
        for s in self._running:
            assert len(s.blocks) >= self.cache.blocks_for(s.next_position), "KV without a block"


def _rank(sequence: Sequence) -> tuple[int, int]:
    """Order of the batch; the last is preempted first. Arrival counts, so the oldest progresses."""
    return (sequence.spec.priority, sequence.order)
