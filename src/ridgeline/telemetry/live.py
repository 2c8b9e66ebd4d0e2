"""One engine as the dashboard and `ridgeline top` show it: plain data, ready for JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ridgeline.telemetry.ledger import LEAST, TOLERATED, Calibration, Prediction
from ridgeline.telemetry.recent import Change
from ridgeline.telemetry.records import Saved, StepRecord
from ridgeline.telemetry.verdict import Verdict

SHOWN_SECONDS = 60.0
SHOWN_POINTS = 400
"""Steps given of the last minute at most, evenly taken; more than a plot can show apart."""


class Point(NamedTuple):
    """A step on the roofline's plot.

    Attributes:
        ended_seconds: `time.monotonic()`.
        seconds: that it took.
        predicted_seconds: that it was expected to take.
        flops: operations.
        bytes_moved: from and to memory.
        batch_size: sequences.
        batch_tokens: tokens computed.
        prefill_tokens: those of them that are parts of prompts.
    """

    ended_seconds: float
    seconds: float
    predicted_seconds: float
    flops: float
    bytes_moved: float
    batch_size: int
    batch_tokens: int
    prefill_tokens: int


@dataclass(frozen=True, slots=True)
class Told:
    """Predictions of one kind, and how they came out.

    Attributes:
        calibration: over the latest ones.
        tolerated: median error above which a model predicts badly.
        least: an outcome below this counts as this much.
        pairs: the latest (predicted, outcome), oldest first.
    """

    calibration: Calibration
    tolerated: float
    least: float
    pairs: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Live:
    """All of one engine; see `as_json`.

    Attributes:
        values: gauges and counters by name, labels in braces (`ridgeline_requests{waiting}`).
        recent: what was counted and observed in the last minute.
        verdict: what binds, as `telemetry.verdict.Verdict`.
        steps: of the last minute; see `Point`, but its first entry is the age in seconds.
        predictions: those that met their outcome, by kind.
        saved: seconds of computing that the KV cache saved in the last hour, and could have saved.
    """

    values: dict[str, float]
    recent: Change
    verdict: Verdict
    steps: list[list[float]]
    predictions: dict[str, Told]
    saved: Saved | None

    def as_json(self) -> dict[str, Any]:
        """Plain data, with None for what is infinite, which JSON does not have."""
        return asdict(self) | {"values": {name: _finite(value) for name, value in self.values.items()}}


def point_of(record: StepRecord) -> Point:
    """What of a step is remembered."""
    return Point(
        record.ended_seconds,
        record.step_seconds,
        record.predicted_seconds,
        record.flops,
        record.bytes_moved,
        record.batch_size,
        record.batch_tokens,
        record.prefill_tokens,
    )


def by_name(numbers: Iterable[tuple[str, tuple[str, ...], float]]) -> dict[str, float]:
    """Values of an engine's metrics under one text each: `ridgeline_requests{waiting}`."""
    return {name + (f"{{{','.join(labels)}}}" if labels else ""): value for name, labels, value in numbers}


def shown_steps(now: float, points: Sequence[Point], made: int) -> list[list[float]]:
    """Some of the last minute's steps, each with its age in place of its time.

    They are chosen by their number since the start, so that the same ones are chosen a second later
    and no point flickers. `made` is the number of all steps since then; `points` are the latest.
    """
    first = made - len(points)
    recent = [(first + place, point) for place, point in enumerate(points)]
    recent = [(number, point) for number, point in recent if now - point.ended_seconds <= SHOWN_SECONDS]
    every = 1
    while len(recent) > every * SHOWN_POINTS:
        every *= 2
    return [[now - point.ended_seconds, *point[1:]] for number, point in recent if number % every == 0]


def told(
    calibrations: Mapping[Prediction, Calibration | None],
    pairs: Mapping[Prediction, list[tuple[float, float]]],
) -> dict[str, Told]:
    """Every kind of prediction that has met an outcome."""
    return {
        what: Told(found, TOLERATED[what], LEAST[what], pairs[what])
        for what, found in calibrations.items()
        if found is not None
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
