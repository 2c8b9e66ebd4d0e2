"""What a simulated fleet consists of, and what a run of it found."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from ridgeline.simulate.fleet_policies import Placed
from ridgeline.simulate.fleet_replica import Machine


@dataclass(frozen=True, slots=True)
class Place:
    """A replica of the plan.

    Attributes:
        id, region, cluster: of it.
        machine: it is made of.
        down: spans of time, in seconds from the beginning, in which it is gone.
    """

    id: str
    region: str
    machine: Machine
    cluster: str = ""
    down: tuple[tuple[float, float], ...] = ()


def lost(
    places: Iterable[Place], start: float, end: float = math.inf, *, region: str = "", cluster: str = ""
) -> list[Place]:
    """The plan with a region or a cluster gone for a while, or for ever."""
    return [
        replace(place, down=(*place.down, (start, end)))
        if (region and place.region == region) or (cluster and place.cluster == cluster)
        else place
        for place in places
    ]


@dataclass(slots=True)
class Outcome:
    """What became of a request; times in seconds.

    Attributes:
        home: region that it came from.
        came: when.
        replica, region: that answered it last; empty where none did.
        first_seconds: until the first token; None where none came.
        gap_seconds: between two tokens, on average.
        cached_tokens, prompt_tokens: of the prompt.
        refused: it was not served, or not to its end.
        answered: it was.
        attempts: times that it was sent to a replica.
        broken: times that a replica died over it.
    """

    home: str
    came: float
    prompt_tokens: int
    replica: str = ""
    region: str = ""
    first_seconds: float | None = None
    gap_seconds: float = 0.0
    cached_tokens: int = 0
    refused: bool = False
    answered: bool = False
    attempts: int = 0
    broken: int = 0


@dataclass(slots=True)
class Run:
    """What a simulation found: an outcome for each request, in the order in which they came."""

    outcomes: list[Outcome] = field(default_factory=list)
    decisions: list[Placed] = field(default_factory=list)
    preempted: int = 0
    events: int = 0

    def good(self, first_seconds: float, gap_seconds: float) -> int:
        """How many requests were answered within both targets."""
        return sum(
            each.answered
            and each.first_seconds is not None
            and each.first_seconds <= first_seconds
            and each.gap_seconds <= gap_seconds
            for each in self.outcomes
        )

    def first_token_seconds(self, share: float) -> float:
        """Time within which this share of those that were answered had their first token."""
        times = sorted(each.first_seconds for each in self.outcomes if each.first_seconds is not None)
        return times[min(len(times) - 1, int(share * len(times)))] if times else math.nan

    @property
    def refused(self) -> int:
        """Requests that were not served, or not to their end."""
        return sum(each.refused for each in self.outcomes)

    @property
    def cached_share(self) -> float:
        """Of prompt tokens that were computed or found cached."""
        begun = [each for each in self.outcomes if each.first_seconds is not None]
        return sum(each.cached_tokens for each in begun) / max(1, sum(each.prompt_tokens for each in begun))


def spread(counts: Sequence[float]) -> float:
    """Standard deviation over mean: 0 where all are alike."""
    mean = statistics.fmean(counts)
    return statistics.pstdev(counts) / mean if mean else 0.0
