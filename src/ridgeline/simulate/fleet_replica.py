"""A replica without its tokens: what changes is played, what lies between is computed.

All sequences of a batch draw a token in each step, so one count of steps serves them all: a sequence that
came in at count 100 and wants 50 tokens ends at count 150. While a prompt is computed, each step also has a
chunk of it. The length of a step is the cost model's, for the batch as it was at the last change.

    waiting --its turn, a slot, memory--> prefilling --> drawing --> ended
       ^------------- preempted: memory is full ------------'
"""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.engine.core.limits import ExpectedOutput, Limits
from ridgeline.roofline import Hardware, ModelShape, WeightBytes, Work, step_cost
from ridgeline.simulate.fleet_load import PIECE_TOKENS
from ridgeline.simulate.fleet_memory import KeyMemory

CHUNK_TOKENS = 2048

LIMITS = Limits()
"""As engines have them: memory is kept for answers that are expected to grow."""

NO_LIMIT = 1_000_000

ALMOST = 1e-6
"""Steps and tokens that rounding may lack."""


@dataclass(slots=True, eq=False)
class Job:
    """A request at a replica.

    Attributes:
        id: of the request.
        keys: of the prompt and the answer to come.
        prompt_tokens: to be known before the first token.
        answer_tokens: to be drawn.
        cached_tokens: of the prompt, found there at the first time.
        drawn: tokens that were drawn before it was preempted.
        left_tokens: of the prompt, to compute.
        held: pieces that it uses.
        drawing_since: count of steps at which it began to draw.
        order: in which it was taken into the batch.
        new_tokens: of what must be in memory, not in use by others when it began to wait.
    """

    id: str
    keys: tuple[bytes, ...]
    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int = 0
    drawn: int = 0
    left_tokens: float = 0.0
    held: int = 0
    drawing_since: float = 0.0
    order: int = 0
    new_tokens: int = 0

    @property
    def known_tokens(self) -> int:
        """That must be in memory before it draws the next one."""
        return self.prompt_tokens + self.drawn

    @property
    def ends_at(self) -> float:
        """Count of steps."""
        return self.drawing_since + self.answer_tokens - self.drawn


@dataclass(frozen=True, slots=True)
class Machine:
    """What a replica is made of."""

    shape: ModelShape
    hardware: Hardware
    dtype: str
    slots: int
    kv_tokens: int


