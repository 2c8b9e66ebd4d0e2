"""A fleet on a virtual clock: a day of traffic before many replicas, in as long as its decisions take.

    conversations --> front of their region (ours, or another's policy) --way--> simulated replicas
                        ^--way-- granted or refused, first token, end, load; silence, when they die --'

Everything is an event at a time; the same seeds give the same run, decision by decision. What a front knows
of a replica is as old as the way from there; that a replica is gone, it learns when its lease lapses.
"""

import functools
import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ridgeline.fleet.core.decisions import Arrival
from ridgeline.fleet.core.replica import Load, Replica
from ridgeline.simulate.fleet_load import (
    BYTES_PER_TOKEN,
    Conversation,
    Traffic,
    conversations,
    drawn_tokens,
)
from ridgeline.simulate.fleet_policies import Front, Placed
from ridgeline.simulate.fleet_replica import Job, SimulatedReplica
from ridgeline.simulate.fleet_run import Outcome, Place, Run

LONGEST_SECONDS = 14_400.0
"""After the last conversation began: what is open then hangs."""

UNKNOWN_TOKENS_PER_SECOND = 10_000.0
"""Of prompts, that a front is told to expect of a replica that it has not measured."""

NOBODY_SECONDS = 0.02
"""Until a connection to a replica that is gone is given up."""

LONG_AGO = -1e9
"""When replicas came up that are there from the beginning."""


@dataclass(slots=True)
class _Open:
    arrival: Arrival
    conversation: Conversation
    question_end: int
    answer_tokens: int
    outcome: Outcome
    front: Front
    replica: str = ""
    first: float = 0.0
    given: int = 0


