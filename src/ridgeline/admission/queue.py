"""Requests that wait for a place: bounded, by priority, fair among tenants.

Order: smaller priority first, strictly, so that batch work waits as long as interactive work
does; within a priority first those that were preempted, then the fair order of `fair.py`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

from ridgeline.admission.fair import FairOrder, Waiting
from ridgeline.protocol import Refusal


def at_capacity(waiting: int, limit: int, wait_seconds: float | None, places: int = 0) -> Refusal:
    """The refusal of a request for which the queue has no place.

    `wait_seconds` is the measured estimate of what a place would cost, None if nothing is known;
    `places` are free ones that those at the head are about to take.
    """
    beyond = f" beyond {places} free places" if places else ""
    promise = "" if wait_seconds is None else f"; a place is expected in {wait_seconds:.1f} s"
    return Refusal(
        "at_capacity",
        f"The queue is full: {waiting} requests are waiting and max_waiting is {limit}{beyond}{promise}.",
        retry_after_seconds=wait_seconds,
    )


class WaitingQueue:
    """At most `max_waiting` requests, and whatever was preempted. Single-threaded, no clock."""

    def __init__(self, max_waiting: int) -> None:
        if max_waiting < 0:
            raise ValueError(f"max_waiting must not be negative, it is {max_waiting}")
        self.max_waiting = max_waiting
        self._requests: dict[str, Waiting] = {}
        self._classes: dict[int, FairOrder] = {}
        self._front: dict[int, OrderedDict[str, Waiting]] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    def __iter__(self) -> Iterator[str]:
        """Ids in the order they would be served if nobody else came. O(n log n)."""
        for priority in self._priorities():
            yield from self._front.get(priority, ())
            yield from (request.id for request in self._classes.get(priority, ()))

    def is_full(self, places: int = 0) -> bool:
        """Whether `add` would refuse. `places` are free ones that the head is about to take."""
        return len(self._requests) >= self.max_waiting + places

    def add(
        self,
        request_id: str,
        *,
        priority: int,
        tenant: str,
        cost_tokens: int,
        now: float,
        places: int = 0,
        estimated_wait: Callable[[], float | None] | None = None,
    ) -> None:
        """Join the queue. `cost_tokens` is what serving it is expected to take; `places` are free
        ones that the head is about to take, so that a burst to an idle server is not refused.

        Raises:
            Refusal: `at_capacity` when the queue is full, with `estimated_wait()` as the time
                after which to try again. `displaced_by` says who could make room instead.
            ValueError: the id is waiting already.
        """
        if self.is_full(places):
            wait = None if estimated_wait is None else estimated_wait()
            raise at_capacity(len(self), self.max_waiting, wait, places)
        request = self._enter(request_id, priority, tenant, cost_tokens, now)
        self._classes.setdefault(priority, FairOrder()).add(request)

    def requeue_front(
        self, request_id: str, *, priority: int, tenant: str, cost_tokens: int, now: float
    ) -> None:
        """Come back after preemption: before all others of its priority, the latest first.

        Never refused, for it was accepted once; nor does its tenant pay again. Raises ValueError
        when the id is waiting already.
        """
        request = self._enter(request_id, priority, tenant, cost_tokens, now)
        front = self._front.setdefault(priority, OrderedDict())
        front[request_id] = request
        front.move_to_end(request_id, last=False)

    def peek(self) -> str | None:
        """Who is to be served next; None when nobody waits."""
        head = self._head()
        return None if head is None else head.id

    def pop(self) -> str:
        """Take out who is to be served next; raises LookupError when nobody waits."""
        head = self._head()
        if head is None:
            raise LookupError("nobody waits")
        self.remove(head.id, served=True)
        return head.id

    def remove(self, request_id: str, *, served: bool = False) -> None:
        """Take a request out: because it is served now, or because it was given up.

        Only what is served counts against its tenant. Raises KeyError for unknown ids.
        """
        request = self._requests.pop(request_id)
        front = self._front.get(request.priority)
        if front is not None and request_id in front:
            del front[request_id]
            if not front:
                del self._front[request.priority]
            return
        self._classes[request.priority].remove(request, served=served)

    def displaced_by(self, *, priority: int, tenant: str, places: int = 0) -> str | None:
        """Who should be refused so that such a newcomer finds a place in a full queue, if anybody.

        The youngest of a lower priority; else, within its priority, the youngest of the tenant
        with most requests waiting, if that has at least two more than the newcomer's. Preempted
        requests are never displaced; while they overfill the queue, displacing one other makes no
        room and nobody is named. `places` as for `add`. O(tenants); changes nothing.
        """
        if len(self._requests) > self.max_waiting + places:
            return None
        for worst in sorted(self._classes, reverse=True):
            if worst < priority:
                break
            if worst > priority:
                victim = self._classes[worst].longest()
                if victim is not None:
                    return victim.id
                continue
            order = self._classes[priority]
            victim = order.longest(other_than=tenant)
            if victim is not None and order.count(victim.tenant) > order.count(tenant) + 1:
                return victim.id
        return None

    def _head(self) -> Waiting | None:
        for priority in self._priorities():
            front = self._front.get(priority)
            if front:
                return next(iter(front.values()))
            order = self._classes.get(priority)
            first = None if order is None else order.first()
            if first is not None:
                return first
        return None

    def _priorities(self) -> list[int]:
        return sorted(self._classes.keys() | self._front.keys())

    def _enter(self, request_id: str, priority: int, tenant: str, cost_tokens: int, now: float) -> Waiting:
        if request_id in self._requests:
            raise ValueError(f"request {request_id} is waiting already")
        # A cost of nothing would let a tenant jump the line for ever.
        request = Waiting(request_id, priority, tenant, max(1, cost_tokens), now, self._arrivals)
        self._arrivals += 1
        self._requests[request_id] = request
        return request
