"""How long a step takes on this machine, learned from the steps that it ran.

A roofline says what a step takes at least. What it takes is told by the steps themselves, through a
few coefficients, each a multiple of what the roofline gives for it:

    seconds = products(new tokens)                 read off between knots at 1, 2, 3, 4, 6, 8, 12, ... tokens
            + a * cached tokens read by sequences with one new token         (decoding)
            + b * pairs attended to by the others                            (prefill)
            + c * sequences
            + d * rows of logits

So the compute efficiency may differ by the number of tokens, as it does where kernels change with
it, and a share per sequence is told apart from the share per step. Least squares of the relative
error over the latest steps of each kind, so that an hour of decoding does not wash out what a prefill
takes; slow outliers weigh less; a coefficient of which nothing was seen stays near its neighbour's.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from ridgeline.roofline.work import Work

Floats = npt.NDArray[np.float64]

_KEPT = 24
"""Steps of a kind that are remembered: a kind is the knot below, and decode, prefill or both."""

_SOLVE_EVERY = 16
"""Steps from one solution to the next; solving takes some 0.2 ms."""

_OUTLIER = 0.15
"""Relative error from which on a step weighs less, as the machine did something else beside it."""

_TO_NEIGHBOUR = 0.1
_TO_PRIOR = 0.002
"""How many observed steps it takes to outweigh the neighbouring knot, and what was believed before."""

_LEAST = 0.02
"""A coefficient is at least this share of what the roofline gives."""

_HIGH = 0.98
"""The quantile that `high_ratio` follows."""

_HIGH_STEP = 0.02
"""How far `high_ratio` moves with a step; some 200 of them bring it to where it belongs."""

_HIGHEST_RATIO = 2.0


class StepTime:
    """Predicts steps, and learns from them. Used from one thread.

    Args:
        roofline: seconds of a step by peaks and efficiencies alone.
        max_tokens: most tokens of a step.
        sequence_seconds: first guess of what a sequence adds to a step.
    """

    def __init__(
        self, roofline: Callable[[Work], float], max_tokens: int, *, sequence_seconds: float = 5e-6
    ) -> None:
        octaves = max(1, math.ceil(math.log2(max(2, max_tokens))))
        self._knots = [1, *(size for k in range(1, octaves + 1) for size in (2**k, 3 * 2 ** (k - 1)))][:-1]
        products = [roofline(Work(tokens, 0, 0, 0)) for tokens in self._knots]
        self._prior = [*products, *_rest(roofline, self._knots[-1], sequence_seconds)]
        size = len(self._prior)
        self._seconds = list(self._prior)
        self._normal, self._wanted = _regular(len(self._knots), size)
        self._seen: dict[tuple[int, int], deque[tuple[Floats, float]]] = {}
        self._since_solved = 0
        self.observed = 0
        self.high_ratio = 1.1
        """Of 100 steps 98 take at most this many times what was predicted."""

    def seconds(self, work: Work) -> float:
        """How long a step is expected to take."""
        below, share = self._place(work.new_tokens)
        coefficients = self._seconds
        products = coefficients[below] * (1.0 - share) + coefficients[below + 1] * share
        decoding, pairs, sequences, logits = coefficients[-4:]
        return (
            products
            + decoding * work.single_cached_tokens
            + pairs * work.chunk_pairs
            + sequences * work.sequences
            + logits * work.logit_rows
        )

    def observe(self, work: Work, seconds: float) -> float:
        """A step took so long; returns what had been expected."""
        expected = self.seconds(work)
        if seconds <= 0.0:
            return expected
        # Stochastic approximation of a quantile: rare steps up weigh as much as common ones down.
        step = _HIGH if seconds > expected * self.high_ratio else _HIGH - 1.0
        self.high_ratio = min(_HIGHEST_RATIO, max(1.0, self.high_ratio + _HIGH_STEP * step))
        row, weight = self._row(work, seconds, expected)
        kept = self._seen.setdefault(self._kind(work), deque())
        if len(kept) == _KEPT:
            self._add(*kept.popleft(), sign=-1.0)
        kept.append((row, weight))
        self._add(row, weight, sign=1.0)
        self.observed += 1
        self._since_solved += 1
        # The first steps of a server teach it most.
        if self._since_solved >= min(_SOLVE_EVERY, self.observed):
            self._solve()
        return expected

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Seconds of each part, for people to look at."""
        named = {f"step_of_{tokens}_tokens": self._seconds[i] for i, tokens in enumerate(self._knots)}
        rest = ("cached_token", "attended_pair", "sequence", "logit_row")
        return named | dict(zip(rest, self._seconds[len(self._knots) :], strict=True))

    def _place(self, tokens: int) -> tuple[int, float]:
        """The knot below, and the share of the way to the next; beyond the last it goes on straight."""
        octave = max(1, tokens).bit_length() - 1
        # 1 stands alone in its octave; in each further one there are 2^k and 1.5 * 2^k.
        below = 2 * octave - 1 + (2 * tokens >= 3 << octave) if octave else 0
        below = min(below, len(self._knots) - 2)
        first, following = self._knots[below], self._knots[below + 1]
        return below, (tokens - first) / (following - first)

    def _kind(self, work: Work) -> tuple[int, int]:
        chunks = work.sequences - work.singles
        return self._place(work.new_tokens)[0], (work.singles > 0) + 2 * (chunks > 0)

    def _row(self, work: Work, seconds: float, expected: float) -> tuple[Floats, float]:
        """What each coefficient's multiple contributes, over the step's time; and its weight."""
        row = np.zeros(len(self._prior))
        below, share = self._place(work.new_tokens)
        row[below], row[below + 1] = 1.0 - share, share
        row[-4:] = work.single_cached_tokens, work.chunk_pairs, work.sequences, work.logit_rows
        error = abs(seconds / expected - 1.0)
        return row * self._prior / seconds, min(1.0, _OUTLIER / error) if error else 1.0

    def _add(self, row: Floats, weight: float, sign: float) -> None:
        self._normal += sign * weight * np.outer(row, row)
        self._wanted += sign * weight * row

    def _solve(self) -> None:
        """Least squares in multiples of the prior, none of them below `_LEAST`."""
        self._since_solved = 0
        free = np.ones(len(self._prior), bool)
        multiples = np.full(len(self._prior), _LEAST)
        while free.any():
            fixed = self._normal[np.ix_(free, ~free)].sum(1) * _LEAST
            multiples[free] = np.linalg.solve(self._normal[np.ix_(free, free)], self._wanted[free] - fixed)
            low = free & (multiples < _LEAST)
            if not low.any():
                break
            multiples[low] = _LEAST
            free &= ~low
        found = [float(m) * p for m, p in zip(multiples, self._prior, strict=True)]
        knots = len(self._knots)
        # More tokens never take less time; where little was seen, the equations may think so.
        self._seconds = [*accumulate(found[:knots], max), *found[knots:]]


