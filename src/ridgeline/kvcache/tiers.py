"""Tiers below the device's memory: which keys each holds, and whether moving blocks pays.

    device  --save, when a sequence lets go of its blocks-->  host memory, disk
    device  <--load, when a prompt begins with keys that only a tier has-------

A block in a tier is a copy: to evict it from the device costs nothing then. Nothing is saved or
loaded unless reading it back is expected to take less time than computing it again.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from ridgeline.kvcache.eviction import EvictionPolicy, IdleChain, Lru

KEPT = 0.95
"""Of the weight of earlier loads, at each further one: some twenty count."""

TRIED_AGAIN = 32
"""After so many copies that were not worth it one is made all the same: a disk may have been slow
only for a while, and what is never measured never becomes faster."""

Recompute = Callable[[int, int], float]
"""Seconds that computing `count` tokens from position `start` on adds to steps that run anyway."""


class LoadTime:
    """What reading blocks back takes, learned from the loads there were.

    Args:
        seconds_per_block: to begin with.
    """

    def __init__(self, seconds_per_block: float) -> None:
        # As if one load of a usual length had been seen.
        self._blocks, self._seconds = 16.0, 16 * seconds_per_block

    def seconds(self, blocks: int) -> float:
        """Expected of a load."""
        return blocks * self._seconds / self._blocks

    def observe(self, blocks: int, seconds: float) -> None:
        """Reading so many blocks took so long. Sums are kept: a short load that had to wait says little."""
        self._blocks += blocks - (1 - KEPT) * self._blocks
        self._seconds += seconds - (1 - KEPT) * self._seconds


@dataclass(frozen=True, slots=True)
class _Stored:
    """A block of a tier: the number that its policy knows it by, and its index in its chain."""

    number: int
    position: int


class TierLedger:
    """What one tier holds, in blocks; copies nothing. A key is writing, stored, or not there.

    Args:
        name: "host" or "disk".
        blocks: that it holds at most.
        load_time: of its blocks.
        policy: which block goes first; it knows blocks of the tier by numbers.
    """

    def __init__(
        self, name: str, blocks: int, load_time: LoadTime, policy: EvictionPolicy | None = None
    ) -> None:
        self.name, self.blocks = name, blocks
        self.load_time = load_time
        self._policy = policy if policy is not None else Lru()
        self._stored: dict[bytes, _Stored] = {}
        self._key_of: dict[int, bytes] = {}
        self._writing: dict[bytes, int] = {}
        self._number = 0
        self._on_lost: Callable[[bytes], None] | None = None

    def on_lost(self, call: Callable[[bytes], None]) -> None:
        """Call with each key that is not here any more, or will not come after all."""
        self._on_lost = call

    def __contains__(self, key: Hashable) -> bool:
        return key in self._stored

    @property
    def stored(self) -> int:
        """Blocks that can be loaded."""
        return len(self._stored)

    @property
    def used(self) -> int:
        """Blocks stored or being written."""
        return len(self._stored) + len(self._writing)

    def has(self, key: bytes) -> bool:
        """Whether it is stored, or will be."""
        return key in self._stored or key in self._writing

    def begin(self, keys: Sequence[bytes], first_position: int, now: float) -> list[bytes]:
        """Reserve room for a chain's keys, none of them there; returns what must go for it.

        The chain may be longer than the tier: then its own end is not taken. `has` tells what was.
        """
        dropped = []
        for offset, key in enumerate(keys[: self.blocks]):
            if self.used >= self.blocks:
                if not len(self._policy):
                    break
                dropped.append(self._evict(now))
            self._writing[key] = first_position + offset
        return dropped

    def stored_now(self, keys: Iterable[bytes], now: float) -> None:
        """These were written, the last of a chain first; they can be loaded from now on."""
        for key in keys:
            position = self._writing.pop(key, None)
            if position is not None:
                self._add(key, position, now)

    def not_stored(self, keys: Iterable[bytes]) -> None:
        """These were not written after all, or were found to be lost."""
        for key in keys:
            self._writing.pop(key, None)
            stored = self._stored.pop(key, None)
            if stored is not None:
                self._policy.remove(stored.number)
                del self._key_of[stored.number]
            if self._on_lost is not None:
                self._on_lost(key)

    def found(self, keys: Iterable[bytes], now: float) -> list[bytes]:
        """A tier that outlived its server has these, oldest first; returns what is too much."""
        surplus: dict[bytes, None] = {}
        for key in keys:
            if self.has(key) or key in surplus:
                continue
            if self.used >= self.blocks:
                if not len(self._policy):
                    surplus[key] = None
                    continue
                surplus[self._evict(now)] = None
            # How deep in its chain it is was not kept: it is treated like a chain's beginning.
            self._add(key, 0, now)
        return list(surplus)

    def touch(self, keys: Sequence[bytes], now: float) -> None:
        """A chain was used once more; what is stored of it is as new."""
        for key in reversed(keys):
            stored = self._stored.get(key)
            if stored is not None:
                self._policy.remove(stored.number)
                self._file(key, stored, now)

    def _add(self, key: bytes, position: int, now: float) -> None:
        stored = _Stored(self._number, position)
        self._number += 1
        self._stored[key] = stored
        self._key_of[stored.number] = key
        self._file(key, stored, now)

    def _file(self, key: bytes, stored: _Stored, now: float) -> None:
        self._policy.add(IdleChain((stored.number,), (key,), stored.position), now)

    def _evict(self, now: float) -> bytes:
        key = self._key_of.pop(self._policy.victim(now))
        del self._stored[key]
        if self._on_lost is not None:
            self._on_lost(key)
        return key

    def check(self) -> None:
        """Prove the ledger; AssertionError if it is wrong."""
        assert self.used <= self.blocks, f"{self.name} holds more than it has room for"
        assert len(self._policy) == len(self._stored) == len(self._key_of), "the policy and the keys differ"
        assert not self._stored.keys() & self._writing.keys(), "a key is stored and being written"
        for key, stored in self._stored.items():
            assert self._key_of[stored.number] == key, "a block has another's key"


@dataclass(frozen=True, slots=True)
class Found:
    """Keys of a chain that follow one another in a tier, and what loading them is expected to take."""

    tier: TierLedger
    keys: tuple[bytes, ...]
    seconds: float


class Tiers:
    """All tiers of an engine, fastest first.

    Args:
        ledgers: of each tier.
        recompute: what computing again would take.
        block_size: tokens in a block.
    """

    def __init__(self, ledgers: Sequence[TierLedger], recompute: Recompute, block_size: int) -> None:
        self.ledgers = tuple(ledgers)
        self._recompute = recompute
        self._size = block_size
        self._declined = 0
        self.slower: tuple[Found, float] | None = None
        """What the last `find` did not give since computing it takes less: and how long that takes."""

    def find(self, keys: Sequence[bytes], first: int, end: int) -> Found | None:
        """The run of blocks from `first` on that is worth loading; None to compute them.

        Args:
            keys: of a chain.
            first: index of the first block that the device lacks.
            end: blocks from here on are not wanted.
        """
        self.slower = None
        ledger = next((ledger for ledger in self.ledgers if first < end and keys[first] in ledger), None)
        if ledger is None:
            return None
        stop = first
        while stop < end and keys[stop] in ledger:
            stop += 1
        count = stop - first
        seconds = ledger.load_time.seconds(count)
        found = Found(ledger, tuple(keys[first:stop]), seconds)
        again = self._recompute(first * self._size, count * self._size)
        if seconds >= again and not self._is_tried_again():
            self.slower = (found, again)
            return None
        return found

    def wanting(self, keys: Sequence[bytes]) -> list[tuple[TierLedger, range]]:
        """Which blocks of a chain are worth saving, and where: runs that a tier does not have."""
        wanted = []
        for ledger in self.ledgers:
            for run in _runs([i for i, key in enumerate(keys) if not ledger.has(key)]):
                again = self._recompute(run.start * self._size, len(run) * self._size)
                if ledger.load_time.seconds(len(run)) < again or self._is_tried_again():
                    wanted.append((ledger, run))
        return wanted

    def reload_seconds(self, key: Hashable) -> float | None:
        """What reading a block back is expected to take; None where no tier has it."""
        for ledger in self.ledgers:
            if key in ledger:
                return ledger.load_time.seconds(1)
        return None

    def seconds_to_return(self, keys: Sequence[bytes], computed: int) -> float:
        """What a sequence that let go of all its blocks would need to have them again.

        Args:
            keys: of its full blocks.
            computed: tokens whose KV it has.
        """
        full = len(keys) * self._size
        again = self._recompute(0, computed) if computed else 0.0
        rest = self._recompute(full, computed - full) if computed > full else 0.0
        loads = [ledger.load_time.seconds(len(keys)) + rest for ledger in self.ledgers if ledger.blocks]
        return min([again, *loads])

    def _is_tried_again(self) -> bool:
        """Whether a copy that is not worth it is made to see whether that still holds."""
        self._declined += 1
        return self._declined % TRIED_AGAIN == 0

    def check(self) -> None:
        """Prove all ledgers."""
        for ledger in self.ledgers:
            ledger.check()


def _runs(indices: Sequence[int]) -> list[range]:
    """Ascending numbers as ranges without gaps."""
    runs: list[range] = []
    for i in indices:
        if runs and runs[-1].stop == i:
            runs[-1] = range(runs[-1].start, i + 1)
        else:
            runs.append(range(i, i + 1))
    return runs
