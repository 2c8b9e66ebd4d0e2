"""When a load is more than a server can carry, told from what the users of one step saw.

Pure: it is handed records and times. A step is saturated when any of these holds:

- Requests in flight and TTFT both rise through the step: each one's slope over the means of eight
  equal parts of it is above 0 with 95 % confidence (t-interval, as guidellm does), and each rises by a
  quarter of its mean or more. The first quarter of a step is left out, as it begins with an idle server.
- Fewer than 90 % of the requests met the targets, refused ones included.
- Fewer requests per second met the targets than 90 % of the best step before it.
- In the closed loop, at least a fifth more users brought less than 5 % more tokens per second.

The knee is the last step before the first saturated one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.bench.report import Report, Targets, meets, output_tokens, ttft
from ridgeline.bench.runner import TurnRecord
from ridgeline.bench.spread import Spread

MIN_GOODPUT_RATIO = 0.9
MIN_OF_BEST_GOODPUT = 0.9
MIN_GAIN = 0.05
MIN_MORE_USERS = 0.2
MIN_RISE = 0.25
PARTS = 8
LEFT_OUT = 0.25

# Of Student's distribution, one-sided 95 %, by degrees of freedom.
_T_95 = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943}


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through means over time.

    Attributes:
        per_second: by least squares.
        low: the one-sided 95 % bound below it.
        rise: over the whole time, by the mean; 0 where the mean is 0.
    """

    per_second: float
    low: float
    rise: float

    @property
    def rises(self) -> bool:
        """Surely, and by enough to matter."""
        return self.low > 0 and self.rise >= MIN_RISE


@dataclass(frozen=True, slots=True)
class Step:
    """What one load did. Rates are per second of the step, without the time it took to run empty.

    Attributes:
        load: conversations begun per second, or users.
        seconds: of the step.
        offered_per_second: requests sent.
        completed_per_second: requests that ended well within the step.
        output_tokens_per_second: tokens that came within the step.
        goodput_per_second: requests sent within the step that met the targets.
        goodput_ratio: those of all requests sent; None where none was.
        refused: requests.
        ttft_seconds: from the schedule, requests of this step.
        tpot_seconds: likewise.
        mean_in_flight: requests, over the step.
        in_flight_slope: None where it cannot be told.
        ttft_slope: likewise.
        client_limited: whether the client was too busy for this to be believed.
        saturated_by: why this is more than the server carries; empty where it is not.
    """

    load: float
    seconds: float
    offered_per_second: float
    completed_per_second: float
    output_tokens_per_second: float
    goodput_per_second: float
    goodput_ratio: float | None
    refused: int
    ttft_seconds: Spread
    tpot_seconds: Spread
    mean_in_flight: float
    in_flight_slope: Slope | None
    ttft_slope: Slope | None
    client_limited: bool
    saturated_by: tuple[str, ...] = ()


def slope(times: Sequence[float], values: Sequence[float]) -> Slope | None:
    """Least squares with a confidence bound; None for fewer than three points."""
    points = len(times)
    if points < 3 or points - 2 not in _T_95:
        return None
    middle, mean = sum(times) / points, sum(values) / points
    spread_of_times = sum((time - middle) ** 2 for time in times)
    if not spread_of_times:
        return None
    pairs = list(zip(times, values, strict=True))
    per_second = sum((time - middle) * (value - mean) for time, value in pairs) / spread_of_times
    left = sum((value - mean - per_second * (time - middle)) ** 2 for time, value in pairs)
    error = math.sqrt(left / (points - 2) / spread_of_times)
    rise = per_second * (max(times) - min(times)) / mean if mean else 0.0
    return Slope(per_second, per_second - _T_95[points - 2] * error, rise)


def mean_in_flight(records: Sequence[TurnRecord], start: float, end: float) -> float:
    """Requests in flight, averaged over a time."""
    if end <= start:
        return 0.0
    overlaps = (min(record.finished, end) - max(record.sent, start) for record in records)
    return sum(overlap for overlap in overlaps if overlap > 0) / (end - start)


