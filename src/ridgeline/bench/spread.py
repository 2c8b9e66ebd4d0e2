"""Percentiles, as every table and file of the benchmark gives them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Distribution of one measure in seconds; all None where nothing was measured."""

    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None


def percentile(ordered: Sequence[float], ratio: float) -> float:
    """Nearest-rank percentile of a sorted, non-empty sequence."""
    return ordered[max(0, math.ceil(ratio * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> Spread:
    """Mean and percentiles; of nothing, Nones."""
    if not values:
        return Spread(None, None, None, None, None)
    ordered = sorted(values)
    p50, p90, p99 = (percentile(ordered, ratio) for ratio in (0.5, 0.9, 0.99))
    return Spread(sum(ordered) / len(ordered), p50, p90, p99, ordered[-1])
