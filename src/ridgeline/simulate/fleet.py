"""A fleet on a virtual clock: a day of traffic before many replicas, in as long as its decisions take.

    conversations --> front (ours, or another's policy) --> simulated replicas --> first tokens, ends
                         ^--- refused, failed, told, ended ---'

Everything is an event at a time; the same seeds give the same run, decision by decision.
"""

import functools
import heapq
import itertools
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ridgeline.fleet.core.door import Arrival
from ridgeline.fleet.core.replica import Load, Replica
from ridgeline.simulate.fleet_load import (
    BYTES_PER_TOKEN,
    Conversation,
    Traffic,
    conversations,
    drawn_tokens,
)
from ridgeline.simulate.fleet_policies import Front, Placed
from ridgeline.simulate.fleet_replica import Job, Machine, SimulatedReplica

LONGEST_SECONDS = 3600.0
"""After the last conversation began: what is open then hangs."""


@dataclass(frozen=True, slots=True)
class Place:
    """A replica of the plan.

    Attributes:
        id, region: of it.
        machine: it is made of.
        round_trip_seconds: from the front and back.
        down: spans of time in which it is gone.
    """

    id: str
    region: str
    machine: Machine
    round_trip_seconds: float = 0.0
    down: tuple[tuple[float, float], ...] = ()


@dataclass(slots=True)
class Outcome:
    """What became of a request; times in seconds.

    Attributes:
        region: that answered it.
        first_seconds: until the first token; None where none came.
        gap_seconds: between two tokens, on average.
        cached_tokens, prompt_tokens: of the prompt.
        refused: it was not served.
        attempts: replicas that it was sent to.
    """

    region: str = ""
    first_seconds: float | None = None
    gap_seconds: float = 0.0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    refused: bool = False
    attempts: int = 0


@dataclass(slots=True)
class _Open:
    arrival: Arrival
    conversation: Conversation
    question_end: int
    answer_tokens: int
    came: float
    outcome: Outcome
    replica: str = ""
    first: float = 0.0
    given: int = 0


@dataclass(slots=True)
class Run:
    """What a simulation found."""

    outcomes: list[Outcome] = field(default_factory=list)
    decisions: list[Placed] = field(default_factory=list)
    preempted: int = 0

    def good(self, first_seconds: float, gap_seconds: float) -> int:
        """How many requests met both targets; refused ones did not."""
        return sum(
            each.first_seconds is not None
            and each.first_seconds <= first_seconds
            and each.gap_seconds <= gap_seconds
            for each in self.outcomes
        )

    @property
    def first_token_p50(self) -> float:
        """Seconds, of those that were served."""
        return statistics.median(
            [each.first_seconds for each in self.outcomes if each.first_seconds is not None] or [0.0]
        )

    @property
    def cached_share(self) -> float:
        """Of prompt tokens."""
        total = sum(each.prompt_tokens for each in self.outcomes)
        return sum(each.cached_tokens for each in self.outcomes) / max(1, total)


