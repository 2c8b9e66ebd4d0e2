"""Which idle block goes first when room is needed: the interface, and LRU behind it."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class IdleChain:
    """Consecutive blocks of a chain that nobody holds but that may be wanted again.

    Attributes:
        blocks: their ids, in the chain's order.
        keys: of their contents, see `keys.py`.
        position: index of the first of them in its chain: recomputing needs everything before it.
        parent: key of the block before the first; None where the chain begins with it.
    """

    blocks: Sequence[int]
    keys: Sequence[Hashable]
    position: int = 0
    parent: Hashable = None


class EvictionPolicy(Protocol):
    """Orders idle blocks. O(log n) or better per call; called by one thread, by `KVCache` alone.

    Within a chain a block must never be chosen before the blocks after it: an entry whose
    predecessor is gone cannot be reached any more.
    """

    def wanted(self, keys: Sequence[Hashable], now: float) -> None:
        """A request came whose prompt has full blocks with these keys; before any is held for it."""
        ...

    def add(self, chain: IdleChain, now: float) -> None:
        """These blocks became idle."""
        ...

    def remove(self, block: int) -> None:
        """The block is held again, or given up."""
        ...

    def victim(self, now: float) -> int:
        """Remove and return the block worth least; raises LookupError when there is none."""
        ...

    def __len__(self) -> int: ...


@runtime_checkable
class Priced(Protocol):
    """What a policy may tell beside: what the block was worth that `victim` gave last.

    In seconds of computing that it was expected to save per second that it is kept.
    """

    last_price: float


class Lru:
    """Least recently used first. Tails are filed before their prefixes, and go before them."""

    def __init__(self) -> None:
        self._idle: OrderedDict[int, None] = OrderedDict()

    def wanted(self, keys: Sequence[Hashable], now: float) -> None:
        """Nothing is learned."""

    def add(self, chain: IdleChain, now: float) -> None:
        """Newest end of the queue."""
        del now
        for block in reversed(chain.blocks):
            self._idle[block] = None

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
