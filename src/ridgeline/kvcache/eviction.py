"""Which idle block goes first when room is needed: the interface, and LRU behind it."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class IdleBlock:
    """A block that nobody holds but that may be wanted again.

    `position` is its index in its chain: recomputing it needs everything before it.
    """

    block: int
    position: int
    released_seconds: float


class EvictionPolicy(Protocol):
    """Orders idle blocks. O(log n) or better per call; called by one thread, by `KVCache` alone.

    Within a chain a block must never be chosen before the blocks after it: an entry whose
    predecessor is gone cannot be reached any more.
    """

    def add(self, idle: IdleBlock) -> None:
        """The block became idle. A chain's blocks are added tail first."""
        ...

    def remove(self, block: int) -> None:
        """The block is held again."""
        ...

    def victim(self, now: float) -> int:
        """Remove and return the block worth least; raises LookupError when there is none."""
        ...

    def __len__(self) -> int: ...


class Lru:
    """Least recently used first. Tail-first release makes suffixes older than their prefixes."""

    def __init__(self) -> None:
        self._idle: OrderedDict[int, IdleBlock] = OrderedDict()

    def add(self, idle: IdleBlock) -> None:
        """Newest end of the queue."""
        self._idle[idle.block] = idle

    def remove(self, block: int) -> None:
        """O(1)."""
        del self._idle[block]

    def victim(self, now: float) -> int:
        """Oldest end of the queue."""
        del now
        block, _ = self._idle.popitem(last=False)
        return block

    def __len__(self) -> int:
        return len(self._idle)
