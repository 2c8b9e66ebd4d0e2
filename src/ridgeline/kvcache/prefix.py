"""Prefix index: from block keys to the blocks that hold them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Match:
    """What the index knows of a prompt, in tokens; the four kinds add up to the prompt.

        | hit: blocks found | evicted: was here once | cold: never seen | short: no full block |

    `short` also counts a last full block, for at least one token must be computed to have logits.
    """

    blocks: tuple[int, ...]
    hit: int
    evicted: int
    cold: int
    short: int


class Eviction(NamedTuple):
    """Why a block is not there any more; blocks that went together may share one.

    Attributes:
        by: the sequence that needed the room.
        tenant: whose that is.
        seconds: when.
        order: how many blocks had been evicted before.
        price: what the policy thought it worth; None where it knows no prices.
    """

    by: str
    tenant: str
    seconds: float
    order: int
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A published block: its key, the tokens in it, its index in the chain, the key before its own."""

    key: bytes
    tokens: tuple[int, ...]
    position: int
    parent: bytes | None = None


class PrefixIndex:
    """Keys of blocks whose content is complete. Remembers a bounded number of evicted keys."""

    def __init__(self, block_size: int, remembered: int) -> None:
        self._block_size = block_size
        self._block_of: dict[bytes, int] = {}
        self._entry_of: dict[int, Entry] = {}
        self._evicted: OrderedDict[bytes, Eviction | None] = OrderedDict()
        self._remembered = remembered
        self.on_lost: Callable[[bytes], None] | None = None
        """Is called with each key whose block is given up."""

    def __len__(self) -> int:
        return len(self._block_of)

    def __contains__(self, block: int) -> bool:
        return block in self._entry_of

    def entry(self, block: int) -> Entry:
        """What a published block holds; KeyError for others."""
        return self._entry_of[block]

    def has(self, key: bytes) -> bool:
        """Whether some block holds this key."""
        return key in self._block_of

    def block_of(self, key: bytes) -> int | None:
        """The block that holds this key, if one does."""
        return self._block_of.get(key)

    def publish(self, block: int, entry: Entry) -> bool:
        """Make a block findable; False (nothing changes) when another block has the same key."""
        if entry.key in self._block_of:
            return False
        self._block_of[entry.key] = block
        self._entry_of[block] = entry
        self._evicted.pop(entry.key, None)
        return True

    def evictions(self, keys: Sequence[bytes]) -> list[tuple[Eviction | None, int]]:
        """See `KVCache.evictions`."""
        runs: list[tuple[Eviction | None, int]] = []
        last: Eviction | None = None
        count = 0
        for why in map(self._evicted.get, keys):
            if why is last:
                count += 1
                continue
            if count:
                runs.append((last, count))
            last, count = why, 1
        return [*runs, (last, count)] if count else runs

    def withdraw(self, block: int, eviction: Eviction | None = None) -> Entry:
        """The block's content is given up; its key is remembered as evicted."""
        entry = self._entry_of.pop(block)
        del self._block_of[entry.key]
        self._evicted[entry.key] = eviction
        if len(self._evicted) > self._remembered:
            self._evicted.popitem(last=False)
        if self.on_lost is not None:
            self.on_lost(entry.key)
        return entry

    def match(self, keys: Sequence[bytes], tokens: Sequence[int]) -> Match:
        """Longest published prefix of `tokens`, leaving at least one token to compute."""
        size = self._block_size
        full = max(0, (len(tokens) - 1) // size)
        blocks: list[int] = []
        for i in range(full):
            block = self._block_of.get(keys[i])
            # A hash is not proof: the tokens themselves are compared.
            if block is None or self._entry_of[block].tokens != tuple(tokens[i * size : (i + 1) * size]):
                break
            blocks.append(block)
        hits = len(blocks)
        gone = hits
        while gone < full and (keys[gone] in self._evicted or keys[gone] in self._block_of):
            gone += 1
        return Match(
            blocks=tuple(blocks),
            hit=hits * size,
            evicted=(gone - hits) * size,
            cold=(full - gone) * size,
            short=len(tokens) - full * size,
        )
