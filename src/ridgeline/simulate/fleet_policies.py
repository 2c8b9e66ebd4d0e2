"""Ways to place requests on replicas: our front door, and what others do, behind one protocol."""

import bisect
import random
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Protocol

from ridgeline.fleet.core.decisions import Arrival, Decision, Send
from ridgeline.fleet.core.door import Door
from ridgeline.fleet.core.prefix_map import PrefixMap
from ridgeline.fleet.core.replica import Load, Replica

Placed = tuple[str, str | None]
"""A request, and the replica that it goes to; None refuses it."""


SHUNNED_SECONDS = 5.0
"""For which the others leave a replica alone after a fault."""


class Front(Protocol):
    """Decides where requests go. `at_once` says whether replicas refuse what would wait at them."""

    at_once: bool

    def joined(self, replica: Replica, now: float) -> list[Placed]:
        """A replica is there."""
        ...

    def left(self, replica_id: str, now: float) -> list[Placed]:
        """It is gone."""
        ...

    def told(self, replica_id: str, load: Load, now: float) -> list[Placed]:
        """It told how it is."""
        ...

    def reported(
        self, replica_id: str, cached: Sequence[bytes], evicted: Sequence[bytes], as_of: float, now: float
    ) -> None:
        """It told what it has cached and evicted since it was asked before; asked at `as_of`."""
        ...

    def arrive(self, arrival: Arrival, now: float) -> list[Placed]:
        """A request comes."""
        ...

    def began(self, request_id: str, now: float) -> None:
        """Its first token came."""
        ...

    def ended(
        self,
        request_id: str,
        now: float,
        prompt_tokens: int,
        cached_tokens: int,
        full_keys: Sequence[bytes],
        answer_tokens: int,
    ) -> list[Placed]:
        """It is answered."""
        ...

    def full(self, request_id: str, now: float) -> list[Placed]:
        """The replica had no place, if it was asked to begin at once."""
        ...

    def failed(self, request_id: str, now: float) -> list[Placed]:
        """The replica broke."""
        ...

    def tick(self, now: float) -> list[Placed]:
        """Time has passed."""
        ...


class Ours:
    """The front door as it is in production.

    Args:
        door: the core.
        hears_reports: replicas tell it what they have cached and evicted, as ours do.
    """

    at_once = True

    def __init__(self, door: Door, hears_reports: bool = True) -> None:
        self.door = door
        self._hears = hears_reports

    def joined(self, replica: Replica, now: float) -> list[Placed]:
        """See `Front`."""
        return _placed(self.door.joined(replica, now))

    def left(self, replica_id: str, now: float) -> list[Placed]:
        """See `Front`."""
        return _placed(self.door.left(replica_id, now))

    def told(self, replica_id: str, load: Load, now: float) -> list[Placed]:
        """See `Front`."""
        return _placed(self.door.told(replica_id, load, now))

    def reported(
        self, replica_id: str, cached: Sequence[bytes], evicted: Sequence[bytes], as_of: float, now: float
    ) -> None:
        """See `Front`."""
        if self._hears:
            self.door.reported(replica_id, cached, evicted, False, as_of, now)

    def arrive(self, arrival: Arrival, now: float) -> list[Placed]:
        """See `Front`."""
        return _placed(self.door.arrive(arrival, now))

    def began(self, request_id: str, now: float) -> None:
        """See `Front`."""
        self.door.began(request_id, now)

    def ended(
        self,
        request_id: str,
        now: float,
        prompt_tokens: int,
        cached_tokens: int,
        full_keys: Sequence[bytes],
        answer_tokens: int,
    ) -> list[Placed]:
        """See `Front`."""
        decisions = self.door.ended(
            request_id,
            now,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            full_keys=list(full_keys),
            answer_tokens=answer_tokens,
        )
        return _placed(decisions)

    def full(self, request_id: str, now: float) -> list[Placed]:
        """See `Front`."""
        return _placed(self.door.refused_full(request_id, now))

    def failed(self, request_id: str, now: float) -> list[Placed]:
        """See `Front`."""
        return _placed(self.door.failed(request_id, now))

    def tick(self, now: float) -> list[Placed]:
        """See `Front`."""
        return _placed(self.door.tick(now))


