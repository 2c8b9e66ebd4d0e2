"""The front door's core: events in, decisions out. Holds no connection and no weights, and has no clock.

    arrive --> choose, reserve in the same step --> Send --> began --> ended
       |            ^ no place anywhere near              |
       '-> line ----'  (bound late: looked at again       '-- refused: full, or failed --> choose again
                        whenever something changes)

What was sent is counted at once, so that a burst does not fall on one replica. Full is not broken: a
refusal says that the ledger was wrong, and costs the replica nothing.
"""

import heapq
import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from ridgeline.admission import DrainRate, WaitingQueue
from ridgeline.fleet.core.decisions import Arrival, Decision, Refuse, Send
from ridgeline.fleet.core.prefix_map import PrefixMap
from ridgeline.fleet.core.replica import Load, Replica, Sent
from ridgeline.fleet.core.retries import RetryBudget
from ridgeline.fleet.core.route import Estimates, Option, any_place, estimate
from ridgeline.fleet.core.table import Table
from ridgeline.fleet.core.witness import Witness, event
from ridgeline.protocol import Refusal
from ridgeline.protocol.prefix_keys import PIECE_BYTES

LOOKED_AT = 64
IN_VAIN = 8
"""Waiting requests that are looked at when something changes, and how many in a row without a place: the
first may wait for a replica that others do not need, or for more memory than they do."""

MOST_ATTEMPTS = 4

SEVERAL = 2
"""Replicas of a cluster that have failed, from which on all of it is avoided by who has been failed."""

FULL_SECONDS = 0.1
"""A replica that has refused is not asked again for so long, unless one of its answers ends before."""

LOOK_AGAIN_SECONDS = 1.0
"""After which one that must not be refused for having waited is looked at again: nobody may serve it then."""

BYTES_PER_TOKEN = 4.0
"""To begin with; learned from what answers say."""

ANSWER_TOKENS = 256.0
"""The same, of answers."""

LEARNING = 0.05


@dataclass(slots=True)
class _Request:
    arrival: Arrival
    arrived_seconds: float
    attempts: int = 0
    faults: int = 0
    excluded: set[str] = field(default_factory=set)
    replica: Replica | None = None
    model: str = ""
    began_by: str | None = None
    chosen: Option | None = None
    sent_seconds: float = 0.0
    began_seconds: float | None = None
    new_keys: list[bytes] = field(default_factory=list)
    """Believed to be at the replica only since this was sent there."""
    cached_since: float | None = None
    """When the end of what was believed to be cached was used there last."""

    @property
    def models(self) -> tuple[str, ...]:
        """That may answer it. An answer that has begun is gone on with by the model that began it."""
        if self.began_by is not None:
            return (self.began_by,)
        return (self.arrival.model, *self.arrival.smaller)


