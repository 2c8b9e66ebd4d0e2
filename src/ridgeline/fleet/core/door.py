"""The front door's core: events in, decisions out. Holds no connection and no weights, and has no clock.

    arrive --> choose, reserve in the same step --> Send --> began --> ended
       |            ^ no place anywhere near              |
       '-> line ----'  (bound late: looked at again       '-- refused: full, or failed --> choose again
                        whenever something changes)

What was sent is counted at once, so that a burst does not fall on one replica. Full is not broken: a
refusal says that the ledger was wrong, and costs the replica nothing.
"""

import random
from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace

from ridgeline.admission import DrainRate, WaitingQueue
from ridgeline.fleet.core.prefix_map import PrefixMap
from ridgeline.fleet.core.replica import Load, Replica, Sent
from ridgeline.fleet.core.retries import RetryBudget
from ridgeline.fleet.core.route import Option, choose, option
from ridgeline.protocol import Refusal

LOOKED_AT = 64
"""Waiting requests that are looked at when something changes: the first may wait for a replica that
others do not need."""

MOST_ATTEMPTS = 4

BYTES_PER_TOKEN = 4.0
"""To begin with; learned from what answers say."""

LEARNING = 0.05


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at the door.

    Attributes:
        id: unique.
        model: asked for.
        keys: of its text, see `keys.py`.
        text_bytes: of its text.
        tenant: its owner.
        priority: smaller is served first.
        max_tokens: of the answer; None for no limit.
    """

    id: str
    model: str
    keys: tuple[bytes, ...]
    text_bytes: int
    tenant: str = ""
    priority: int = 0
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request to a replica now; it is counted there already."""

    request: str
    replica: str
    attempt: int
    chosen: Option
    others: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell a request that it is not served."""

    request: str
    refusal: Refusal


Decision = Send | Refuse


@dataclass(slots=True)
class _Request:
    arrival: Arrival
    arrived_seconds: float
    attempts: int = 0
    excluded: set[str] = field(default_factory=set)
    replica: Replica | None = None
    chosen: Option | None = None
    sent_seconds: float = 0.0
    began_seconds: float | None = None


class Door:
    """Places requests on replicas. One thread.

    Args:
        region: of this front door.
        round_trips: seconds between regions, by pair in alphabetical order.
        max_wait_seconds: who would wait for longer is refused.
        max_waiting: in the line at most.
        rng: for choices among equals; a seeded one repeats them.
    """

    def __init__(
        self,
        region: str,
        round_trips: dict[tuple[str, str], float],
        *,
        max_wait_seconds: float = 20.0,
        max_waiting: int = 10_000,
        rng: random.Random | None = None,
    ) -> None:
        self.region = region
        self.replicas: dict[str, Replica] = {}
        self.predicted_less_actual_cached = 0
        """Tokens, summed: above 0 where too much is believed to be cached."""
        self._round_trips = round_trips
        self._max_wait = max_wait_seconds
        self._queue = WaitingQueue(max_waiting)
        self._requests: dict[str, _Request] = {}
        self._prefixes = PrefixMap()
        self._drain: dict[str, DrainRate] = {}
        self._retries = RetryBudget()
        self._bytes_per_token = BYTES_PER_TOKEN
        self._rng = rng or random.Random()

    @property
    def waiting(self) -> int:
        """Requests in the line."""
        return len(self._queue)

    # --- replicas --------------------------------------------------------------------------------

    def joined(self, replica: Replica, now: float) -> list[Decision]:
        """A replica is there, for the first time or again; its memory is empty.

        What an earlier one of this name was answering fails by itself, as connections break.
        """
        self._prefixes.forget(replica.id)
        self.replicas[replica.id] = replica
        return self._dispatch(now)

    def left(self, replica_id: str, now: float) -> list[Decision]:
        """A replica is gone. What it was answering fails by itself, as connections break."""
        self.replicas.pop(replica_id, None)
        self._prefixes.forget(replica_id)
        return self._dispatch(now)

    def told(self, replica_id: str, load: Load, now: float) -> list[Decision]:
        """A replica told how it is."""
        replica = self.replicas.get(replica_id)
        if replica is None:
            return []
        replica.load = load
        replica.slots = load.slots
        return self._dispatch(now)

    def set_state(self, replica_ids: Iterable[str], state: str, now: float) -> list[Decision]:
        """`up`, `cordoned` or `draining`."""
        for replica_id in replica_ids:
            self.replicas[replica_id].state = state
        return self._dispatch(now)

    # --- requests --------------------------------------------------------------------------------

    def arrive(self, arrival: Arrival, now: float) -> list[Decision]:
        """A request comes: it is sent, put into the line (no decision), or refused."""
        self._retries.earn()
        refusal = self._refused_at_once(arrival)
        if refusal is not None:
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
                cost_tokens=self._tokens(arrival) + (arrival.max_tokens or 256),
                now=now,
                estimated_wait=lambda: self.wait_seconds(arrival.model, now),
            )
        except Refusal as full:
            del self._requests[arrival.id]
            return [Refuse(arrival.id, full)]
        wait = self.wait_seconds(arrival.model, now)
        if wait is not None and wait > self._max_wait:
            self._drop(arrival.id)
            return [Refuse(arrival.id, _too_long(wait, self._max_wait))]
        return []

    def began(self, request_id: str, now: float) -> None:
        """Its first token came."""
        request = self._requests.get(request_id)
        if request is None or request.replica is None or request.began_seconds is not None:
            return
        request.began_seconds = now
        replica = request.replica
        replica.breaker.succeeded()
        assert request.chosen is not None
        took = now - request.sent_seconds - request.chosen.round_trip_seconds
        replica.learn(replica.sent[request_id], took)

    def ended(
        self, request_id: str, now: float, *, prompt_tokens: int, cached_tokens: int, full_keys: list[bytes]
    ) -> list[Decision]:
        """It was answered.

        Args:
            request_id: which.
            now: the time.
            prompt_tokens: as the replica counted them.
            cached_tokens: that it did not compute.
            full_keys: of the conversation with the answer, which the replica has now.
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
        replica.breaker.succeeded()
        if request.began_seconds is not None:
            replica.service_seconds += LEARNING * (now - request.began_seconds - replica.service_seconds)
        if self.replicas.get(replica.id) is replica:
            self._prefixes.learn(replica.id, full_keys)
        rate = self._drain.setdefault(arrival.model, DrainRate())
        rate.finished(now, backlog=bool(len(self._queue)))
        return self._dispatch(now)

    def left_by_client(self, request_id: str, now: float) -> list[Decision]:
        """Nobody waits for it any more."""
        request = self._requests.get(request_id)
        if request is None:
            return []
        if request.replica is None:
            self._drop(request_id)
            return []
        del self._requests[request_id]
        self._release(request).breaker.left()
        return self._dispatch(now)

    def refused_full(self, request_id: str, now: float) -> list[Decision]:
        """The replica had no place after all: try another, without blame."""
        request = self._requests[request_id]
        replica = self._release(request)
        replica.breaker.succeeded()
        # Until it tells otherwise it is full.
        replica.load = Load(now, replica.slots, replica.slots, wait_seconds=replica.service_seconds)
        return self._again(request, now, spend=False)

    def failed(self, request_id: str, now: float) -> list[Decision]:
        """A fault of the replica: its connection broke, or it answered nonsense.

        Another is tried within the budget, from the beginning or, where tokens were given out
        already, from there: the caller knows which.
        """
        request = self._requests[request_id]
        replica = self._release(request)
        replica.breaker.failed(now)
        request.excluded.add(replica.id)
        return self._again(request, now, spend=True)

    def tick(self, now: float) -> list[Decision]:
        """Time has passed: a breaker may let a probe through, a new replica take more."""
        return self._dispatch(now)

    def wait_seconds(self, model: str, now: float) -> float | None:
        """What one who came now would wait for a place, from the measured drain rate."""
        rate = self._drain.get(model)
        return None if rate is None else rate.estimated_wait(len(self._queue) + 1, now)

    # --- choosing --------------------------------------------------------------------------------

    def options(self, arrival: Arrival, now: float, excluded: Iterable[str] = ()) -> list[Option]:
        """All replicas that may take it, and what is expected of each."""
        tokens, left_out = self._tokens(arrival), set(excluded)
        matched = self._prefixes.match(arrival.keys)
        per_key = tokens / max(1, len(arrival.keys))
        return [
            option(
                replica,
                tokens,
                min(tokens - 1, int(matched.get(replica.id, 0) * per_key)),
                self._round_trip(replica.region),
                now,
            )
            for replica in self.replicas.values()
            if replica.id not in left_out and replica.takes(arrival.model, now)
        ]

    def _place(self, request: _Request, now: float) -> Send | None:
        """Choose and reserve; None where the best of them has no place yet."""
        arrival = request.arrival
        found = self.options(arrival, now, request.excluded)
        if not found:
            return None
        chosen = choose(found, self._rng)
        if not chosen.has_place:
            return None
        request.attempts += 1
        replica = self.replicas[chosen.replica]
        request.replica, request.chosen = replica, chosen
        request.sent_seconds, request.began_seconds = now, None
        tokens = self._tokens(arrival)
        replica.sent[arrival.id] = Sent(now, tokens - chosen.cached_tokens, tokens)
        replica.breaker.sent()
        # Believed at once: the next one that begins alike is drawn there, too, unless it is full.
        self._prefixes.learn(replica.id, arrival.keys)
        return Send(arrival.id, chosen.replica, request.attempts, chosen, tuple(found))

    def _dispatch(self, now: float) -> list[Decision]:
        """Look at those who wait, in their fair order."""
        sent: list[Decision] = []
        if not len(self._queue) or not self.replicas:
            return sent
        for request_id in list(self._first_waiting()):
            decision = self._place(self._requests[request_id], now)
            if decision is not None:
                self._queue.remove(request_id, served=True)
                sent.append(decision)
        return sent

    def _first_waiting(self) -> Iterable[str]:
        for place, request_id in enumerate(self._queue):
            if place == LOOKED_AT:
                return
            yield request_id

    def _again(self, request: _Request, now: float, *, spend: bool) -> list[Decision]:
        arrival = request.arrival
        decisions = self._dispatch(now)
        if spend and (request.attempts >= MOST_ATTEMPTS or not self._retries.spend()):
            del self._requests[arrival.id]
            reason = Refusal("no_replica", "The replicas that were tried failed; try again.")
            return [*decisions, Refuse(arrival.id, reason)]
        if not self._serving(arrival.model, request.excluded):
            request.excluded.clear()  # nobody else is there: better the same one again than nobody ever
        sent = self._place(request, now)
        if sent is not None:
            return [*decisions, sent]
        if not self._serving(arrival.model):
            del self._requests[arrival.id]
            return [*decisions, Refuse(arrival.id, _nobody(arrival.model))]
        self._queue.requeue_front(
            arrival.id,
            priority=arrival.priority,
            tenant=arrival.tenant,
            cost_tokens=self._tokens(arrival),
            now=now,
        )
        return decisions

    def _refused_at_once(self, arrival: Arrival) -> Refusal | None:
        if arrival.id in self._requests:
            return Refusal("invalid_request", f"The request id {arrival.id} is in use.", param="id")
        models = sorted({model for replica in self.replicas.values() for model in replica.models})
        if arrival.model in models:
            return None if self._serving(arrival.model) else _nobody(arrival.model)
        if not models:
            return Refusal("no_replica", "No replica has joined yet.")
        there = ", ".join(models)
        return Refusal(
            "model_not_found",
            f"Model {arrival.model!r} is not served here; there are: {there}.",
            param="model",
        )

    def _serving(self, model: str, excluded: Container[str] = ()) -> bool:
        return any(
            replica.state == "up" and model in replica.models and replica.id not in excluded
            for replica in self.replicas.values()
        )

    def _tokens(self, arrival: Arrival) -> int:
        return max(1, int(arrival.text_bytes / self._bytes_per_token))

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
        sent, load = replica.sent.pop(request.arrival.id), replica.load
        if load is not None and sent.seconds <= load.seconds:
            # It was in what the replica told.
            replica.load = replace(load, running=max(0, load.running - 1))
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
        assert len(self._queue) == sum(1 for r in self._requests.values() if r.replica is None)


def _nobody(model: str) -> Refusal:
    return Refusal("no_replica", f"No replica of {model} takes requests now.")


def _too_long(wait: float, limit: float) -> Refusal:
    return Refusal(
        "at_capacity",
        f"All replicas are busy; a place is expected in {wait:.1f} s, and nobody is kept waiting for more "
        f"than {limit:.0f} s.",
        retry_after_seconds=wait,
    )
