"""What other ways of keeping KV would have saved of the same prompts, beside what was saved.

Ghosts are caches of keys alone; they are asked whatever the engine is asked. The best that was
possible is computed after the fact, over the prompts of the last hour, when somebody looks.
"""

import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ridgeline.kvcache import Ghost, Lru, Price, belady
from ridgeline.telemetry.records import PromptRecord, Saved

WINDOW_SECONDS = 3600.0
MOST_KEYS = 200_000
"""Of the prompts kept for the best that was possible: some 10 MB, and a second to compute."""

STALE_SECONDS = 30.0

_LRU, _NO_TIERS, _LIVE = "lru", "no tiers", "live"


@dataclass(frozen=True, slots=True)
class _Asked:
    seconds: float
    keys: "array[int]"
    saved: dict[str, float]
    block_seconds: tuple[float, float]


class Shadows:
    """Told of every prompt that the engine admits. Used from any thread.

    Args:
        blocks: of the device.
        block_size: tokens in a block.
        tier_blocks: of the tiers below it.
        policy: that the device's cache has.
        begin: a thread for what takes long; tests do without.
    """

    def __init__(
        self,
        blocks: int,
        block_size: int,
        *,
        tier_blocks: int = 0,
        policy: str = "price",
        begin: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        self._block_seconds = (0.0, 0.0)
        self._room = blocks + tier_blocks
        self._ghosts: dict[str, Ghost] = {}
        if policy != "lru" or tier_blocks:
            self._ghosts[_LRU] = Ghost(blocks, Lru())
        if policy == "price" and tier_blocks:
            self._ghosts[_NO_TIERS] = Ghost(blocks, Price(self._recompute, block_size))
        self._lock = threading.Lock()
        self._asked: deque[_Asked] = deque()
        self._keys = 0
        self._totals = dict.fromkeys((_LIVE, *self._ghosts), 0.0)
        self._best = 0.0
        self._best_seconds = float("-inf")
        self._computing = False
        self._begin = begin or _in_a_thread

    def note(self, record: PromptRecord) -> None:
        """A prompt was admitted."""
        with self._lock:
            self._block_seconds = (record.block_seconds, record.deeper_seconds)
            keys = array("Q")
            keys.frombytes(record.keys)
            saved = {_LIVE: self._saved(record.hit_blocks) - record.load_seconds}
            for name, ghost in self._ghosts.items():
                saved[name] = self._saved(ghost.request(keys, record.seconds))
            for name, seconds in saved.items():
                # A load that took longer than computing would have saves less than nothing.
                self._totals[name] += max(0.0, seconds)
            self._asked.append(_Asked(record.seconds, keys, saved, self._block_seconds))
            self._keys += len(keys)
            while self._keys > MOST_KEYS or self._asked[0].seconds < record.seconds - WINDOW_SECONDS:
                self._keys -= len(self._asked.popleft().keys)

    def totals(self) -> dict[str, float]:
        """Seconds of computing saved since the start: `live`, and by each ghost."""
        with self._lock:
            return dict(self._totals)

    def saved(self, now: float) -> Saved | None:
        """The last hour, as far as it is remembered; None where nothing was asked."""
        with self._lock:
            recent = [each for each in self._asked if each.seconds >= now - WINDOW_SECONDS]
            if not recent:
                return None
            sums = {name: sum(each.saved[name] for each in recent) for name in self._totals}
            stale = now - self._best_seconds > STALE_SECONDS and not self._computing
            self._computing = self._computing or stale
            best = self._best if self._best_seconds > float("-inf") else None
        if stale:
            self._begin(lambda: self._find_best(recent, now))
            with self._lock:
                best = self._best if not self._computing else best
        return Saved(now - recent[0].seconds, sums.pop(_LIVE), sums, best)

    def _find_best(self, recent: list[_Asked], now: float) -> None:
        found = belady([each.keys for each in recent], self._room)
        best = sum(_sum(each.block_seconds, hits) for each, hits in zip(recent, found, strict=True))
        with self._lock:
            self._best, self._best_seconds, self._computing = best, now, False

    def _recompute(self, position: int) -> float:
        first, deeper = self._block_seconds
        return first + deeper * position

    def _saved(self, blocks: int) -> float:
        return _sum(self._block_seconds, blocks)


def _sum(block_seconds: tuple[float, float], blocks: int) -> float:
    first, deeper = block_seconds
    return blocks * first + deeper * blocks * (blocks - 1) / 2


def _in_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, name="ridgeline-shadows", daemon=True).start()


def short_keys(keys: Iterable[bytes]) -> bytes:
    """The first eight bytes of each key: enough to tell them apart, and half as much to send."""
    return b"".join(key[:8] for key in keys)
