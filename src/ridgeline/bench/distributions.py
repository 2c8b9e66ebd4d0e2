"""What lengths, turns and pauses are drawn from."""

import math
import random
from dataclasses import dataclass
from typing import Protocol


class Distribution(Protocol):
    """Something to draw figures from; the same `draw` gives the same figures."""

    def sample(self, draw: random.Random) -> float:
        """One figure, never below 0."""
        ...

    def describe(self) -> str:
        """For the report."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    value: float

    def sample(self, draw: random.Random) -> float:
        """The value; `draw` is left untouched."""
        return self.value

    def describe(self) -> str:
        """The value."""
        return f"{self.value:g}"


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Many small and a few large: exp(normal(ln median, sigma)), held within `low` and `high`."""

    median: float
    sigma: float
    low: float = 0.0
    high: float = math.inf

    def sample(self, draw: random.Random) -> float:
        """One figure within the bounds."""
        return min(self.high, max(self.low, draw.lognormvariate(math.log(self.median), self.sigma)))

    def describe(self) -> str:
        """Median, sigma and bounds."""
        return f"log-normal, median {self.median:g}, sigma {self.sigma:g}, {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Geometric:
    """How many, where going on after each is equally likely: 1 and more, with this mean."""

    mean: float
    high: int

    def sample(self, draw: random.Random) -> float:
        """A whole number from 1 to `high`."""
        if self.mean <= 1:
            return 1
        return min(self.high, 1 + int(math.log(1 - draw.random()) / math.log(1 - 1 / self.mean)))

    def describe(self) -> str:
        """Mean and bound."""
        return f"geometric, mean {self.mean:g}, at most {self.high}"


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A measured distribution by its quantiles, straight between them.

    Attributes:
        points: (share of figures at or below, figure), rising in both, from share 0 to share 1.
    """

    points: tuple[tuple[float, float], ...]

    def sample(self, draw: random.Random) -> float:
        """One figure between the first and the last."""
        share = draw.random()
        for (before, low), (after, high) in zip(self.points, self.points[1:], strict=False):
            if share <= after:
                return low + (high - low) * (share - before) / (after - before)
        return self.points[-1][1]

    def describe(self) -> str:
        """Some of the quantiles."""
        return "measured, " + ", ".join(f"p{share * 100:g} {figure:g}" for share, figure in self.points)


@dataclass(frozen=True, slots=True)
class Mixed:
    """`rare` in a `share` of cases, else `common`."""

    common: Distribution
    rare: Distribution
    share: float

    def sample(self, draw: random.Random) -> float:
        """From one of the two."""
        return (self.rare if draw.random() < self.share else self.common).sample(draw)

    def describe(self) -> str:
        """Both, and the share."""
        return f"{self.share:.0%} {self.rare.describe()}; else {self.common.describe()}"
