"""What is remembered of requests, so that somebody may ask later what became of them."""

import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ridgeline.protocol import Event, Refusal, Request, Timeline, Told
from ridgeline.protocol.timeline import AnswerTimeline, Matched, Prefilled, Refused

FIRST_EVENTS = 40
LAST_EVENTS = 20
"""Of an answer so many are kept from its beginning and from its end; those between are counted only."""

MOST_FOUND = 100
"""Requests under one name: more than the prompts that one body may have."""

EVENT_BYTES = 320
CULPRIT_BYTES = 220
REQUEST_BYTES = 1200
"""What they take in memory, about: measured with tracemalloc, rounded up."""


@dataclass(slots=True)
class _Answer:
    first: list[Event] = field(default_factory=list)
    last: deque[Event] = field(default_factory=lambda: deque(maxlen=LAST_EVENTS))
    omitted: int = 0

    def add(self, event: Event) -> int:
        """Take it in; how many bytes more are held."""
        kept: list[Event] | deque[Event] = self.last or self.first
        if kept and _is_replaced(kept[-1], event):
            kept[-1] = event
            return 0
        if len(self.first) < FIRST_EVENTS:
            self.first.append(event)
            return _bytes_of(event)
        freed = 0
        if len(self.last) == LAST_EVENTS:
            self.omitted += 1
            freed = _bytes_of(self.last[0])
        self.last.append(event)
        return _bytes_of(event) - freed


@dataclass(slots=True, eq=False)
class _Kept:
    request_id: str
    name: str
    tenant: str
    model: str
    received_seconds: float
    received_unix_seconds: float
    answers: list[_Answer]
    bytes: int = REQUEST_BYTES


class Timelines:
    """The latest requests and their events, bounded in number and in memory; used from one thread.

    Args:
        most_requests: that are remembered; the oldest are forgotten first, also where they still run.
        most_bytes: that all of them take, about.
    """

    def __init__(self, most_requests: int = 2000, most_bytes: int = 16 * 1024**2) -> None:
        self.most_requests, self.most_bytes = most_requests, most_bytes
        self.bytes = 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._named: dict[tuple[str, str], list[str]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def begin(self, request: Request) -> bool:
        """A request came; False, and nothing is done, where its id is known already."""
        if request.id in self._kept:
            return False
        now = time.monotonic()
        received = request.received_seconds or now
        answers = [_Answer() for _ in range(request.n)]
        kept = _Kept(
            request.id,
            request.name,
            request.tenant,
            request.model,
            received,
            time.time() - (now - received),
            answers,
        )
        self._kept[request.id] = kept
        self._named.setdefault((request.tenant, request.name), []).append(request.id)
        self.bytes += kept.bytes
        self._forget()
        return True

    def tell(self, told: Iterable[Told]) -> None:
        """Events of sequences; those of requests that are forgotten are passed over."""
        for news in told:
            request_id, _, index = news.sequence_id.rpartition("/")
            kept = self._kept.get(request_id)
            if kept is not None:
                for event in news.events:
                    self._add(kept, int(index), event)
        self._forget()

    def refused(self, request: Request, refusal: Refusal) -> None:
        """The request was not served, for a reason that the engine may not know of."""
        kept = self._kept.get(request.id)
        if kept is None:
            return
        wait = refusal.retry_after_seconds
        event = Refused(time.monotonic(), refusal.code, refusal.message[:500], wait)
        for index, answer in enumerate(kept.answers):
            known = answer.last or answer.first
            if not known or not isinstance(known[-1], Refused):  # the engine has told it already
                self._add(kept, index, event)
        self._forget()

    def _add(self, kept: _Kept, index: int, event: Event) -> None:
        more = kept.answers[index].add(event)
        kept.bytes += more
        self.bytes += more

    def _forget(self) -> None:
        while len(self._kept) > self.most_requests or (self.bytes > self.most_bytes and self._kept):
            _, kept = self._kept.popitem(last=False)
            self.bytes -= kept.bytes
            named = self._named[kept.tenant, kept.name]
            named.remove(kept.request_id)
            if not named:
                del self._named[kept.tenant, kept.name]

    def find(self, name: str, tenant: str) -> list[Timeline]:
        """See `Explaining.timeline`."""
        ids = self._named.get((tenant, name), [])[-MOST_FOUND:]
        if not ids and name in self._kept and self._kept[name].tenant == tenant:
            ids = [name]
        now = time.monotonic()
        return [_timeline(self._kept[request_id], now) for request_id in ids]


def _timeline(kept: _Kept, now: float) -> Timeline:
    answers = tuple(AnswerTimeline((*a.first, *a.last), a.omitted) for a in kept.answers)
    return Timeline(
        kept.request_id,
        kept.name,
        kept.tenant,
        kept.model,
        kept.received_seconds,
        kept.received_unix_seconds,
        now,
        answers,
    )


def _is_replaced(before: Event, event: Event) -> bool:
    return (
        isinstance(event, Prefilled)
        and isinstance(before, Prefilled)
        and not before.done
        and before.first == event.first
    )


def _bytes_of(event: Event) -> int:
    more = CULPRIT_BYTES * len(event.evictions) if isinstance(event, Matched) else 0
    return EVENT_BYTES + more + (2 * len(event.message) if isinstance(event, Refused) else 0)
