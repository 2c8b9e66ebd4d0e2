"""A histogram that takes many equal observations in one call."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts per bucket, as Prometheus has them: a bucket holds what is at most its upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count `value` so many times."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def counts(self) -> list[int]:
        """Per bucket, the last one for what is above every bound."""
        return list(self._counts)

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """Pairs of upper bound and count up to it, the last one `+Inf`, and the sum."""
        pairs: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            pairs.append((bound, total))
        return pairs, self._sum
