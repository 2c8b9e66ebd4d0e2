"""The line before the batch: the fair queue, who is parked at its head, and how long it takes."""

from collections import deque
from collections.abc import Collection, Iterator
from collections.abc import Sequence as Seq

from ridgeline.admission import DrainRate, WaitingQueue, at_capacity, wait_behind_batch
from ridgeline.engine.core.limits import ExpectedOutput
from ridgeline.engine.core.sequence import Sequence
from ridgeline.protocol import Refusal


class Line:
    """Waiting sequences. A parked one has been at the head and waits for blocks that a running
    sequence is computing at this moment; it is asked first, in its order, and bars nobody's way.
    No more are parked than the batch has places: the rest wait in the queue, bounded and fair.
    """

    def __init__(self, max_waiting: int, max_batch: int, expected: ExpectedOutput) -> None:
        self._queue = WaitingQueue(max_waiting)
        self._max_batch = max_batch
        self._expected = expected
        self._waiting: dict[str, Sequence] = {}
        self._parked: dict[str, Sequence] = {}
        self._drain = DrainRate()
        self._step_seconds = 0.0

    def __len__(self) -> int:
        return len(self._queue) + len(self._parked)

    @property
    def sequences(self) -> Collection[Sequence]:
        """All that wait, in no order."""
        return self._waiting.values()

    def head(self) -> Sequence | None:
        """First of the queue, parked ones aside."""
        name = self._queue.peek()
        return None if name is None else self._waiting[name]

    def candidates(self) -> Iterator[Sequence]:
        """Whom to admit next; ends when the head of the queue was neither taken nor parked.

        Parked ones go before the queue's of their priority, but not before a better priority.
        """
        parked = deque(sorted(self._parked.values(), key=lambda s: s.spec.priority))
        while True:
            head = self.head()
            if parked and (head is None or parked[0].spec.priority <= head.spec.priority):
                yield parked.popleft()
            elif head is None:
                return
            else:
                yield head
                if self.head() is head:
                    return

    def join(
        self, sequence: Sequence, running: Seq[Sequence], now: float, free_slots: int
    ) -> Sequence | None:
        """Queue up; returns who was displaced for it from a full queue, if anybody.

        Raises:
            Refusal: `at_capacity`, with the computed wait.
        """
        spec = sequence.spec
        displaced = None
        if self._queue.is_full(free_slots):
            name = self._queue.displaced_by(priority=spec.priority, tenant=spec.tenant, places=free_slots)
            if name is not None:
                displaced = self._waiting[name]
                self.leave(displaced)
        self._queue.add(
            spec.id,
            priority=spec.priority,
            tenant=spec.tenant,
            cost_tokens=len(spec.prompt) + self._expected.total(0, spec.max_tokens),
            now=now,
            places=free_slots,
            estimated_wait=lambda: self.wait_seconds(running, now),
        )
        self._waiting[spec.id] = sequence
        return displaced

    def rejoin(self, sequence: Sequence, now: float) -> None:
        """Come back after preemption, before all others of the same priority."""
        spec = sequence.spec
        self._queue.requeue_front(
            spec.id, priority=spec.priority, tenant=spec.tenant, cost_tokens=len(sequence.tokens), now=now
        )
        self._waiting[spec.id] = sequence

    def park(self, sequence: Sequence) -> bool:
        """Out of the others' way until what it waits for is computed; False if no place is left."""
        if sequence.spec.id in self._parked:
            return True
        if len(self._parked) >= self._max_batch:
            return False
        self._queue.remove(sequence.spec.id, served=True)
        self._parked[sequence.spec.id] = sequence
        return True

    def leave(self, sequence: Sequence, *, served: bool = False) -> None:
        """Out of the line: into the batch (`served`), or given up."""
        if self._parked.pop(sequence.spec.id, None) is None:
            self._queue.remove(sequence.spec.id, served=served)
        del self._waiting[sequence.spec.id]

    def refusal(self, running: Seq[Sequence], now: float) -> Refusal:
        """What a displaced sequence is told."""
        return at_capacity(len(self._queue), self._queue.max_waiting, self.wait_seconds(running, now))

    def place_freed(self, now: float) -> None:
        """A running sequence ended for good: the drain rate is measured from these."""
        self._drain.finished(now, backlog=len(self) > 0)

    def step_took(self, seconds: float) -> None:
        """What one more token takes, by the latest step."""
        self._step_seconds += (seconds - self._step_seconds) * (0.1 if self._step_seconds else 1.0)

    def wait_seconds(self, running: Seq[Sequence], now: float) -> float | None:
        """What one who joined now would wait for its first step; None when nothing is known yet."""
        measured = self._drain.estimated_wait(len(self) + 1, now)
        if measured is not None or not self._step_seconds:
            return measured
        everybody = [*running, *self._waiting.values()]
        totals = [self._expected.total(0, s.spec.max_tokens) for s in everybody]
        to_come = [self._expected.total(s.generated, s.spec.max_tokens) - s.generated for s in running]
        if not running:
            to_come = [0] * self._max_batch  # all places are free
        service_tokens = sum(totals) / max(1, len(totals))
        return wait_behind_batch(
            len(self) + 1, [n * self._step_seconds for n in to_come], service_tokens * self._step_seconds
        )
