"""What came in the last minute: how far counters rose, and quantiles of what was observed."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

RECENT_SECONDS = 60.0
_EVERY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Everything that is counted, at one moment.

    Attributes:
        seconds: the moment.
        counters: by name, labels in braces.
        buckets: counts per bucket of each histogram, not cumulative.
    """

    seconds: float
    counters: Mapping[str, float]
    buckets: Mapping[str, Sequence[int]]


class Recent:
    """Tallies of the last minute, taken before something is counted, and so few that none is felt.

        tallies:  |    |  |  |  |         |  |  |        (none while nothing happens)
                                ^ since(now)   now

    What was counted within two seconds before the first tally of the minute may be missing.
    """

    def __init__(self, now: float) -> None:
        self._born = now
        self._tallies: deque[Tally] = deque([Tally(now, {}, {})])

    def is_due(self, now: float) -> bool:
        """Whether a tally should be taken before the next thing is counted."""
        return now - self._tallies[-1].seconds >= _EVERY_SECONDS

    def add(self, tally: Tally) -> None:
        """Remember a tally, and forget those that are too old to be needed."""
        self._tallies.append(tally)
        while self._tallies[0].seconds < tally.seconds - RECENT_SECONDS:
            self._tallies.popleft()

    def until(self, tally: Tally, bounds: Mapping[str, Sequence[float]]) -> "Change":
        """What came in the minute before `tally`; `bounds` are the histograms' upper bounds."""
        start = tally.seconds - RECENT_SECONDS
        # Where nothing has been counted for a minute there is no tally in it, and no change.
        old = next((old for old in self._tallies if old.seconds >= start), tally)
        return Change(min(RECENT_SECONDS, tally.seconds - self._born), *_change(old, tally, bounds))


@dataclass(frozen=True, slots=True)
class Change:
    """What came in a span of time.

    Attributes:
        seconds: its length: a minute, or less after the start.
        counters: how far each rose.
        quantiles: `count`, `p50` and `p95` of each histogram that observed something.
    """

    seconds: float
    counters: dict[str, float]
    quantiles: dict[str, dict[str, float]]


def _change(
    old: Tally, new: Tally, bounds: Mapping[str, Sequence[float]]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    counters = {name: value - old.counters.get(name, 0.0) for name, value in new.counters.items()}
    quantiles: dict[str, dict[str, float]] = {}
    for name, now in new.buckets.items():
        counts = _minus(now, old.buckets.get(name, ()))
        if sum(counts):
            quantiles[name] = {
                "count": sum(counts),
                "p50": quantile(0.5, counts, bounds[name]),
                "p95": quantile(0.95, counts, bounds[name]),
            }
    return counters, quantiles


def quantile(share: float, counts: Sequence[int], bounds: Sequence[float]) -> float:
    """As Prometheus' `histogram_quantile`: evenly spread within a bucket, the last bound beyond all."""
    rank, below, low = share * sum(counts), 0, 0.0
    for count, bound in zip(counts, bounds, strict=False):
        if count and below + count >= rank:
            return low + (bound - low) * (rank - below) / count
        below, low = below + count, bound
    return bounds[-1]


def _minus(now: Sequence[int], before: Iterable[int]) -> list[int]:
    before = list(before) or [0] * len(now)
    return [new - old for new, old in zip(now, before, strict=True)]
