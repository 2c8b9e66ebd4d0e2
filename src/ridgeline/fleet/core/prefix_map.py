"""Which replica has been sent what: the front door's guess of what is cached where."""

from collections import OrderedDict
from collections.abc import Sequence

MOST_KEYS = 1 << 20
"""Some 250 MB: the beginnings of a hundred thousand conversations of 2,500 characters."""


class PrefixMap:
    """From keys to the replicas that computed them. Bounded: what was used longest ago is forgotten.

    Replicas evict without asking: what answers say was cached tells how good the guess is.
    """

    def __init__(self, most_keys: int = MOST_KEYS) -> None:
        self._most = most_keys
        self._holders: OrderedDict[bytes, set[str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def match(self, keys: Sequence[bytes]) -> dict[str, int]:
        """How many of these, from the first on, each replica is believed to have; 0 is left out."""
        found: dict[str, int] = {}
        alive: set[str] = set()
        for depth, key in enumerate(keys):
            holders = self._holders.get(key, set())
            if depth == 0:
                alive = set(holders)
            elif gone := alive - holders:
                found.update(dict.fromkeys(gone, depth))
                alive &= holders
            if not alive:
                return found
        found.update(dict.fromkeys(alive, len(keys)))
        return found

    def learn(self, replica: str, keys: Sequence[bytes]) -> None:
        """The replica has computed, or was seen to have, all of these."""
        for key in reversed(keys):  # so that a chain's beginning is forgotten last
            holders = self._holders.get(key)
            if holders is None:
                self._holders[key] = {replica}
            else:
                holders.add(replica)
                self._holders.move_to_end(key)
        while len(self._holders) > self._most:
            self._holders.popitem(last=False)

    def forget(self, replica: str) -> None:
        """The replica is gone, or began anew: its memory is empty. O(keys)."""
        empty = []
        for key, holders in self._holders.items():
            holders.discard(replica)
            if not holders:
                empty.append(key)
        for key in empty:
            del self._holders[key]