class FleetSimulation:
    """One run.

    Args:
        front: decides.
        places: of the replicas.
        traffic: that comes.
        seed: of the traffic alone, so that all policies see the same.
        told_every_seconds: how often replicas are looked at.
        silent: after this time nobody tells a load any more.
        check: called after each event; for tests.
    """

    def __init__(
        self,
        front: Front,
        places: Sequence[Place],
        traffic: Traffic,
        seed: int,
        *,
        told_every_seconds: float = 1.0,
        silent: float = float("inf"),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.front, self.places, self.traffic = front, {each.id: each for each in places}, traffic
        self._rng = random.Random(seed)
        self._told_every, self._silent, self._check = told_every_seconds, silent, check
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._there: dict[str, SimulatedReplica] = {}
        self._wakes: dict[str, float] = {}
        self._open: dict[str, _Open] = {}
        self._numbers = itertools.count()
        self.now = 0.0
        self.result = Run()

    def run(self) -> Run:
        """From the first arrival until everything is answered."""
        for place in self.places.values():
            self._join(place, -1e9)
            for start, end in place.down:
                self._at(start, functools.partial(self._leave, place))
                self._at(end, functools.partial(self._return, place))
        begin = conversations(self.traffic, self._rng)
        self._next_conversation(begin)
        self._look()
        while self._events:
            self.now, _, act = heapq.heappop(self._events)
            act()
            self._check()
        return self.result

    @property
    def open_requests(self) -> int:
        """That have come and have no end yet."""
        return len(self._open)

    def _at(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._count), act))

    # --- replicas --------------------------------------------------------------------------------

    def _join(self, place: Place, up_seconds: float) -> None:
        self._there[place.id] = SimulatedReplica(place.machine, now=self.now)
        machine = place.machine
        replica = Replica(
            place.id, place.region, place.region, frozenset({self.traffic.model}), machine.slots, 4000.0,
            up_seconds,
        )  # fmt: skip
        self._act(self.front.joined(replica, self.now))
        self._tell(place.id)

    def _return(self, place: Place) -> None:
        self._join(place, self.now)

    def _leave(self, place: Place) -> None:
        replica = self._there.pop(place.id)
        self._wakes.pop(place.id, None)
        self.result.preempted += replica.preempted
        for job in replica.running.values():
            self._open[job.id].given += replica.drawn(job)
        self._act(self.front.left(place.id, self.now))
        for request_id in [*replica.running, *(job.id for job in replica.waiting)]:
            self._act(self.front.failed(request_id, self.now))

    def _tell(self, replica_id: str) -> None:
        replica = self._there.get(replica_id)
        if replica is None or self.now > self._silent:
            return
        machine = replica.machine
        load = Load(
            self.now, len(replica.running), machine.slots, len(replica.waiting),
            replica.held_tokens / machine.kv_tokens, kv_tokens=machine.kv_tokens,
        )  # fmt: skip
        self._act(self.front.told(replica_id, load, self.now))

    def _look(self) -> None:
        for replica_id in list(self._there):
            self._tell(replica_id)
        self._act(self.front.tick(self.now))
        if self._events or self._open:
            self._at(self.now + self._told_every, self._look)
            if self.now > self.traffic.seconds + LONGEST_SECONDS:
                raise RuntimeError(f"{len(self._open)} requests hang")

    def _wake(self, replica_id: str, due: float) -> None:
        """Something changes at a replica by itself, unless something came between."""
        if self._wakes.get(replica_id) == due:
            self._advance(replica_id)

    def _advance(self, replica_id: str) -> None:
        replica = self._there[replica_id]
        while replica.next_seconds() <= self.now:
            self._happened(replica_id, *replica.advance(max(replica.now, replica.next_seconds())))
            if replica_id not in self._there:
                return
        self._happened(replica_id, *replica.advance(self.now))
        self._schedule(replica_id)

    def _schedule(self, replica_id: str) -> None:
        replica = self._there.get(replica_id)
        if replica is None:
            return
        due = replica.next_seconds()
        if due < float("inf"):
            due = max(due, self.now)
            self._wakes[replica_id] = due
            self._at(due, lambda: self._wake(replica_id, due))

    def _happened(self, replica_id: str, began: list[Job], ended: list[Job]) -> None:
        way = self.places[replica_id].round_trip_seconds
        for job in began:
            self._at(self.now + way / 2, functools.partial(self._began, replica_id, job))
        for job in ended:
            self._at(self.now + way / 2, functools.partial(self._ended, replica_id, job))

    # --- requests --------------------------------------------------------------------------------

    def _next_conversation(self, begin: Iterator[tuple[float, Conversation]]) -> None:
        following = next(begin, None)
        if following is not None:
            at, conversation = following
            self._at(at, lambda: self._begin(begin, conversation))

    def _begin(self, begin: Iterator[tuple[float, Conversation]], conversation: Conversation) -> None:
        self._ask(conversation)
        self._next_conversation(begin)

    def _ask(self, conversation: Conversation) -> None:
        tokens = conversation.tokens + drawn_tokens(self.traffic.question_tokens, conversation.rng)
        answer = drawn_tokens(self.traffic.answer_tokens, conversation.rng)
        request_id = f"q{next(self._numbers)}"
        arrival = Arrival(
            request_id,
            self.traffic.model,
            conversation.keys(tokens),
            tokens * BYTES_PER_TOKEN,
            conversation.tenant,
        )
        outcome = Outcome(prompt_tokens=tokens)
        self.result.outcomes.append(outcome)
        self._open[request_id] = _Open(arrival, conversation, tokens, answer, self.now, outcome)
        self._act(self.front.arrive(arrival, self.now))

    def _act(self, decisions: Sequence[Placed]) -> None:
        for request_id, replica_id in decisions:
            self.result.decisions.append((request_id, replica_id))
            opened = self._open[request_id]
            if replica_id is None:
                opened.outcome.refused = True
                del self._open[request_id]
                continue
            opened.outcome.attempts += 1
            opened.replica = replica_id
            way = self.places[replica_id].round_trip_seconds
            self._at(
                self.now + way / 2,
                functools.partial(self._came, request_id, replica_id),
            )

    def _came(self, request_id: str, replica_id: str) -> None:
        """It reaches the replica, which may be gone by now, or full."""
        opened = self._open.get(request_id)
        if opened is None or opened.replica != replica_id:
            return
        replica = self._there.get(replica_id)
        if replica is None:
            self._act(self.front.failed(request_id, self.now))
            return
        self._advance(replica_id)
        prompt = opened.question_end + opened.given
        if self.front.waits and not replica.has_place(prompt):
            self._tell(replica_id)
            self._act(self.front.full(request_id, self.now))
            return
        replica.take(
            Job(request_id, opened.arrival.keys, prompt, max(1, opened.answer_tokens - opened.given))
        )
        self._schedule(replica_id)

    def _began(self, replica_id: str, job: Job) -> None:
        opened = self._open.get(job.id)
        if opened is None or opened.replica != replica_id:
            return
        outcome = opened.outcome
        if outcome.first_seconds is None:
            outcome.first_seconds = self.now - opened.came
            outcome.cached_tokens, outcome.region = job.cached_tokens, self.places[replica_id].region
            opened.first = self.now
        self.front.began(job.id, self.now)
        self._tell(replica_id)

    def _ended(self, replica_id: str, job: Job) -> None:
        opened = self._open.get(job.id)
        if opened is None or opened.replica != replica_id:
            return
        del self._open[job.id]
        conversation, outcome = opened.conversation, opened.outcome
        outcome.gap_seconds = (self.now - opened.first) / max(1, opened.answer_tokens - 1)
        conversation.tokens = opened.question_end + opened.answer_tokens
        keys = conversation.keys(conversation.tokens)
        if replica_id in self._there:
            self._there[replica_id].remember(keys)
        self._act(
            self.front.ended(
                job.id, self.now, job.prompt_tokens, job.cached_tokens, keys, opened.answer_tokens
            )
        )
        conversation.turns_left -= 1
        if conversation.turns_left > 0:
            think = conversation.rng.expovariate(1 / self.traffic.think_seconds)
            self._at(self.now + think, lambda: self._ask(conversation))
