"""Which replica has been sent what, and says that it has what: what is believed to be cached where."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

MOST_KEYS = 1 << 20
"""Of all replicas together. Some 300 MB: the beginnings of a hundred thousand conversations of 2,500
characters."""

LEAST_KEYS = 64
"""That are kept of each replica, however little memory it tells of."""

_NOTHING: OrderedDict[bytes, float] = OrderedDict()


class PrefixMap:
    """From keys to the replicas that computed them.

    Replicas of ours tell what they evict. Others do not: of each of them no more is believed than its
    memory holds, and what was used longest ago is forgotten first, as there.
    """

    def __init__(self, most_keys: int = MOST_KEYS) -> None:
        self._most = most_keys
        self._holders: dict[bytes, set[str]] = {}
        self._held: dict[str, OrderedDict[bytes, float]] = {}
        """When each was used last, in seconds; in that order."""
        self._limits: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        """Pairs of a key and a replica."""
        return self._count

    def match(self, keys: Sequence[bytes]) -> dict[str, int]:
        """How many of these, from the first on, each replica is believed to have; 0 is left out."""
        found: dict[str, int] = {}
        alive: set[str] = set()
        for depth, key in enumerate(keys):
            holders = self._holders.get(key)
            if holders is None:
                break
            if depth == 0:
                alive = set(holders)
            elif not alive <= holders:
                found.update(dict.fromkeys(alive - holders, depth))
                alive &= holders
            if not alive:
                return found
        else:
            depth = len(keys)
        if alive:
            found.update(dict.fromkeys(alive, depth))
        return found

    def learn(self, replica: str, keys: Sequence[bytes], now: float = 0.0) -> list[bytes]:
        """The replica computes, or has, all of these, and uses them; returns those that are new."""
        held = self._held.setdefault(replica, OrderedDict())
        new = []
        for key in reversed(keys):  # so that a chain's beginning is forgotten last
            if key in held:
                held.move_to_end(key)
                held[key] = now
            else:
                self._put(replica, key, now)
                new.append(key)
        self._bound(replica)
        return new

    def add(self, replica: str, keys: Sequence[bytes], now: float) -> int:
        """The replica says that it has these: how many were not known. The others are used no more for it."""
        held = self._held.setdefault(replica, OrderedDict())
        new = [key for key in reversed(keys) if key not in held]
        for key in new:
            self._put(replica, key, now)
        self._bound(replica)
        return len(new)

    def held(self, replica: str) -> list[bytes]:
        """All that it is believed to have."""
        return list(self._held.get(replica, ()))

    def used_seconds(self, replica: str, key: bytes) -> float | None:
        """When it was used there last; None where it is not believed to be there."""
        return self._held.get(replica, _NOTHING).get(key)

    def deepest(self, replica: str, keys: Sequence[bytes]) -> bytes | None:
        """The last of the keys that it is believed to have, from the first on."""
        held, found = self._held.get(replica, _NOTHING), None
        for key in keys:
            if key not in held:
                break
            found = key
        return found

    def _put(self, replica: str, key: bytes, now: float) -> None:
        self._held[replica][key] = now
        self._count += 1
        self._holders.setdefault(key, set()).add(replica)

    def _bound(self, replica: str) -> None:
        self._shrink(replica)
        held = self._held[replica]
        while self._count > self._most:
            fair = self._most // len(self._held)
            most = replica if len(held) > fair else max(self._held, key=lambda each: len(self._held[each]))
            self._forget_oldest(most)

    def unlearn(self, replica: str, keys: Iterable[bytes]) -> int:
        """The replica has not, or not any more, what these stand for; returns how many were believed."""
        held, count = self._held.get(replica, _NOTHING), self._count
        for key in keys:
            if key in held:
                del held[key]
                self._count -= 1
                self._let_go(key, replica)
        return count - self._count

    def unlearn_older(self, replica: str, seconds: float) -> int:
        """What was used there before this time is gone; returns how much was believed."""
        held, count = self._held.get(replica, _NOTHING), self._count
        while held and next(iter(held.values())) < seconds:
            self._forget_oldest(replica)
        return count - self._count

    def unlimit(self, replica: str) -> None:
        """It tells what it evicts: nothing has to be guessed."""
        self._limits.pop(replica, None)

    def limit(self, replica: str, keys: int) -> None:
        """A replica's memory holds so many at most."""
        self._limits[replica] = max(LEAST_KEYS, keys)
        self._shrink(replica)

    def forget(self, replica: str) -> None:
        """The replica is gone, or began anew: its memory is empty."""
        self._limits.pop(replica, None)
        for key in self._held.pop(replica, ()):
            self._count -= 1
            self._let_go(key, replica)

    def check(self) -> None:
        """Prove that both directions agree; AssertionError if they do not."""
        pairs = {(key, replica) for replica, held in self._held.items() for key in held}
        assert pairs == {(key, replica) for key, holders in self._holders.items() for replica in holders}
        assert self._count == len(pairs) <= self._most
        assert all(self._holders.values()), "a key that nobody holds"

    def _shrink(self, replica: str) -> None:
        held, most = self._held.get(replica, ()), self._limits.get(replica, self._most)
        while len(held) > most:
            self._forget_oldest(replica)

    def _forget_oldest(self, replica: str) -> None:
        key, _ = self._held[replica].popitem(last=False)
        self._count -= 1
        self._let_go(key, replica)

    def _let_go(self, key: bytes, replica: str) -> None:
        holders = self._holders[key]
        holders.discard(replica)
        if not holders:
            del self._holders[key]
