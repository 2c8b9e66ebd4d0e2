"""Ways to place requests on replicas: our front door, and what others do, behind one protocol."""

import bisect
import random
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Protocol

from ridgeline.fleet.core.door import Arrival, Decision, Door, Send
from ridgeline.fleet.core.prefix_map import PrefixMap
from ridgeline.fleet.core.replica import Load, Replica

Placed = tuple[str, str | None]
"""A request, and the replica that it goes to; None refuses it."""


class Front(Protocol):
    """Decides where requests go. `waits` says whether replicas refuse what would wait at them."""

    waits: bool

    def joined(self, replica: Replica, now: float) -> list[Placed]:
        """A replica is there."""
        ...

    def left(self, replica_id: str, now: float) -> list[Placed]:
        """It is gone."""
        ...

    def told(self, replica_id: str, load: Load, now: float) -> list[Placed]:
        """It told how it is."""
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
        """The replica had no place."""
        ...

    def failed(self, request_id: str, now: float) -> list[Placed]:
        """The replica broke."""
        ...

    def tick(self, now: float) -> list[Placed]:
        """Time has passed."""
        ...


class Ours:
    """The front door as it is in production."""

    waits = True

    def __init__(self, door: Door) -> None:
        self.door = door

    def joined(self, replica: Replica, now: float) -> list[Placed]:
        """See `Front`."""
        return _placed(self.door.joined(replica, now))

    def left(self, replica_id: str, now: float) -> list[Placed]:
        """See `Front`."""
        return _placed(self.door.left(replica_id, now))

    def told(self, replica_id: str, load: Load, now: float) -> list[Placed]:
        """See `Front`."""
        return _placed(self.door.told(replica_id, load, now))

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

    waits = False

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.there: list[str] = []
        self.load: dict[str, int] = {}
        self._at: dict[str, tuple[Arrival, str]] = {}

    def choose(self, arrival: Arrival) -> str:
        """Of `there`, which is not empty."""
        raise NotImplementedError

    def learned(self, replica_id: str, keys: Sequence[bytes]) -> None:
        """A replica has computed what these stand for."""

    def joined(self, replica: Replica, now: float) -> list[Placed]:
        """See `Front`."""
        self.there.append(replica.id)
        self.load[replica.id] = 0
        return []

    def left(self, replica_id: str, now: float) -> list[Placed]:
        """See `Front`."""
        self.there.remove(replica_id)
        del self.load[replica_id]
        return []

    def told(self, replica_id: str, load: Load, now: float) -> list[Placed]:
        """See `Front`; these count what they send alone."""
        return []

    def arrive(self, arrival: Arrival, now: float) -> list[Placed]:
        """See `Front`."""
        if not self.there:
            return [(arrival.id, None)]
        replica = self.choose(arrival)
        self._at[arrival.id] = (arrival, replica)
        self.load[replica] += 1
        self.learned(replica, arrival.keys)
        return [(arrival.id, replica)]

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
        _, replica = self._at.pop(request_id)
        if replica in self.load:
            self.load[replica] -= 1
        self.learned(replica, full_keys)
        return []

    def full(self, request_id: str, now: float) -> list[Placed]:
        """See `Front`; replicas behind these refuse nothing."""
        raise AssertionError("nothing is refused")

    def failed(self, request_id: str, now: float) -> list[Placed]:
        """See `Front`."""
        arrival, replica = self._at.pop(request_id)
        if replica in self.load:
            self.load[replica] -= 1
        return self.arrive(arrival, now)

    def tick(self, now: float) -> list[Placed]:
        """See `Front`."""
        return []


class RoundRobin(Simple):
    """One after the other."""

    _next = 0

    def choose(self, arrival: Arrival) -> str:
        """See `Simple`."""
        self._next += 1
        return self.there[self._next % len(self.there)]


class LeastRequests(Simple):
    """The one with the fewest open requests."""

    def choose(self, arrival: Arrival) -> str:
        """See `Simple`."""
        least = min(self.load.values())
        return self.rng.choice([each for each in self.there if self.load[each] == least])


class BoundedHashing(Simple):
    """Consistent hashing of the conversation's beginning with bounded loads (arXiv 1608.01350)."""

    BOUND = 1.25
    POINTS = 64
    PIECES = 12
    """Of the prompt that are hashed: the system prompt, and the first question."""

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

    def _build(self) -> None:
        self._ring = sorted(
            (_hash(f"{each}#{point}".encode()), each) for each in self.there for point in range(self.POINTS)
        )

    def choose(self, arrival: Arrival) -> str:
        """See `Simple`."""
        key = _hash(arrival.keys[: self.PIECES][-1] if arrival.keys else arrival.id.encode())
        most = self.BOUND * (sum(self.load.values()) + 1) / len(self.there)
        start = bisect.bisect(self._ring, (key, ""))
        for offset in range(len(self._ring)):
            _, replica = self._ring[(start + offset) % len(self._ring)]
            if self.load[replica] + 1 <= max(1.0, most):
                return replica
        return self.there[0]


class CacheAware(Simple):
    """As sglang-router: where most of the prompt was sent before, unless loads differ too much."""

    MATCH = 0.3
    DIFFERENCE, RATIO = 64, 1.5

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._map = PrefixMap()
        self._keys: dict[str, int] = {}

    def learned(self, replica_id: str, keys: Sequence[bytes]) -> None:
        """See `Simple`."""
        if replica_id in self.load:
            self._map.learn(replica_id, keys)
            self._keys[replica_id] = self._keys.get(replica_id, 0) + len(keys)

    def left(self, replica_id: str, now: float) -> list[Placed]:
        """See `Front`."""
        self._map.forget(replica_id)
        self._keys.pop(replica_id, None)
        return super().left(replica_id, now)

    def choose(self, arrival: Arrival) -> str:
        """See `Simple`."""
        most, least = max(self.load.values()), min(self.load.values())
        if most - least > self.DIFFERENCE and most > self.RATIO * least:
            return min(self.there, key=self.load.__getitem__)
        matched = self._map.match(arrival.keys)
        best = max(matched, key=matched.__getitem__) if matched else ""
        if matched and matched[best] > self.MATCH * len(arrival.keys):
            return best
        return min(self.there, key=lambda each: self._keys.get(each, 0))


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


OTHERS: dict[str, type[Simple]] = {
    "round robin": RoundRobin,
    "least requests": LeastRequests,
    "bounded hashing": BoundedHashing,
    "cache-aware tree": CacheAware,
}
