"""One engine as the dashboard and `ridgeline top` show it: plain data, ready for JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ridgeline.telemetry.records import StepRecord
from ridgeline.telemetry.verdict import verdict

SHOWN_SECONDS = 60.0
SHOWN_POINTS = 400
"""Steps given of the last minute, evenly taken; more than a plot can show apart."""


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
class Live:
    """All of one engine; see `as_json`.

    Attributes:
        values: gauges and counters by name, labels in braces (`ridgeline_requests{waiting}`).
        histograms: cumulative buckets (upper bound, count) and sum, by name.
        verdict: what binds, as `telemetry.verdict.Verdict`.
        steps: of the last minute; see `Point`, but its first entry is the age in seconds.
        predictions: the latest (predicted, outcome), by kind.
    """

    values: dict[str, float]
    histograms: dict[str, dict[str, Any]]
    verdict: dict[str, str]
    steps: list[list[float]]
    predictions: dict[str, list[tuple[float, float]]]

    def as_json(self) -> dict[str, Any]:
        """Numbers only, with None for what is infinite, which JSON does not have."""
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


def live_of(
    now: float,
    numbers: Sequence[tuple[str, tuple[str, ...], float]],
    histograms: Mapping[str, tuple[list[tuple[str, float]], float]],
    points: Sequence[Point],
    predictions: Mapping[str, list[tuple[float, float]]],
) -> Live:
    """Put together what an engine's meter holds."""
    values = {name + (f"{{{','.join(labels)}}}" if labels else ""): value for name, labels, value in numbers}
    recent = [point for point in points if now - point.ended_seconds <= SHOWN_SECONDS]
    every = max(1, math.ceil(len(recent) / SHOWN_POINTS))
    steps = [[now - point.ended_seconds, *point[1:]] for point in recent[::every]]
    shown = {name: {"buckets": buckets, "sum": total} for name, (buckets, total) in histograms.items()}
    return Live(values, shown, asdict(verdict(values)), steps, dict(predictions))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