def _placed(decisions: Iterable[Decision]) -> list[Placed]:
    return [(each.request, each.replica if isinstance(each, Send) else None) for each in decisions]


class Simple:
    """Others: each request is sent at once, and waits where it was sent.

    Subclasses say in `choose` which of the replicas that are there a request goes to.
    """

    at_once = False

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.there: list[str] = []
        self.load: dict[str, int] = {}
        """Open requests by replica."""
        self._at: dict[str, tuple[Arrival, str]] = {}
        self._shunned: dict[str, float] = {}

    def choose(self, arrival: Arrival) -> str:
        """Of `there`, which is not empty."""
        raise NotImplementedError

    def learned(self, replica_id: str, keys: Sequence[bytes]) -> None:
        """A replica has computed what these stand for, or soon will have."""

    def joined(self, replica: Replica, now: float) -> list[Placed]:
        """See `Front`."""
        if replica.id not in self.load:
            self.there.append(replica.id)
            self.load[replica.id] = 0
        return []

    def left(self, replica_id: str, now: float) -> list[Placed]:
        """See `Front`."""
        if replica_id in self.load:
            self.there.remove(replica_id)
            del self.load[replica_id]
        return []

    def told(self, replica_id: str, load: Load, now: float) -> list[Placed]:
        """See `Front`; these count what they send alone."""
        return []

    def reported(
        self, replica_id: str, cached: Sequence[bytes], evicted: Sequence[bytes], as_of: float, now: float
    ) -> None:
        """See `Front`; these guess."""

    def arrive(self, arrival: Arrival, now: float) -> list[Placed]:
        """See `Front`."""
        return self._place(arrival, now)

    def began(self, request_id: str, now: float) -> None:
        """See `Front`."""

    def ended(
        self,
        request_id: str,
        now: float,
        prompt_tokens: int,
        cached_tokens: int,
        full_keys: Sequence[bytes],
        answer_tokens: int,
    ) -> list[Placed]:
        """See `Front`."""
        self.learned(self._release(request_id)[1], full_keys)
        return []

    def full(self, request_id: str, now: float) -> list[Placed]:
        """See `Front`; replicas behind these refuse nothing."""
        raise AssertionError("nothing is refused by replicas that were not asked to begin at once")

    def failed(self, request_id: str, now: float) -> list[Placed]:
        """See `Front`; another one is tried, as often as it takes, and this one let alone for a while."""
        arrival, replica = self._release(request_id)
        self._shunned[replica] = now + SHUNNED_SECONDS
        return self._place(arrival, now)

    def tick(self, now: float) -> list[Placed]:
        """See `Front`."""
        return []

    def _place(self, arrival: Arrival, now: float) -> list[Placed]:
        if not self.there:
            return [(arrival.id, None)]
        there = self.there
        if self._shunned:
            self._shunned = {each: until for each, until in self._shunned.items() if until > now}
            self.there = [each for each in there if each not in self._shunned] or there
        replica = self.choose(arrival)
        self.there = there
        self._at[arrival.id] = (arrival, replica)
        self.load[replica] += 1
        self.learned(replica, arrival.keys)
        return [(arrival.id, replica)]

    def _release(self, request_id: str) -> tuple[Arrival, str]:
        arrival, replica = self._at.pop(request_id)
        if self.load.get(replica):
            self.load[replica] -= 1
        return arrival, replica


class RoundRobin(Simple):
    """One after the other."""

    _next = 0

    def choose(self, arrival: Arrival) -> str:
        """See `Simple`."""
        self._next += 1
        return self.there[self._next % len(self.there)]


class LeastRequests(Simple):
    """The one with the fewest open requests; any, where several have."""

    def choose(self, arrival: Arrival) -> str:
        """See `Simple`."""
        least = min(self.load[each] for each in self.there)
        return self.rng.choice([each for each in self.there if self.load[each] == least])