class FleetSimulation:
    """One run.

    Args:
        fronts: that decide, by their region: one for each home of the traffic.
        places: of the replicas.
        traffic: that comes.
        seed: of the traffic alone, so that all policies see the same.
        round_trips: seconds between regions, by pair in alphabetical order; else 0.
        told_every_seconds: how often a replica tells its load unasked.
        lease_seconds: after which a front learns that a replica is gone.
        silent: after this time nobody tells a load any more, not even with an answer.
        check: called after each event; for tests.
    """

    def __init__(
        self,
        fronts: Mapping[str, Front],
        places: Sequence[Place],
        traffic: Traffic,
        seed: int,
        *,
        round_trips: Mapping[tuple[str, str], float] | None = None,
        told_every_seconds: float = 1.0,
        lease_seconds: float = 10.0,
        silent: float = float("inf"),
        check: Callable[["FleetSimulation"], None] | None = None,
    ) -> None:
        self.fronts, self.places, self.traffic = dict(fronts), {each.id: each for each in places}, traffic
        self.there: dict[str, SimulatedReplica] = {}
        self.open: dict[str, _Open] = {}
        """Requests that have come and have no end yet."""
        self.now = 0.0
        self.result = Run()
        self._rng = random.Random(seed)
        self._round_trips = round_trips or {}
        self._told_every, self._lease, self._silent = told_every_seconds, lease_seconds, silent
        self._check = check
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._wakes: dict[str, float] = {}
        self._numbers = itertools.count()
        self._more_to_come = True
        self._conversing = 0

    def run(self) -> Run:
        """From the first arrival until everything is answered or refused.

        Raises:
            RuntimeError: a request hangs.
        """
        for place in self.places.values():
            self._join(place, LONG_AGO)
            for start, end in place.down:
                self._at(start, functools.partial(self._die, place))
                if end < float("inf"):
                    self._at(end, functools.partial(self._join, place, end))
        self._next_conversation(conversations(self.traffic, self._rng))
        self._look()
        while self._events:
            self.now, _, act = heapq.heappop(self._events)
            act()
            self.result.events += 1
            if self._check is not None:
                self._check(self)
        self.result.preempted += sum(replica.preempted for replica in self.there.values())
        return self.result

    def _at(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._count), act))

    def _way(self, region: str, replica_id: str) -> float:
        """Seconds from a front to a replica, or back."""
        other = self.places[replica_id].region
        pair = (region, other) if region < other else (other, region)
        return self._round_trips.get(pair, 0.0) / 2

    # --- replicas --------------------------------------------------------------------------------

    def _join(self, place: Place, up_seconds: float) -> None:
        self.there[place.id] = SimulatedReplica(place.machine, self.now)
        for region, front in self.fronts.items():
            replica = Replica(
                place.id,
                place.region,
                place.cluster or place.region,
                frozenset({self.traffic.model}),
                place.machine.slots,
                UNKNOWN_TOKENS_PER_SECOND,
                up_seconds,
            )
            self._act(front, front.joined(replica, self.now))
            self._tell(region, place.id)

    def _die(self, place: Place) -> None:
        """Its connections break; that it does not come again at once is known when its lease lapses."""
        self._advance(place.id)
        replica = self.there.pop(place.id)
        self._wakes.pop(place.id, None)
        self.result.preempted += replica.preempted
        for job in replica.jobs:
            self.open[job.id].given += replica.given(job)
            self._break(job.id, place.id)
        self._at(self.now + self._lease, functools.partial(self._lapse, place.id))

    def _lapse(self, replica_id: str) -> None:
        if replica_id not in self.there:
            for front in self.fronts.values():
                self._act(front, front.left(replica_id, self.now))

    def _break(self, request_id: str, replica_id: str) -> None:
        """The front learns of it as far away as it is."""
        region = self.open[request_id].conversation.region
        way = self._way(region, replica_id)
        self._at(self.now + way, functools.partial(self._failed, request_id, replica_id))

    def _failed(self, request_id: str, replica_id: str) -> None:
        opened = self.open.get(request_id)
        if opened is None or opened.replica != replica_id:
            return
        opened.replica = ""
        opened.outcome.broken += 1
        self._act(opened.front, opened.front.failed(request_id, self.now))

    def _load(self, replica_id: str) -> Load:
        """As it is. Its time is the one at which it is heard."""
        replica = self.there[replica_id]
        slots, there = replica.machine.slots, replica.running + len(replica.waiting)
        return Load(
            self.now,
            min(there, slots),
            slots,
            max(0, there - slots),
            replica.kv_held,
            kv_tokens=replica.machine.kv_tokens,
            kv_promised=replica.promised_tokens / replica.machine.kv_tokens,
        )

    def _tell(self, region: str, replica_id: str) -> None:
        """A front, after the way from there."""
        if self.now > self._silent:
            return
        load, way = self._load(replica_id), self._way(region, replica_id)
        if way:
            self._at(self.now + way, functools.partial(self._told, region, replica_id, load))
        else:
            self._told(region, replica_id, load)

    def _told(self, region: str, replica_id: str, load: Load) -> None:
        front = self.fronts[region]
        heard = replace(load, seconds=self.now)
        self._act(front, front.told(replica_id, heard, self.now))

    def _report(self, replica_id: str) -> None:
        """All fronts hear what came into the replica's cache and went, each as late as it is far away."""
        cached, evicted = self.there[replica_id].memory.changes()
        if self.now > self._silent or not (cached or evicted):
            return
        for region, front in self.fronts.items():
            way = self._way(region, replica_id)
            act = functools.partial(self._reported, front, replica_id, cached, evicted, self.now - way)
            self._at(self.now + way, act)

    def _reported(
        self, front: Front, replica_id: str, cached: list[bytes], evicted: list[bytes], as_of: float
    ) -> None:
        front.reported(replica_id, cached, evicted, as_of, self.now)

    def _look(self) -> None:
        for replica_id in list(self.there):
            for region in self.fronts:
                self._tell(region, replica_id)
            self._report(replica_id)
        for front in self.fronts.values():
            self._act(front, front.tick(self.now))
        if self._more_to_come or self._conversing:
            self._at(self.now + self._told_every, self._look)
            if self.open and self.now > self.traffic.seconds + LONGEST_SECONDS:
                raise RuntimeError(f"{len(self.open)} requests hang")

    def _wake(self, replica_id: str, due: float) -> None:
        """Something changes at a replica by itself, unless something came between."""
        if self._wakes.get(replica_id) == due:
            self._advance(replica_id)

    def _advance(self, replica_id: str) -> None:
        replica = self.there[replica_id]
        while replica.next_seconds() <= self.now:
            self._happened(replica_id, *replica.advance(max(replica.now, replica.next_seconds())))
        self._happened(replica_id, *replica.advance(self.now))
        self._schedule(replica_id)

    def _schedule(self, replica_id: str) -> None:
        due = self.there[replica_id].next_seconds()
        if due < float("inf"):
            due = max(due, self.now)
            self._wakes[replica_id] = due
            self._at(due, functools.partial(self._wake, replica_id, due))

    def _happened(self, replica_id: str, began: list[Job], ended: list[Job]) -> None:
        for job in began:
            way = self._way(self.open[job.id].conversation.region, replica_id)
            act = functools.partial(self._began, replica_id, job, self._load(replica_id))
            self._at(self.now + way, act)
        for job in ended:
            way = self._way(self.open[job.id].conversation.region, replica_id)
            self._at(self.now + way, functools.partial(self._ended, replica_id, job))

    # --- requests --------------------------------------------------------------------------------

    def _next_conversation(self, begin: Iterator[tuple[float, Conversation]]) -> None:
        following = next(begin, None)
        self._more_to_come = following is not None
        if following is not None:
            at, conversation = following
            self._at(at, functools.partial(self._begin, begin, conversation))

    def _begin(self, begin: Iterator[tuple[float, Conversation]], conversation: Conversation) -> None:
        self._conversing += 1
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
        outcome = Outcome(conversation.region, self.now, tokens)
        self.result.outcomes.append(outcome)
        front = self.fronts[conversation.region]
        self.open[request_id] = _Open(arrival, conversation, tokens, answer, outcome, front)
        self._act(front, front.arrive(arrival, self.now))

    def _act(self, front: Front, decisions: Sequence[Placed]) -> None:
        for request_id, replica_id in decisions:
            self.result.decisions.append((request_id, replica_id))
            opened = self.open[request_id]
            assert opened.front is front and not opened.replica, "a request is sent twice, or by a stranger"
            if replica_id is None:
                opened.outcome.refused = True
                self._over(request_id, opened.conversation.tokens)
                continue
            opened.outcome.attempts += 1
            opened.replica = replica_id
            way = self._way(opened.conversation.region, replica_id)
            self._at(self.now + way, functools.partial(self._came, request_id, replica_id))

    def _came(self, request_id: str, replica_id: str) -> None:
        """It reaches the replica, which may be gone by now, or full."""
        if replica_id not in self.there:
            self._at(self.now + NOBODY_SECONDS, functools.partial(self._break, request_id, replica_id))
            return
        self._advance(replica_id)
        opened, replica = self.open[request_id], self.there[replica_id]
        prompt = opened.question_end + opened.given
        if opened.front.at_once and not replica.has_place(opened.arrival.keys, prompt):
            act = functools.partial(self._full, request_id, replica_id, self._load(replica_id))
            self._at(self.now + self._way(opened.conversation.region, replica_id), act)
            return
        keys = opened.conversation.keys(opened.question_end + opened.answer_tokens)
        replica.take(Job(request_id, keys, prompt, max(1, opened.answer_tokens - opened.given)))
        self._schedule(replica_id)

    def _full(self, request_id: str, replica_id: str, load: Load) -> None:
        """It was refused, and heard with that how full the replica is."""
        opened = self.open[request_id]
        if self.now <= self._silent:
            self._told(opened.conversation.region, replica_id, load)
        opened.replica = ""
        self._act(opened.front, opened.front.full(request_id, self.now))

    def _began(self, replica_id: str, job: Job, load: Load) -> None:
        opened = self.open.get(job.id)
        if opened is None or opened.replica != replica_id:
            return
        outcome = opened.outcome
        if outcome.first_seconds is None:
            outcome.first_seconds = self.now - outcome.came
            outcome.cached_tokens, opened.first = job.cached_tokens, self.now
        outcome.replica, outcome.region = replica_id, self.places[replica_id].region
        if self.now <= self._silent:
            self._told(opened.conversation.region, replica_id, load)
        opened.front.began(job.id, self.now)

    def _ended(self, replica_id: str, job: Job) -> None:
        opened = self.open.get(job.id)
        if opened is None or opened.replica != replica_id:
            return
        outcome, total = opened.outcome, opened.question_end + opened.answer_tokens
        outcome.gap_seconds = (self.now - opened.first) / max(1, opened.answer_tokens - 1)
        outcome.answered = True
        keys = opened.conversation.keys(total)
        self._over(job.id, total)
        front = opened.front
        self._act(
            front,
            front.ended(job.id, self.now, job.prompt_tokens, job.cached_tokens, keys, opened.answer_tokens),
        )

    def _over(self, request_id: str, tokens: int) -> None:
        """A request has ended, well or not; the conversation goes on from so many tokens."""
        conversation = self.open.pop(request_id).conversation
        conversation.turn_over(tokens)
        if conversation.turns_left > 0:
            think = conversation.rng.expovariate(1 / self.traffic.think_seconds)
            self._at(self.now + think, functools.partial(self._ask, conversation))
        else:
            self._conversing -= 1