def _parts(start: float, end: float) -> list[tuple[float, float]]:
    first = start + LEFT_OUT * (end - start)
    length = (end - first) / PARTS
    return [(first + number * length, first + (number + 1) * length) for number in range(PARTS)]


def in_flight_slope(records: Sequence[TurnRecord], start: float, end: float) -> Slope | None:
    """How the number of requests in flight went."""
    parts = _parts(start, end)
    return slope([(a + b) / 2 for a, b in parts], [mean_in_flight(records, a, b) for a, b in parts])


def ttft_slope(records: Sequence[TurnRecord], start: float, end: float) -> Slope | None:
    """How TTFT went, by when requests were due."""
    times, means = [], []
    for a, b in _parts(start, end):
        firsts = [
            first for record in records if a <= record.scheduled < b and (first := ttft(record)) is not None
        ]
        if firsts:
            times.append((a + b) / 2)
            means.append(sum(firsts) / len(firsts))
    return slope(times, means)


def _tokens_within(record: TurnRecord, end: float) -> float:
    """Of an answer's tokens those that came by then, chunks taken as equal."""
    if not record.chunk_times:
        return 0.0
    came = sum(time <= end for time in record.chunk_times)
    return output_tokens(record) * came / len(record.chunk_times)


def step_of(
    load: float,
    records: Sequence[TurnRecord],
    start: float,
    seconds: float,
    targets: Targets,
    report: Report,
) -> Step:
    """The figures of one step; `records` without the warm-up's, `report` computed from them."""
    end = start + seconds
    ended = [record for record in records if record.outcome == "completed" and record.finished <= end]
    return Step(
        load=load,
        seconds=seconds,
        offered_per_second=len(records) / seconds,
        completed_per_second=len(ended) / seconds,
        output_tokens_per_second=sum(_tokens_within(record, end) for record in records) / seconds,
        goodput_per_second=sum(meets(record, targets) for record in records) / seconds,
        goodput_ratio=report.goodput_ratio,
        refused=report.refused,
        ttft_seconds=report.ttft_seconds,
        tpot_seconds=report.tpot_seconds,
        mean_in_flight=mean_in_flight(records, start, end),
        in_flight_slope=in_flight_slope(records, start, end),
        ttft_slope=ttft_slope(records, start, end),
        client_limited=report.client.limited,
    )


def saturated_by(step: Step, before: Sequence[Step], *, open_loop: bool) -> tuple[str, ...]:
    """Why the step is more than the server carries; empty where it is not. `before`: lower loads."""
    reasons = []
    grows = step.in_flight_slope, step.ttft_slope
    if open_loop and all(line is not None and line.rises for line in grows):
        reasons.append("requests in flight and time to first token rose throughout the step")
    if step.goodput_ratio is not None and step.goodput_ratio < MIN_GOODPUT_RATIO:
        reasons.append(f"{step.goodput_ratio:.0%} of requests met the targets")
    best = max((earlier.goodput_per_second for earlier in before), default=0.0)
    if step.goodput_per_second < MIN_OF_BEST_GOODPUT * best:
        reasons.append(f"goodput fell from {best:.2f} to {step.goodput_per_second:.2f} requests/s")
    if before and not open_loop and step.load >= (1 + MIN_MORE_USERS) * before[-1].load:
        gain = step.output_tokens_per_second / max(before[-1].output_tokens_per_second, 1e-9) - 1
        if gain < MIN_GAIN:
            reasons.append(f"{before[-1].load:g} to {step.load:g} users changed throughput by {gain:+.1%}")
    return tuple(reasons)


def knee(steps: Sequence[Step]) -> int | None:
    """Index of the last step before the first saturated one; None where the first one already is.

    Where no step is saturated it is the last: the knee lies at it or above.
    """
    for number, step in enumerate(steps):
        if step.saturated_by:
            return number - 1 if number else None
    return len(steps) - 1 if steps else None