def _rest(roofline: Callable[[Work], float], tokens: int, sequence_seconds: float) -> tuple[float, ...]:
    """First guesses: of a cached token, a pair, a sequence, a row of logits."""
    # Differences over much of each, so that what is hidden behind something else comes out.
    many = 1 << 20
    base = roofline(Work(1, 0, 0, 0))
    cached = (roofline(Work(1, many, many, 0)) - base) / many
    whole = roofline(Work(tokens, 0, 0, 0))
    pairs = (roofline(Work(tokens, 0, many * tokens, 0)) - whole) / (many * tokens)
    logits = (roofline(Work(1, 0, 0, many)) - base) / many
    return max(cached, 1e-12), max(pairs, 1e-15), sequence_seconds, max(logits, 1e-9)


def _regular(knots: int, size: int) -> tuple[Floats, Floats]:
    """Normal equations before any step was seen: multiples are 1, and like their neighbours'."""
    normal, wanted = np.eye(size) * _TO_PRIOR, np.full(size, _TO_PRIOR)
    for knot in range(knots - 1):
        pair = np.ix_([knot, knot + 1], [knot, knot + 1])
        normal[pair] += _TO_NEIGHBOUR * np.array([[1.0, -1.0], [-1.0, 1.0]])
    return normal, wanted
