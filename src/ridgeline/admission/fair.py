"""A fair order among tenants: start-time fair queueing over expected tokens.

Goyal, Vin and Cheng, "Start-time fair queuing" (SIGCOMM 1996). Each tenant has its own line. The
head of a line gets a start tag, the later of the virtual time and of its tenant's last finish tag;
the smallest start tag is served next, and becomes the virtual time. Being served moves the
tenant's finish tag on by the cost. So a tenant that floods the queue waits behind its own work
alone, and whoever was away gains no credit. With one tenant, the order is that of arrival.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

REMEMBERED_TENANTS = 1024
"""Finish tags kept of tenants with nothing waiting; forgetting one costs the others one turn."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in the queue; `order` is its place among all arrivals."""

    id: str
    priority: int
    tenant: str
    cost_tokens: int
    added_seconds: float
    order: int


@dataclass(slots=True)
class _Line:
    """A tenant's requests in order of arrival, and the start tag of the first."""

    requests: OrderedDict[str, Waiting]
    start: float

    @property
    def head(self) -> Waiting:
        return next(iter(self.requests.values()))


class FairOrder:
    """Requests of one priority. All changes are O(log n), amortised."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._finish: OrderedDict[str, float] = OrderedDict()
        self._virtual = 0.0
        self._heads: list[tuple[float, int, str, str]] = []
        """Heap of (start, order, id, tenant); an item whose id is no longer a head is stale."""

    def __bool__(self) -> bool:
        return bool(self._lines)

    def count(self, tenant: str) -> int:
        """Requests this tenant has waiting."""
        line = self._lines.get(tenant)
        return 0 if line is None else len(line.requests)

    def add(self, request: Waiting) -> None:
        """Join the tenant's line at its end."""
        line = self._lines.get(request.tenant)
        if line is not None:
            line.requests[request.id] = request
            return
        self._lines[request.tenant] = _Line(OrderedDict({request.id: request}), 0.0)
        self._tag_head(request.tenant)

    def first(self) -> Waiting | None:
        """Whom to serve next."""
        while self._heads:
            _, _, request_id, tenant = self._heads[0]
            line = self._lines.get(tenant)
            if line is not None and line.head.id == request_id:
                return line.head
            heapq.heappop(self._heads)
        return None

    def remove(self, request: Waiting, *, served: bool) -> None:
        """Leave the line; only a request that is served counts against its tenant."""
        line = self._lines[request.tenant]
        was_head = line.head.id == request.id
        if served:
            start = line.start if was_head else self._start_of(request.tenant)
            self._virtual = max(self._virtual, start)
            self._remember(request.tenant, start + request.cost_tokens)
        del line.requests[request.id]
        if not line.requests:
            del self._lines[request.tenant]
        elif was_head:
            self._tag_head(request.tenant)

    def __iter__(self) -> Iterator[Waiting]:
        """The order in which all would be served if nobody else came."""
        lines = {tenant: iter(line.requests.values()) for tenant, line in self._lines.items()}
        heap = [(line.start, line.head.order, tenant) for tenant, line in self._lines.items()]
        heapq.heapify(heap)
        upcoming = {tenant: next(line) for tenant, line in lines.items()}
        while heap:
            start, _, tenant = heapq.heappop(heap)
            request = upcoming[tenant]
            yield request
            following = next(lines[tenant], None)
            if following is not None:
                upcoming[tenant] = following
                heapq.heappush(heap, (start + request.cost_tokens, following.order, tenant))

    def longest(self, other_than: str | None = None) -> Waiting | None:
        """The youngest request of the tenant with most of them waiting. O(tenants)."""
        lines = [line for tenant, line in self._lines.items() if tenant != other_than]
        if not lines:
            return None
        longest = max(lines, key=lambda line: (len(line.requests), line.head.order))
        return next(reversed(longest.requests.values()))

    def _start_of(self, tenant: str) -> float:
        return max(self._virtual, self._finish.get(tenant, 0.0))

    def _tag_head(self, tenant: str) -> None:
        line = self._lines[tenant]
        line.start = self._start_of(tenant)
        heapq.heappush(self._heads, (line.start, line.head.order, line.head.id, tenant))
        if len(self._heads) > 2 * len(self._lines) + 16:
            self._heads = [(x.start, x.head.order, x.head.id, name) for name, x in self._lines.items()]
            heapq.heapify(self._heads)

    def _remember(self, tenant: str, finish: float) -> None:
        self._finish[tenant] = finish
        self._finish.move_to_end(tenant)
        if len(self._finish) > REMEMBERED_TENANTS:
            self._finish.popitem(last=False)