class Door:
    """Places requests on replicas. One thread.

    Args:
        region: of this front door.
        round_trips: seconds between regions, by pair in alphabetical order.
        max_wait_seconds: who would wait for longer is refused, and so is who has.
        max_waiting: in the line at most.
        patient_until: till then whoever no replica serves waits for one to join.
        rng: for choices among equals; a seeded one repeats them.
    """

    def __init__(
        self,
        region: str,
        round_trips: dict[tuple[str, str], float],
        *,
        max_wait_seconds: float = 20.0,
        max_waiting: int = 10_000,
        patient_until: float = -math.inf,
        rng: random.Random | None = None,
    ) -> None:
        self.region = region
        self.replicas: dict[str, Replica] = {}
        self.predicted_less_actual_cached = 0
        """Tokens, summed: above 0 where too much is believed to be cached."""
        self.keys_corrected = {"unlearned": 0, "learned": 0}
        """By reports and answers of replicas: believed and not there, and there and not known."""
        self._round_trips = round_trips
        self.witness: Witness | None = None
        self._max_wait = max_wait_seconds
        self._patient_until = patient_until
        self._queue = WaitingQueue(max_waiting)
        self._requests: dict[str, _Request] = {}
        self._expiring: list[tuple[float, str]] = []
        """A heap of times until which requests may wait; some do not wait any more."""
        self._faulty: set[str] = set()
        """Replicas whose latest answer was a fault."""
        self._prefixes = PrefixMap()
        self._table = Table()
        self._drain: dict[str, DrainRate] = {}
        self._retries = RetryBudget()
        self._bytes_per_token = BYTES_PER_TOKEN
        self._answer_tokens = ANSWER_TOKENS
        self._rng = rng or random.Random()

    @property
    def waiting(self) -> int:
        """Requests in the line."""
        return len(self._queue)

    # --- replicas --------------------------------------------------------------------------------

    @event
    def joined(self, replica: Replica, now: float) -> list[Decision]:
        """A replica is there, for the first time or again; its memory is empty.

        What an earlier one of this name was answering fails by itself, as connections break.
        """
        self._prefixes.forget(replica.id)
        self._table.drop(replica.id)
        self.replicas[replica.id] = replica
        self._changed(replica)
        return self._dispatch(now)

    @event
    def left(self, replica_id: str, now: float) -> list[Decision]:
        """A replica is gone. What it was answering fails by itself, as connections break."""
        self.replicas.pop(replica_id, None)
        self._faulty.discard(replica_id)
        self._prefixes.forget(replica_id)
        self._table.drop(replica_id)
        return self._dispatch(now)

    @event
    def told(self, replica_id: str, load: Load, now: float) -> list[Decision]:
        """A replica told how it is."""
        replica = self.replicas.get(replica_id)
        if replica is None:
            return []
        replica.tell(load)
        if load.kv_tokens and not replica.reports:
            self._prefixes.limit(replica_id, int(load.kv_tokens * self._bytes_per_token / PIECE_BYTES))
        self._changed(replica)
        return self._dispatch(now)

    @event
    def reported(
        self,
        replica_id: str,
        cached: Sequence[bytes],
        evicted: Sequence[bytes],
        whole: bool,
        as_of: float,
        now: float,
    ) -> None:
        """A replica told which keys it has cached and evicted.

        What is on its way there, or came back after the replica was asked, stays believed: the replica may
        not have seen it yet.

        Args:
            replica_id: which.
            cached: keys that it has, beside those it told before.
            evicted: keys that it has not, or not any more.
            whole: `cached` is all that it has.
            as_of: when it was asked.
            now: the time.
        """
        replica = self.replicas.get(replica_id)
        if replica is None:
            return
        if not replica.reports:
            replica.reports = True
            self._prefixes.unlimit(replica_id)
        if whole:
            there = set(cached)
            evicted = [key for key in self._prefixes.held(replica_id) if key not in there]
        used = ((key, self._prefixes.used_seconds(replica_id, key)) for key in evicted)
        gone = {key for key, seconds in used if seconds is not None and seconds < as_of}
        self.keys_corrected["unlearned"] += self._unlearn(replica, gone)
        self.keys_corrected["learned"] += self._prefixes.add(replica_id, cached, now)

    @event
    def set_state(self, replica_ids: Iterable[str], state: str, now: float) -> list[Decision]:
        """`up`, `cordoned` or `draining`."""
        for replica_id in replica_ids:
            self.replicas[replica_id].state = state
            self._changed(self.replicas[replica_id])
        return self._dispatch(now)

    # --- requests --------------------------------------------------------------------------------

    @event
    def arrive(self, arrival: Arrival, now: float) -> list[Decision]:
        """A request comes: it is sent, put into the line (no decision), or refused."""
        self._retries.earn()
        refusal = self._refused_at_once(arrival)
        if refusal is not None and (now >= self._patient_until or refusal.code == "invalid_request"):
            return [Refuse(arrival.id, refusal)]
        request = _Request(arrival, now)
        sent = self._place(request, now)
        self._requests[arrival.id] = request
        if sent is not None:
            return [sent]
        try:
            self._queue.add(
                arrival.id,
                priority=arrival.priority,
                tenant=arrival.tenant,
                cost_tokens=self.prompt_tokens(arrival) + (arrival.max_tokens or 256),
                now=now,
                estimated_wait=lambda: self.wait_seconds(arrival.model, now),
            )
        except Refusal as full:
            del self._requests[arrival.id]
            return [Refuse(arrival.id, full)]
        wait = self.wait_seconds(arrival.model, now)
        if wait is not None and wait > self._max_wait:
            self._drop(arrival.id)
            return [Refuse(arrival.id, _busy(f"a place is expected in {wait:.1f} s", self._max_wait, wait))]
        heapq.heappush(self._expiring, (self._may_wait_until(request), arrival.id))
        return []

    @event
    def began(self, request_id: str, now: float) -> None:
        """Its first token came."""
        request = self._requests.get(request_id)
        if request is None or request.replica is None or request.began_seconds is not None:
            return
        request.began_seconds, request.began_by = now, request.model
        replica = request.replica
        replica.breaker.succeeded()
        assert request.chosen is not None
        chosen = request.chosen
        replica.computed(
            request_id, now - request.sent_seconds - chosen.round_trip_seconds - chosen.queue_seconds
        )
        self._changed(replica)

    @event
    def ended(
        self,
        request_id: str,
        now: float,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        full_keys: list[bytes],
        answer_tokens: int = 0,
    ) -> list[Decision]:
        """It was answered.

        Args:
            request_id: which.
            now: the time.
            prompt_tokens: as the replica counted them.
            cached_tokens: that it did not compute.
            full_keys: of the conversation with the answer, which the replica has now.
            answer_tokens: of the answer.
        """
        request = self._requests.pop(request_id, None)
        if request is None or request.replica is None:
            return []
        replica = self._release(request)
        arrival = request.arrival
        if prompt_tokens:
            ratio = arrival.text_bytes / prompt_tokens
            self._bytes_per_token += LEARNING * (ratio - self._bytes_per_token)
            assert request.chosen is not None
            self.predicted_less_actual_cached += request.chosen.cached_tokens - cached_tokens
            self._compare(replica, request, request.chosen.cached_tokens, cached_tokens)
        self._answer_tokens += LEARNING * (answer_tokens - self._answer_tokens)
        replica.breaker.succeeded()
        if request.began_seconds is not None:
            replica.service_seconds += LEARNING * (now - request.began_seconds - replica.service_seconds)
        self._changed(replica)
        if self.replicas.get(replica.id) is replica:
            self._prefixes.learn(replica.id, full_keys, now)
        rate = self._drain.setdefault(arrival.model, DrainRate())
        rate.finished(now, backlog=bool(len(self._queue)))
        return self._dispatch(now)

    @event
    def left_by_client(self, request_id: str, now: float) -> list[Decision]:
        """Nobody waits for it any more."""
        request = self._requests.get(request_id)
        if request is None:
            return []
        if request.replica is None:
            self._drop(request_id)
            return []
        del self._requests[request_id]
        replica = self._release(request)
        replica.breaker.left()
        self._changed(replica)
        return self._dispatch(now)

    @event
    def refused_full(self, request_id: str, now: float) -> list[Decision]:
        """The replica had no place after all: try another, without blame."""
        request = self._requests[request_id]
        replica = self._release(request)
        replica.breaker.succeeded()
        load = replica.load
        if load is None or load.seconds < request.sent_seconds:  # it has not told how it is
            replica.tell(Load(now, replica.slots, replica.slots, wait_seconds=replica.service_seconds))
        replica.full_until = now + FULL_SECONDS
        self._unlearn(replica, set(request.new_keys))
        self._changed(replica)
        return self._again(request, now, spend=False)

    @event
    def failed(self, request_id: str, now: float) -> list[Decision]:
        """A fault of the replica: its connection broke, or it answered nonsense.

        Another is tried within the budget, from the beginning or, where tokens were given out
        already, from there: the caller knows which.
        """
        request = self._requests[request_id]
        replica = self._release(request)
        replica.breaker.failed(now)
        if request.began_seconds is None:
            self._unlearn(replica, set(request.new_keys))
        self._changed(replica)
        request.excluded.add(replica.id)
        request.faults += 1
        return self._again(request, now, spend=True)

    @event
    def tick(self, now: float) -> list[Decision]:
        """Time has passed: a breaker may let a probe through, a new replica take more, and some have waited
        for too long."""
        return self._dispatch(now)

    def _expire(self, now: float) -> list[Decision]:
        """Refuse who has waited for too long. Whoever comes after can be in time then, and whoever waits for
        what nobody serves any more is told so. Who has lost a replica is not punished for that."""
        refused: list[Decision] = []
        while self._expiring and self._expiring[0][0] <= now:
            _, request_id = heapq.heappop(self._expiring)
            request = self._requests.get(request_id)
            if request_id not in self._queue or request is None or now < self._may_wait_until(request):
                continue
            serving = self._serving(request.models)
            if request.faults if serving else now < self._patient_until:
                heapq.heappush(self._expiring, (now + LOOK_AGAIN_SECONDS, request_id))
                continue
            self._drop(request_id)
            nobody = _nobody(request.arrival.model)
            refused.append(self._waited_too_long(request, now) if serving else Refuse(request_id, nobody))
        return refused

    def _waited_too_long(self, request: _Request, now: float) -> Refuse:
        waited = f"this request has waited for {now - request.arrived_seconds:.1f} s"
        wait = self.wait_seconds(request.arrival.model, now)
        return Refuse(request.arrival.id, _busy(waited, self._max_wait, wait))

    def _may_wait_until(self, request: _Request) -> float:
        return request.arrived_seconds + self._max_wait

    def wait_seconds(self, model: str, now: float) -> float | None:
        """What one who came now would wait for a place, from the measured drain rate."""
        rate = self._drain.get(model)
        return None if rate is None else rate.estimated_wait(len(self._queue) + 1, now)

    def prompt_tokens(self, arrival: Arrival) -> int:
        """Of its prompt, as far as its text tells."""
        return max(1, int(arrival.text_bytes / self._bytes_per_token))

    # --- choosing --------------------------------------------------------------------------------

    def options(self, arrival: Arrival, now: float, excluded: Collection[str] = ()) -> list[Option]:
        """All replicas that may take it, and what is expected of each, the soonest first."""
        found = self._estimates(arrival, arrival.model, now, excluded)
        if found is None:
            return []
        options = [found.option(int(row)) for row in found.allowed.nonzero()[0]]
        return sorted(options, key=lambda each: each.cost_seconds)

    def changed(self, replica_id: str) -> None:
        """A replica's fields were set from outside."""
        self._changed(self.replicas[replica_id])

    def _changed(self, replica: Replica) -> None:
        if self.replicas.get(replica.id) is replica:
            self._table.put(replica, self._round_trip(replica.region))
            if replica.breaker.faults:
                self._faulty.add(replica.id)
            else:
                self._faulty.discard(replica.id)

    def _unlearn(self, replica: Replica, keys: set[bytes]) -> int:
        """It has not what these stand for, except for what it is being asked; how many were believed."""
        if not keys or self.replicas.get(replica.id) is not replica:
            return 0
        for request_id in replica.sent:
            asked = self._requests[request_id].arrival.keys
            if not keys.isdisjoint(asked):
                keys.difference_update(asked)
        return self._prefixes.unlearn(replica.id, keys)

    def _compare(self, replica: Replica, request: _Request, predicted: int, cached: int) -> None:
        """What an answer says was cached. The replica has this conversation now, whatever it had; but one
        that does not report, and has lost this, has lost what was used before it, too."""
        replica.tells_cached = replica.tells_cached or cached > 0
        is_short = 2 * cached < predicted and replica.tells_cached and not replica.reports
        if is_short and request.cached_since is not None and self.replicas.get(replica.id) is replica:
            unlearned = self._prefixes.unlearn_older(replica.id, request.cached_since)
            self.keys_corrected["unlearned"] += unlearned

    def _estimates(
        self, arrival: Arrival, model: str, now: float, excluded: Collection[str]
    ) -> Estimates | None:
        allowed = self._table.allowed(model, now, excluded)
        if allowed is None:
            return None
        tokens = self.prompt_tokens(arrival)
        per_key = tokens / max(1, len(arrival.keys))
        matched = self._prefixes.match(arrival.keys)
        cached = {replica: min(tokens - 1, int(keys * per_key)) for replica, keys in matched.items()}
        return estimate(
            self._table, allowed, tokens, tokens + self._answer(arrival), self._table.column(cached), now
        )

    def _place(self, request: _Request, now: float) -> Send | None:
        """Choose and reserve; None where the best of them has no place yet."""
        avoided = self._avoided(request)
        for model in request.models:
            found = self._estimates(request.arrival, model, now, avoided)
            if found is not None:
                row = found.choose(self._rng)
                if found.has_place[row]:
                    return self._reserve(request, model, found, row, now)
        return None

    def _avoided(self, request: _Request) -> Collection[str]:
        """Those that have failed it and, once one has, all that have failed anybody of late, and their
        clusters where that are several, if there are others: where some have died, their neighbours often
        have, too."""
        if not request.faults:
            return request.excluded
        faulty = Counter(self.replicas[each].cluster for each in self._faulty)
        avoided = request.excluded | self._faulty
        neighbours = {each.id for each in self.replicas.values() if faulty[each.cluster] >= SEVERAL}
        for those in (avoided | neighbours, avoided):
            if self._serving(request.models, those):
                return those
        return request.excluded

    def _reserve(self, request: _Request, model: str, found: Estimates, row: int, now: float) -> Send:
        arrival, chosen = request.arrival, found.option(row)
        request.attempts += 1
        replica = self.replicas[chosen.replica]
        request.replica, request.chosen, request.model = replica, chosen, model
        request.sent_seconds, request.began_seconds = now, None
        uncached = self.prompt_tokens(arrival) - chosen.cached_tokens
        replica.add(arrival.id, Sent(now, uncached, uncached + self._answer(arrival)))
        # Believed at once: the next one that begins alike is drawn there, too, unless it is full.
        deepest = self._prefixes.deepest(replica.id, arrival.keys)
        request.cached_since = None if deepest is None else self._prefixes.used_seconds(replica.id, deepest)
        request.new_keys = self._prefixes.learn(replica.id, arrival.keys, now)
        others = tuple(found.option(each) for each in found.soonest(row))
        self._changed(replica)
        return Send(arrival.id, chosen.replica, model, request.attempts, chosen, others)

    def _dispatch(self, now: float) -> list[Decision]:
        """Look at those who wait, in their fair order."""
        sent = self._expire(now)
        if not len(self._queue) or not any_place(self._table, now):
            return sent
        in_vain = 0
        for request_id in list(self._first_waiting()):
            decision = self._place(self._requests[request_id], now)
            if decision is not None:
                self._queue.remove(request_id, served=True)
                sent.append(decision)
            in_vain = 0 if decision is not None else in_vain + 1
            if in_vain == IN_VAIN or not any_place(self._table, now):
                break
        return sent

    def _first_waiting(self) -> Iterable[str]:
        for place, request_id in enumerate(self._queue):
            if place == LOOKED_AT:
                return
            yield request_id

    def _again(self, request: _Request, now: float, *, spend: bool) -> list[Decision]:
        arrival = request.arrival
        decisions = self._dispatch(now)
        if spend and not self._may_be_tried_again(request):
            del self._requests[arrival.id]
            reason = Refusal("no_replica", "The replicas that were tried failed; try again.")
            return [*decisions, Refuse(arrival.id, reason)]
        if not request.faults and now >= self._may_wait_until(request):
            del self._requests[arrival.id]
            return [*decisions, self._waited_too_long(request, now)]
        if not self._serving(request.models, request.excluded):
            request.excluded.clear()  # nobody else is there: better the same one again than nobody ever
        sent = self._place(request, now)
        if sent is not None:
            return [*decisions, sent]
        if not self._serving(request.models):
            del self._requests[arrival.id]
            return [*decisions, Refuse(arrival.id, _nobody(arrival.model))]
        self._queue.requeue_front(
            arrival.id,
            priority=arrival.priority,
            tenant=arrival.tenant,
            cost_tokens=self.prompt_tokens(arrival),
            now=now,
        )
        heapq.heappush(self._expiring, (self._may_wait_until(request), arrival.id))
        return decisions

    def _may_be_tried_again(self, request: _Request) -> bool:
        if request.faults >= MOST_ATTEMPTS:
            return False
        # Whose answer has begun is not dropped for the budget's sake: when a region dies, all that it was
        # answering goes on elsewhere, once. Requests that have nothing yet can be asked again.
        goes_on = request.began_by is not None and request.faults == 1
        return goes_on or self._retries.spend()

    def _refused_at_once(self, arrival: Arrival) -> Refusal | None:
        if arrival.id in self._requests:
            return Refusal("invalid_request", f"The request id {arrival.id} is in use.", param="id")
        models = sorted({model for replica in self.replicas.values() for model in replica.models})
        if arrival.model in models:
            return None if self._serving((arrival.model, *arrival.smaller)) else _nobody(arrival.model)
        if not models:
            return Refusal("no_replica", "No replica has joined yet.")
        there = ", ".join(models)
        return Refusal(
            "model_not_found",
            f"Model {arrival.model!r} is not served here; there are: {there}.",
            param="model",
        )

    def _serving(self, models: Sequence[str], excluded: Collection[str] = ()) -> bool:
        return any(
            replica.state == "up" and replica.id not in excluded and not replica.models.isdisjoint(models)
            for replica in self.replicas.values()
        )

    def _answer(self, arrival: Arrival) -> int:
        """Tokens that its answer may have."""
        most = arrival.max_tokens
        return int(self._answer_tokens if most is None else min(most, self._answer_tokens))

    def _round_trip(self, region: str) -> float:
        if region == self.region:
            return 0.0
        first, second = sorted((region, self.region))
        return self._round_trips.get((first, second), 0.0)

    def _release(self, request: _Request) -> Replica:
        """It is not there any more."""
        replica = request.replica
        assert replica is not None, "only what was sent can be released"
        request.replica = None
        replica.full_until = -math.inf  # there is a place now
        replica.remove(request.arrival.id)
        self._changed(replica)
        return replica

    def _drop(self, request_id: str) -> None:
        self._queue.remove(request_id)
        del self._requests[request_id]

    # --- invariants ------------------------------------------------------------------------------

    def check(self) -> None:
        """Prove what must hold between any two events; AssertionError if it does not."""
        for request_id, request in self._requests.items():
            waits = request_id in self._queue
            assert waits != (request.replica is not None), "a request is lost, or in two places"
            if request.replica is not None:
                assert request_id in request.replica.sent, "sent, but not counted"
        for replica in self.replicas.values():
            for request_id in replica.sent:
                assert self._requests[request_id].replica is replica, "counted, but not sent"
            computing = [sent for sent in replica.sent.values() if sent.computing]
            assert replica.pending_tokens == sum(sent.uncached_tokens for sent in computing)
            assert replica.since == sum(not sent.told for sent in replica.sent.values())
            row = self._table.rows[replica.id]
            assert self._table.running[row] == replica.running, "the table is not as the replica"
            assert self._table.pending[row] == replica.pending_tokens
        assert set(self._table.rows) == set(self.replicas)
        assert self._faulty == {each.id for each in self.replicas.values() if each.breaker.faults}
        self._prefixes.check()
        assert set(self._queue) <= {request_id for _, request_id in self._expiring}, "one may wait for ever"
        assert len(self._queue) == sum(1 for r in self._requests.values() if r.replica is None)


def _nobody(model: str) -> Refusal:
    return Refusal("no_replica", f"No replica of {model} takes requests now.")


def _busy(why: str, limit: float, wait: float | None) -> Refusal:
    return Refusal(
        "at_capacity",
        f"All replicas are busy; {why}, and nobody is kept waiting for more than {limit:.0f} s.",
        retry_after_seconds=wait,
    )
