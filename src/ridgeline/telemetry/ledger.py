"""What was predicted, against what came: a model that predicts badly is seen at once."""

from collections import deque
from dataclasses import dataclass
from typing import Literal, get_args

Prediction = Literal["step", "time_to_first_token", "cached_tokens", "wait"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)

LEAST: dict[Prediction, float] = {
    "step": 1e-4,
    "time_to_first_token": 0.02,
    "cached_tokens": 16.0,
    "wait": 0.1,
}
"""Below this an outcome counts as this much, or being 1 ms off a wait of 0 would be an infinite error."""

TOLERATED: dict[Prediction, float] = {
    "step": 0.2,
    "time_to_first_token": 0.5,
    "cached_tokens": 0.25,
    "wait": 0.5,
}
"""A median error above this is a model that predicts badly. Steps are computed, waits are foreseen."""

FEW = 20
"""Fewer predictions than this convict no model."""

_KEPT = 512


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the latest predictions of a kind came out, relative to the outcomes.

    Attributes:
        count: predictions since the start.
        median_error: half of the latest are no further off than this share of the outcome.
        high_error: 9 of 10 are not.
        bias: median of (predicted - outcome) / outcome; positive where too much is predicted.
        judgement: "bad" where the median is above what is tolerated of its kind; "few": too few to judge.
    """

    count: int
    median_error: float
    high_error: float
    bias: float
    judgement: Literal["good", "bad", "few"]


class Ledger:
    """The latest pairs of prediction and outcome, by kind."""

    def __init__(self) -> None:
        self._pairs: dict[Prediction, deque[tuple[float, float]]] = {
            what: deque(maxlen=_KEPT) for what in PREDICTIONS
        }
        self._counts = dict.fromkeys(PREDICTIONS, 0)

    def note(self, what: Prediction, predicted: float, outcome: float) -> None:
        """A prediction came true, more or less."""
        self._pairs[what].append((predicted, outcome))
        self._counts[what] += 1

    def calibration(self, what: Prediction) -> Calibration | None:
        """None before anything was predicted."""
        pairs = self._pairs[what]
        if not pairs:
            return None
        least = LEAST[what]
        signed = sorted((predicted - outcome) / max(outcome, least) for predicted, outcome in pairs)
        sizes = sorted(map(abs, signed))
        median = _quantile(sizes, 0.5)
        fair: Literal["good", "bad"] = "good" if median <= TOLERATED[what] else "bad"
        return Calibration(
            self._counts[what],
            median,
            _quantile(sizes, 0.9),
            _quantile(signed, 0.5),
            fair if len(pairs) >= FEW else "few",
        )

    def pairs(self, what: Prediction, most: int = 100) -> list[tuple[float, float]]:
        """The latest (predicted, outcome), oldest first."""
        return list(self._pairs[what])[-most:]


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
