"""What is cached, in front doors' keys, as a log that each of them reads at its own pace.

number   | ... forgotten ... | 17 cached a | 18 cached b | 19 evicted a | next: 20
since 18 -> cached b, evicted a;   since 3, or another epoch -> all that is there, as a whole
"""

from collections import deque
from collections.abc import Iterable

from ridgeline.protocol.cached import CacheReport

MOST_ENTRIES = 1 << 16
"""Of a log: some 10 MB. Who lags by more is told the whole."""


class CacheLog:
    """Of one model and one owner of front doors' requests.

    Args:
        epoch: differs from that of every other start of a server.
        most: entries that are remembered.
    """

    def __init__(self, epoch: str, most: int = MOST_ENTRIES) -> None:
        self.epoch = epoch
        self.next = 0
        """Number of the next entry."""
        self._there: dict[bytes, None] = {}
        self._entries: deque[tuple[bytes, bool]] = deque(maxlen=most)

    def add(self, cached: Iterable[bytes], evicted: Iterable[bytes]) -> None:
        """These are there now, and these are not any more."""
        for key in cached:
            self._there[key] = None
            self._enter(key, True)
        for key in evicted:
            self._there.pop(key, None)
            self._enter(key, False)

    def _enter(self, key: bytes, is_cached: bool) -> None:
        self._entries.append((key, is_cached))
        self.next += 1

    def since(self, epoch: str, number: int) -> CacheReport:
        """What has changed from this number on, each key once; the whole where that is not known."""
        first = self.next - len(self._entries)
        if epoch != self.epoch or not first <= number <= self.next:
            return CacheReport(self.epoch, self.next, True, tuple(self._there), ())
        last: dict[bytes, bool] = {}
        for place in range(number - first, len(self._entries)):
            key, is_cached = self._entries[place]
            last.pop(key, None)  # a key stands where it changed last
            last[key] = is_cached
        cached = tuple(key for key, is_cached in last.items() if is_cached)
        evicted = tuple(key for key, is_cached in last.items() if not is_cached)
        return CacheReport(self.epoch, self.next, False, cached, evicted)
