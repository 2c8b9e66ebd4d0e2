"""How long it takes until a prefix is wanted again, learned from the gaps that were seen.

A *wait* opens when the blocks of a prefix become idle and ends when a request wants them again. By
then it has passed through ages, each a factor of sqrt(2) longer than the one before:

    age        | 0 .. 1 s | .. 1.4 s | .. 2 s | .. 2.8 s | ...
    at risk       waits that ended in this age or outlived it
    ended         those of them that ended in it

`ended / at risk` is the chance that a wait of this age ends before the next one (the estimator of
Kaplan and Meier, by which waits that still last count for as long as they have). From the chances of
an age and those after it follows its *rate*: the chance to be wanted again within a horizon, over the
seconds that the blocks must be kept for it, at the horizon where this quotient is largest. It is
Gittins' index of a prefix that may be given up at any time, and has the unit 1 / second.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

AGES = 36
"""The last age begins after 2 days."""

EDGES_SECONDS = tuple(2.0 ** (i / 2) for i in range(AGES - 1))
"""Where one age ends and the next begins."""

_WIDTHS_SECONDS = (
    EDGES_SECONDS[0],
    *(EDGES_SECONDS[i] - EDGES_SECONDS[i - 1] for i in range(1, AGES - 1)),
    EDGES_SECONDS[-1],
)

PRIOR_CHANCE = 0.05
"""Of a wait to end in an age, before anything was seen. The same in every age: what has waited twice
as long is wanted half as soon, so that a cold start evicts in the order of ages, as LRU does."""

_FIRST_AGE = 2.5
"""The first age is longer than the second by this factor, and so is the chance to end in it."""

PRIOR_WAITS = 64.0
"""So many waits must be at risk before what was seen weighs more than what was believed."""

REMEMBERED_WAITS = 512.0
"""Beyond so many at risk all counts of a kind are halved: when people change, the prices follow. As few as
leave the sampling error of a rate small beside the differences between kinds."""


@dataclass(slots=True, eq=False)
class Wait:
    """A prefix whose blocks are idle or evicted, and for which no request has come yet.

    Attributes:
        kind: what is known of it, as an index into the learner's kinds.
        since_seconds: when its blocks became idle.
        age: index of the age it has reached.
        is_open: nobody has asked for it yet.
    """

    kind: int = 0
    since_seconds: float = 0.0
    age: int = 0
    is_open: bool = False
    runs: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class _Counts:
    """Of one kind, by age. `chances` and `rates` follow from the rest, and are made anew at times."""

    believes: "_Counts | None"
    prior_chance: float
    ended: list[float] = field(default_factory=lambda: [0.0] * AGES)
    at_risk: list[float] = field(default_factory=lambda: [0.0] * AGES)
    chances: list[float] = field(default_factory=lambda: [0.0] * AGES)
    rates: list[float] = field(default_factory=lambda: [0.0] * AGES)

    def learn(self) -> None:
        """Chances and rates from counts. What was seen too seldom takes the chance of `believes`."""
        if self.at_risk[0] > REMEMBERED_WAITS:
            self.ended = [count / 2 for count in self.ended]
            self.at_risk = [count / 2 for count in self.at_risk]
        ended, at_risk = _smooth(self.ended), _smooth(self.at_risk)
        for age in range(AGES):
            if self.believes:
                believed = self.believes.chances[age]
            else:
                believed = self.prior_chance * (1.0 if age else _FIRST_AGE)
            self.chances[age] = (ended[age] + PRIOR_WAITS * believed) / (at_risk[age] + PRIOR_WAITS)
        self.rates = best_rates(self.chances)


def _smooth(counts: list[float]) -> list[float]:
    """Each age with its neighbours, those two away by half: an hour's waits are few at a single age."""
    far = [0.0, 0.0, *counts, 0.0, 0.0]
    return [
        own + far[age + 1] + far[age + 3] + (far[age] + far[age + 4]) / 2 for age, own in enumerate(counts)
    ]


def best_rates(chances: list[float]) -> list[float]:
    """The rate of each age, from each age's chance to end.

    Seen from one age, the chance to have ended by a later one over the seconds spent until then is
    the slope from one point to another of a curve. The largest slopes are those of the curve's upper
    hull, which is built from its end: O(ages).
    """
    surviving = 1.0
    steps: list[tuple[float, float]] = []
    for chance, width in zip(chances, _WIDTHS_SECONDS, strict=True):
        # A wait that ends in an age is taken to end in its middle.
        steps.append((surviving * chance, surviving * width * (1 - chance / 2)))
        surviving *= 1 - chance
    hull: list[tuple[float, float]] = []
    rates = [0.0] * len(chances)
    for age in reversed(range(len(chances))):
        ending, seconds = steps[age]
        while hull and hull[-1][0] * seconds > ending * hull[-1][1]:
            more, longer = hull.pop()
            ending, seconds = ending + more, seconds + longer
        hull.append((ending, seconds))
        rates[age] = ending / seconds if seconds > 0 else 0.0
    return rates


class Gaps:
    """Counts of how waits of each kind ended; O(1) per wait and age, apart from `learn`.

    Args:
        kinds: for each kind, the one it is believed to resemble (an earlier one, by its index) or
            the chance to end in any age, until enough of it was seen.
    """

    def __init__(self, kinds: list[int | float]) -> None:
        self._counts: list[_Counts] = []
        for belief in kinds:
            if isinstance(belief, int):
                self._counts.append(_Counts(self._counts[belief], 0.0))
            else:
                self._counts.append(_Counts(None, belief))
        self._growing: list[deque[tuple[float, Wait]]] = [deque() for _ in range(AGES - 1)]
        self.learn()

    def open(self, wait: Wait, now: float) -> None:
        """The blocks became idle."""
        wait.since_seconds, wait.age, wait.is_open = now, 0, True
        self._growing[0].append((now, wait))

    def end(self, wait: Wait, now: float) -> None:
        """A request wants what was waited for."""
        age = bisect_right(EDGES_SECONDS, now - wait.since_seconds)
        counts: _Counts | None = self._counts[wait.kind]
        while counts is not None:
            for passed in range(wait.age, age + 1):
                counts.at_risk[passed] += 1
            counts.ended[age] += 1
            counts = counts.believes
        wait.is_open = False

    def forget(self, wait: Wait) -> None:
        """Nobody would notice any more if it ended."""
        wait.is_open = False

    def grow(self, now: float, on_age: Callable[[Wait], None]) -> None:
        """Let every open wait reach its age; `on_age` is told of those that came to another."""
        for age, line in enumerate(self._growing):
            edge = now - EDGES_SECONDS[age]
            while line and line[0][0] <= edge:
                since, wait = line.popleft()
                if not wait.is_open or wait.since_seconds != since or wait.age != age:
                    continue
                counts: _Counts | None = self._counts[wait.kind]
                while counts is not None:
                    counts.at_risk[age] += 1
                    counts = counts.believes
                wait.age = age + 1
                if age + 1 < len(self._growing):
                    self._growing[age + 1].append((since, wait))
                on_age(wait)

    def learn(self) -> None:
        """Make the rates anew from all that was counted."""
        for counts in self._counts:
            counts.learn()

    def rate(self, wait: Wait) -> float:
        """1 / seconds: see the top of this file."""
        return self._counts[wait.kind].rates[wait.age]