class LeastTokens(Simple):
    """The one with the fewest tokens of prompts that have no first token yet, then the fewest requests."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._pending: dict[str, int] = {}
        self._tokens: dict[str, tuple[str, int]] = {}

    def choose(self, arrival: Arrival) -> str:
        """See `Simple`."""
        at = min(
            self.there, key=lambda each: (self._pending.get(each, 0), self.load[each], self.rng.random())
        )
        self._tokens[arrival.id] = (at, arrival.text_bytes)
        self._pending[at] = self._pending.get(at, 0) + arrival.text_bytes
        return at

    def began(self, request_id: str, now: float) -> None:
        """See `Front`."""
        self._computed(request_id)

    def failed(self, request_id: str, now: float) -> list[Placed]:
        """See `Front`."""
        self._computed(request_id)
        return super().failed(request_id, now)

    def _computed(self, request_id: str) -> None:
        at, tokens = self._tokens.pop(request_id, ("", 0))
        if at:
            self._pending[at] -= tokens


class BoundedHashing(Simple):
    """Consistent hashing of a prompt's beginning with bounded loads (arXiv 1608.01350), as KubeAI's.

    Args:
        rng: of the policy.
        pieces: of the prompt that are hashed. As many as the system prompt has and one more tell
            conversations apart, as KubeAI does by the first message of the user.
    """

    BOUND = 1.25
    POINTS = 64

    def __init__(self, rng: random.Random, pieces: int = 1) -> None:
        super().__init__(rng)
        self._pieces = pieces
        self._ring: list[tuple[int, str]] = []

    def joined(self, replica: Replica, now: float) -> list[Placed]:
        """See `Front`."""
        super().joined(replica, now)
        self._build()
        return []

    def left(self, replica_id: str, now: float) -> list[Placed]:
        """See `Front`."""
        super().left(replica_id, now)
        self._build()
        return []

    def choose(self, arrival: Arrival) -> str:
        """See `Simple`."""
        key = _hash(arrival.keys[: self._pieces][-1] if arrival.keys else arrival.id.encode())
        most = self.BOUND * (sum(self.load.values()) + 1) / len(self.there)
        start, there = bisect.bisect(self._ring, (key, "")), set(self.there)
        for offset in range(len(self._ring)):
            _, replica = self._ring[(start + offset) % len(self._ring)]
            if replica in there and self.load[replica] + 1 <= max(1.0, most):
                return replica
        return min(self.there, key=self.load.__getitem__)

    def _build(self) -> None:
        self._ring = sorted(
            (_hash(f"{each}#{point}".encode()), each) for each in self.there for point in range(self.POINTS)
        )


class CacheAware(Simple):
    """As sglang-router's: where most of the prompt was sent before, if that is enough of it; else where
    least is cached; and where there is least to do, while that differs too much."""

    MATCH = 0.3
    DIFFERENCE, RATIO = 64, 1.5

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._map = PrefixMap()
        self._size: dict[str, int] = {}

    def learned(self, replica_id: str, keys: Sequence[bytes]) -> None:
        """See `Simple`."""
        if replica_id not in self.load:
            return
        new = len(keys) - self._map.match(keys).get(replica_id, 0)
        self._size[replica_id] = self._size.get(replica_id, 0) + new
        self._map.learn(replica_id, keys)

    def left(self, replica_id: str, now: float) -> list[Placed]:
        """See `Front`."""
        self._map.forget(replica_id)
        self._size.pop(replica_id, None)
        return super().left(replica_id, now)

    def choose(self, arrival: Arrival) -> str:
        """See `Simple`."""
        loads = [self.load[each] for each in self.there]
        if max(loads) - min(loads) > self.DIFFERENCE and max(loads) > self.RATIO * min(loads):
            return min(self.there, key=self.load.__getitem__)
        matched = self._map.match(arrival.keys)
        best = max(self.there, key=lambda each: matched.get(each, 0))
        if matched.get(best, 0) > self.MATCH * len(arrival.keys):
            return best
        return min(self.there, key=lambda each: self._size.get(each, 0))


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