class SimulatedReplica:
    """One of them. `advance` to a time before anything else is asked of it then.

    Args:
        machine: it is.
        now: the time.
    """

    def __init__(self, machine: Machine, now: float = 0.0) -> None:
        self.machine, self.now = machine, now
        self.memory = KeyMemory(machine.kv_tokens)
        self.waiting: deque[Job] = deque()
        self.preempted = 0
        """How often one was put back for want of KV memory."""
        self._prefilling: Job | None = None
        self._drawing: list[tuple[float, int, Job]] = []
        self._steps = 0.0
        self._contexts = 0.0
        """Tokens that the drawing ones attend to, summed: shared pieces are read by each."""
        self._waiting_tokens = 0
        self._step_seconds = 0.0
        self._chunk = float(CHUNK_TOKENS)
        self._order = itertools.count()
        self._expected = ExpectedOutput(LIMITS.expected_output_tokens)
        self._weights = WeightBytes.of(machine.shape, machine.dtype)

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._drawing) + (self._prefilling is not None)

    @property
    def jobs(self) -> list[Job]:
        """All that are here, those in the batch first."""
        batch = [job for _, _, job in self._drawing]
        return [*batch, *([self._prefilling] if self._prefilling else ()), *self.waiting]

    @property
    def kv_held(self) -> float:
        """Share of its KV memory that is in use."""
        return min(1.0, self.memory.held_tokens / self.machine.kv_tokens)

    @property
    def promised_tokens(self) -> float:
        """That those who are here are expected to take yet."""
        waiting = self._waiting_tokens + len(self.waiting) * self._expected.total(0, NO_LIMIT)
        return self._growth() + waiting

    def has_place(self, keys: tuple[bytes, ...], prompt_tokens: int) -> bool:
        """Whether one more would begin at once: a slot, and memory for its prompt beside those before it."""
        there = self.running + len(self.waiting)
        if not there:
            return True
        new = self._new_tokens(keys, prompt_tokens)
        return there < self.machine.slots and self._fits(new, self.promised_tokens)

    def take(self, job: Job) -> None:
        """A request comes; it waits where there is no place."""
        self._wait(job, last=True)
        self._admit()
        self._measure()

    def next_seconds(self) -> float:
        """When something changes next by itself; infinite where nothing runs."""
        if not self.running:
            return math.inf
        steps = math.inf
        if self._prefilling is not None:
            steps = self._prefilling.left_tokens / self._chunk
        if self._drawing:
            steps = min(steps, self._drawing[0][0] - self._steps)
            if self.running > 1:
                free = max(0.0, self.machine.kv_tokens - self.memory.held_tokens)
                steps = min(steps, free / len(self._drawing))
        return self.now + max(steps, ALMOST) * self._step_seconds

    def advance(self, now: float) -> tuple[list[Job], list[Job]]:
        """Come to this time, which `next_seconds` is not before; who drew a first token, and who ended."""
        if not self.running:
            self.now = now
            return [], []
        self._let_pass(now)
        began, ended = self._computed(), self._drawn()
        while self.memory.held_tokens > self.machine.kv_tokens and self.running > 1:
            self._preempt()
        self._admit()
        self._measure()
        return began, ended

    def given(self, job: Job) -> int:
        """Tokens of an answer that have been drawn here."""
        if any(each is job for _, _, each in self._drawing):
            return min(job.answer_tokens, job.drawn + int(self._steps - job.drawing_since))
        return job.drawn

    def check(self) -> None:
        """Prove what must hold between any two events; AssertionError if it does not."""
        self.memory.check()
        assert self.running <= self.machine.slots, "more sequences than slots"
        assert self._waiting_tokens == sum(job.new_tokens for job in self.waiting)
        batch = [job for job in self.jobs if job not in self.waiting]
        used = {key for job in batch for key in job.keys[: job.held]}
        assert len(used) * PIECE_TOKENS + self.memory.private == self.memory.held_tokens, "a piece is lost"

    # --- what time does --------------------------------------------------------------------------

    def _let_pass(self, now: float) -> None:
        steps = (now - self.now) / self._step_seconds
        self.now = now
        self._steps += steps
        self.memory.private += steps * len(self._drawing)
        self._contexts += steps * len(self._drawing)
        if self._prefilling is not None:
            self._prefilling.left_tokens -= steps * self._chunk

    def _computed(self) -> list[Job]:
        job = self._prefilling
        if job is None or job.left_tokens > ALMOST:
            return []
        self._prefilling, job.drawing_since = None, self._steps
        self._contexts += job.known_tokens
        heapq.heappush(self._drawing, (job.ends_at, job.order, job))
        return [] if job.drawn else [job]

    def _drawn(self) -> list[Job]:
        ended = []
        while self._drawing and self._drawing[0][0] <= self._steps + ALMOST:
            job = heapq.heappop(self._drawing)[2]
            self._leave_batch(job, self._steps - job.drawing_since)
            self._expected.observe(job.answer_tokens)
            ended.append(job)
        return ended

    # --- the batch -------------------------------------------------------------------------------

    def _admit(self) -> None:
        """The next prompt, where there is a slot, and memory or nobody who could free any."""
        if self._prefilling is not None or not self.waiting or len(self._drawing) >= self.machine.slots:
            return
        job, memory = self.waiting[0], self.memory
        keys = job.keys[: job.known_tokens // PIECE_TOKENS]
        tail = job.known_tokens - len(keys) * PIECE_TOKENS
        if self._drawing and not self._fits(self._new_tokens(keys, job.known_tokens), self._growth()):
            return
        self.waiting.popleft()
        self._waiting_tokens -= job.new_tokens
        cached = min(memory.matched(keys) * PIECE_TOKENS, job.known_tokens - 1)
        if not job.drawn:
            job.cached_tokens = cached
        job.left_tokens, job.held, job.order = job.known_tokens - cached, len(keys), next(self._order)
        memory.hold(keys)
        memory.private += tail
        memory.shrink()
        self._prefilling = job

    def _preempt(self) -> None:
        """The one that came last is put back; what it has drawn must be computed again."""
        job = self._prefilling
        if job is not None:
            computed = int(job.known_tokens - max(0.0, job.left_tokens)) // PIECE_TOKENS
            self.memory.release(job.keys[: job.held], computed)
            self.memory.private -= job.known_tokens - job.held * PIECE_TOKENS
            self._prefilling = None
        else:
            job = max((each for _, _, each in self._drawing), key=lambda each: each.order)
            self._drawing = [each for each in self._drawing if each[2] is not job]
            heapq.heapify(self._drawing)
            steps = self._steps - job.drawing_since
            self._leave_batch(job, steps)
            job.drawn += int(steps)
        job.held = 0
        self.preempted += 1
        self._wait(job, last=False)

    def _wait(self, job: Job, *, last: bool) -> None:
        job.new_tokens = self._new_tokens(job.keys[: job.known_tokens // PIECE_TOKENS], job.known_tokens)
        self._waiting_tokens += job.new_tokens
        if last:
            self.waiting.append(job)
        else:
            self.waiting.appendleft(job)

    def _new_tokens(self, keys: Sequence[bytes], tokens: int) -> int:
        """Of a prompt, those that nobody here uses."""
        return tokens - (len(keys) - self.memory.new_pieces(keys)) * PIECE_TOKENS

    def _growth(self) -> float:
        """Tokens that the batch is expected to draw yet."""
        steps, total = self._steps, self._expected.total
        drawn = [int(job.drawn + steps - job.drawing_since) for _, _, job in self._drawing]
        if self._prefilling is not None:
            drawn.append(self._prefilling.drawn)
        return sum(total(each, NO_LIMIT) - each for each in drawn)

    def _fits(self, new_tokens: int, promised_tokens: float) -> bool:
        """Whether these fit with an answer, beside what is in use and what was promised."""
        answer = self._expected.total(0, NO_LIMIT)
        needed = self.memory.held_tokens + promised_tokens + new_tokens + answer
        return needed <= self.machine.kv_tokens * (1 - LIMITS.watermark)

    def _leave_batch(self, job: Job, steps: float) -> None:
        """Of one that was drawing; what it has computed stays for as long as there is room."""
        memory = self.memory
        self._contexts -= job.known_tokens + steps
        memory.private -= job.known_tokens - job.held * PIECE_TOKENS + steps
        memory.keep(job.keys[job.held : (job.known_tokens + int(steps + ALMOST)) // PIECE_TOKENS])
        memory.release(job.keys[: job.held], job.held)
        if not self.running:  # no sum of fractions goes on for ever
            memory.private = self._contexts = 0.0
        memory.shrink()

    def _measure(self) -> None:
        """The length of a step as things are."""
        batch = len(self._drawing)
        if not self.running:
            return
        work = Work.decode(batch, self._contexts / batch) if batch else Work(0, 0, 0, 0)
        job = self._prefilling
        if job is not None:
            self._chunk = max(1.0, min(CHUNK_TOKENS, job.left_tokens))
            work = work.with_chunk(math.ceil(self._chunk), int(job.known_tokens - job.left_tokens))
        machine = self.machine
        cost = step_cost(machine.shape, machine.hardware, machine.dtype, work, weights=self._weights)
        self._step_seconds = cost.seconds
