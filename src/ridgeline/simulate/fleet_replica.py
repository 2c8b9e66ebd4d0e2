"""A replica without its tokens: what changes is played, what lies between is computed.

All sequences of a batch draw a token in each step, so one count of steps serves them all: a sequence that
came in at count 100 and wants 50 tokens ends at count 150. While prompts wait, each step also has a chunk of
the first one. The length of a step is the cost model's, for the batch as it was at the last change.
"""

import heapq
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ridgeline.roofline import Hardware, ModelShape, Work, step_cost
from ridgeline.simulate.fleet_load import PIECE_TOKENS

CHUNK_TOKENS = 2048

KEPT_FULL = 0.99
"""Share of KV memory that prompts may fill: what is left is for the answers' first steps."""


@dataclass(slots=True)
class Job:
    """A request at a replica.

    Attributes:
        id: of the request.
        keys: of the prompt.
        prompt_tokens: to be known before the first token.
        answer_tokens: to be drawn.
        cached_tokens: of the prompt, found there.
        drawn: tokens that were drawn before it was put back.
        left_tokens: of the prompt, to compute.
        ends_at: count of steps.
    """

    id: str
    keys: tuple[bytes, ...]
    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int = 0
    drawn: int = 0
    left_tokens: float = 0.0
    ends_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What a replica is made of."""

    shape: ModelShape
    hardware: Hardware
    dtype: str
    slots: int
    kv_tokens: int


@dataclass(slots=True)
class SimulatedReplica:
    """One of them. `advance` to a time before anything else is asked of it then.

    Attributes:
        machine: it is.
        steps: counted so far.
        now: the time that it has come to.
        running: those that draw, and those whose prompts are computed.
        waiting: in its own line.
        preempted: how often one was put back for want of KV memory.
    """

    machine: Machine
    now: float = 0.0
    steps: float = 0.0
    running: dict[str, Job] = field(default_factory=dict)
    waiting: deque[Job] = field(default_factory=deque)
    preempted: int = 0
    _prompts: deque[Job] = field(default_factory=deque)
    _drawing: list[tuple[float, int, Job]] = field(default_factory=list)
    _drawers: int = 0
    _held: float = 0.0
    _cache: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    _step_seconds: float = 0.0
    _chunk: float = CHUNK_TOKENS
    _count: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def held_tokens(self) -> float:
        """KV memory that the running ones have."""
        return self._held

    def has_place(self, prompt_tokens: int) -> bool:
        """Whether one more would begin at once."""
        if len(self.running) >= self.machine.slots or self.waiting:
            return False
        return not self.running or self._held + prompt_tokens <= KEPT_FULL * self.machine.kv_tokens

    def take(self, job: Job) -> None:
        """A request comes; it waits where there is no place."""
        self.waiting.append(job)
        self._admit()
        self._measure()

    def drop(self, job_id: str) -> None:
        """Nobody wants it any more."""
        job = self.running.pop(job_id, None)
        if job is None:
            self.waiting = deque(each for each in self.waiting if each.id != job_id)
        else:
            self._let_go(job)
            if job in self._prompts:
                self._prompts.remove(job)
            else:
                self._drawing = [each for each in self._drawing if each[2] is not job]
                heapq.heapify(self._drawing)
                self._drawers -= 1
        self._admit()
        self._measure()

    def next_seconds(self) -> float:
        """When something changes next by itself; infinite where nothing runs."""
        if not self.running:
            return math.inf
        steps = math.inf
        if self._prompts:
            steps = self._prompts[0].left_tokens / self._chunk
        if self._drawing:
            steps = min(steps, self._drawing[0][0] - self.steps)
            if self._drawers and len(self.running) > 1:
                steps = min(steps, max(0.0, self.machine.kv_tokens - self._held) / self._drawers)
        return self.now + max(steps, 1e-9) * self._step_seconds

    def advance(self, now: float) -> tuple[list[Job], list[Job]]:
        """Come to this time, which `next_seconds` is not before; who drew a first token, and who ended."""
        if not self.running:
            self.now = now
            return [], []
        steps = (now - self.now) / self._step_seconds
        self.steps += steps
        self._held += steps * self._drawers
        self.now = now
        began, ended = [], []
        if self._prompts:
            first = self._prompts[0]
            first.left_tokens -= steps * self._chunk
            if first.left_tokens <= 1e-6:
                self._prompts.popleft()
                first.ends_at = self.steps + first.answer_tokens - first.drawn
                heapq.heappush(self._drawing, (first.ends_at, next(self._count), first))
                self._drawers += 1
                self._remember(first.keys)
                if not first.drawn:
                    began.append(first)
        while self._drawing and self._drawing[0][0] <= self.steps + 1e-6:
            _, _, job = heapq.heappop(self._drawing)
            self._drawers -= 1
            del self.running[job.id]
            self._let_go(job)
            ended.append(job)
        if self._held > self.machine.kv_tokens and len(self.running) > 1:
            self._preempt()
        if began or ended or self.waiting:
            self._admit()
        self._measure()
        return began, ended

    def drawn(self, job: Job) -> int:
        """Tokens that a running one has drawn here."""
        return int(job.answer_tokens - max(0.0, job.ends_at - self.steps)) if job.ends_at else 0

    def remember(self, keys: Sequence[bytes]) -> None:
        """What it has of a conversation, the answer included."""
        self._remember(keys)

    def _admit(self) -> None:
        machine = self.machine
        while self.waiting and len(self.running) < machine.slots:
            job = self.waiting[0]
            tokens = job.prompt_tokens + job.drawn
            if self.running and self._held + tokens > KEPT_FULL * machine.kv_tokens:
                return
            self.waiting.popleft()
            matched = 0
            for key in job.keys:
                if key not in self._cache:
                    break
                self._cache.move_to_end(key)
                matched += 1
            cached = min(matched * PIECE_TOKENS, tokens - 1)
            if not job.drawn:
                job.cached_tokens = cached
            job.left_tokens = tokens - cached
            self._held += tokens
            self.running[job.id] = job
            self._prompts.append(job)
            self._forget()

    def _preempt(self) -> None:
        """The one that came last is put back; what it drew must be computed again."""
        job = next(reversed(self.running.values()))
        del self.running[job.id]
        left = math.ceil(job.ends_at - self.steps)
        self._let_go(job)
        if job in self._prompts:
            self._prompts.remove(job)
        else:
            job.drawn = job.answer_tokens - left
            self._drawing = [each for each in self._drawing if each[2] is not job]
            heapq.heapify(self._drawing)
            self._drawers -= 1
        self.preempted += 1
        self.waiting.appendleft(job)

    def _let_go(self, job: Job) -> None:
        """Of its KV memory: what it has drawn grew with the steps."""
        drawn: float = job.drawn
        if job.ends_at:
            drawn = job.answer_tokens - max(0.0, job.ends_at - self.steps)
        self._held = max(0.0, self._held - job.prompt_tokens - drawn) if self.running else 0.0
        job.ends_at = 0.0

    def _remember(self, keys: Sequence[bytes]) -> None:
        for key in reversed(keys):
            self._cache[key] = None
            self._cache.move_to_end(key)
        self._forget()

    def _forget(self) -> None:
        room = max(0.0, self.machine.kv_tokens - self._held) // PIECE_TOKENS
        while len(self._cache) > room:
            self._cache.popitem(last=False)

    def _measure(self) -> None:
        """The length of a step as things are."""
        if not self.running:
            return
        drawing = self._drawers
        work = Work.decode(drawing, self._held / max(1, len(self.running))) if drawing else Work(0, 0, 0, 0)
        if self._prompts:
            first = self._prompts[0]
            self._chunk = max(1.0, min(CHUNK_TOKENS, first.left_tokens))
            work = work.with_chunk(int(self._chunk), int(max(0, first.prompt_tokens - first.left_tokens)))
        machine = self.machine
        self._step_seconds = step_cost(machine.shape, machine.hardware, machine.dtype, work).seconds
