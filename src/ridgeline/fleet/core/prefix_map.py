"""Which replica has been sent what: the front door's guess of what is cached where."""

from collections import OrderedDict
from collections.abc import Sequence

MOST_KEYS = 1 << 20
"""Of all replicas together. Some 300 MB: the beginnings of a hundred thousand conversations of 2,500
characters."""

LEAST_KEYS = 64
"""That are kept of each replica, however little memory it tells of."""


class PrefixMap:
    """From keys to the replicas that computed them.

    Replicas evict without asking. So of each no more is believed than its memory holds: what was used
    longest ago is forgotten first, as there.
    """

    def __init__(self, most_keys: int = MOST_KEYS) -> None:
        self._most = most_keys
        self._holders: dict[bytes, set[str]] = {}
        self._held: dict[str, OrderedDict[bytes, None]] = {}
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

    def learn(self, replica: str, keys: Sequence[bytes]) -> None:
        """The replica has computed, or was seen to have, all of these."""
        held = self._held.setdefault(replica, OrderedDict())
        for key in reversed(keys):  # so that a chain's beginning is forgotten last
            if key in held:
                held.move_to_end(key)
                continue
            held[key] = None
            self._count += 1
            self._holders.setdefault(key, set()).add(replica)
        self._shrink(replica)
        while self._count > self._most:
            fair = self._most // len(self._held)
            most = replica if len(held) > fair else max(self._held, key=lambda each: len(self._held[each]))
            self._forget_oldest(most)

    def unlearn(self, replica: str, keys: Sequence[bytes]) -> None:
        """The replica has not, or not any more, what these stand for."""
        held = self._held.get(replica)
        if held is None:
            return
        for key in keys:
            if key in held:
                del held[key]
                self._count -= 1
                self._let_go(key, replica)

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
