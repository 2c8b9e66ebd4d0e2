"""Which plots tell of a run, and of a ramp."""

from collections.abc import Iterator, Sequence

from ridgeline.bench.measure import Measured
from ridgeline.bench.plots import Plot, Point, Rule, Series
from ridgeline.bench.ramp import Climbed
from ridgeline.bench.report import Targets, tpot, ttft
from ridgeline.bench.runner import TurnRecord

_LEAST_MS = 0.1  # below, the clock and the event loop have the word


def in_flight(records: Sequence[TurnRecord], started: float) -> list[Point]:
    """The number of requests in flight from each change on; seconds since the start."""
    changes = sorted([(record.sent, 1) for record in records] + [(record.finished, -1) for record in records])
    points, level = [(0.0, 0.0)], 0
    for at, by in changes:
        level += by
        points.append((at - started, float(level)))
    return points


def shares(values: Sequence[float]) -> list[Point]:
    """For each value in milliseconds the percentage of values at or below it."""
    ordered = sorted(max(value * 1000, _LEAST_MS) for value in values)
    return [(value, 100 * (place + 1) / len(ordered)) for place, value in enumerate(ordered)]


def _rules(*targets: tuple[float | None, bool]) -> list[Rule]:
    return [Rule(1000 * target, "target", vertical) for target, vertical in targets if target is not None]


def _over_time(records: Sequence[TurnRecord], started: float, targets: Targets) -> Iterator[Plot]:
    yield Plot(
        "In flight",
        "seconds since the start",
        "requests",
        [Series(in_flight(records, started), "steps")],
    )
    came = [
        (record.scheduled - started, 1000 * first)
        for record in records
        if record.outcome == "completed" and (first := ttft(record)) is not None
    ]
    lost = [(record.scheduled - started, 0.0) for record in records if record.outcome != "completed"]
    series = [Series(came, "dots", "completed")]
    if lost:
        series.append(Series(lost, "dots", "refused or failed", "bad"))
    yield Plot(
        "Time to first token",
        "seconds since the start",
        "ms",
        series,
        _rules((targets.ttft_seconds, False)),
    )


def _distributions(records: Sequence[TurnRecord], targets: Targets) -> Iterator[Plot]:
    completed = [record for record in records if record.outcome == "completed"]
    firsts = [first for record in completed if (first := ttft(record)) is not None]
    sent = [record.chunk_times[0] - record.sent for record in completed if record.chunk_times]
    yield Plot(
        "Time to first token, shares",
        "ms",
        "% of requests",
        [
            Series(shares(sent), name="from sending", colour="s2"),
            Series(shares(firsts), name="from when it was due"),
        ],
        _rules((targets.ttft_seconds, True)),
        log_x=True,
        y_to=100,
    )
    gaps = [
        after - before
        for record in completed
        for before, after in zip(record.chunk_times, record.chunk_times[1:], strict=False)
    ]
    means = [gap for record in completed if (gap := tpot(record)) is not None]
    yield Plot(
        "Between tokens, shares",
        "ms",
        "% of gaps, of answers",
        [
            Series(shares(gaps), name="each gap", colour="s2"),
            Series(shares(means), name="mean of an answer"),
        ],
        _rules((targets.itl_seconds, True)),
        log_x=True,
        y_to=100,
    )


def _by_turn(measured: Measured) -> Iterator[Plot]:
    turns = measured.report.turns
    if len(turns) < 2:
        return

    def points(of: str) -> list[Point]:
        values = [(turn.turn + 1, getattr(turn.ttft_seconds, of)) for turn in turns]
        return [(float(place), 1000 * value) for place, value in values if value is not None]

    yield Plot(
        "Time to first token by turn",
        "turn",
        "ms",
        [Series(points("p90"), "marked", "p90", "s2"), Series(points("p50"), "marked", "p50")],
    )
    cached = [
        (float(turn.turn + 1), 100 * turn.cached_prompt_ratio)
        for turn in turns
        if turn.cached_prompt_ratio is not None
    ]
    yield Plot("Prompt found in the cache", "turn", "%", [Series(cached, "marked")], y_to=100)


def _late(measured: Measured) -> Iterator[Plot]:
    if measured.report.schedule.drawn_per_second is None:
        return
    late = shares([record.sent - record.scheduled for record in measured.records])
    yield Plot("Sent late by, shares", "ms", "% of requests", [Series(late)], log_x=True, y_to=100)


def of_run(measured: Measured, targets: Targets) -> list[Plot]:
    """The plots of one run, or of a ramp's step at the knee."""
    return [
        *_over_time(measured.records, measured.started, targets),
        *_distributions(measured.records, targets),
        *_by_turn(measured),
        *_late(measured),
    ]


def of_ramp(climbed: Climbed, targets: Targets) -> list[Plot]:
    """The plots of a ramp, by its load."""
    rules = [] if climbed.knee is None else [Rule(climbed.steps[climbed.knee].load, "knee", vertical=True)]

    def points(of: str, factor: float = 1.0) -> list[Point]:
        return [(step.load, factor * float(getattr(step, of))) for step in climbed.steps]

    def times(of: str, quantile: str) -> list[Point]:
        values = [(step.load, getattr(getattr(step, of), quantile)) for step in climbed.steps]
        return [(load, 1000 * value) for load, value in values if value is not None]

    unit = climbed.unit
    return [
        Plot(
            "Requests",
            unit,
            "requests/s",
            [
                Series(points("completed_per_second"), "marked", "completed", "s2"),
                Series(points("goodput_per_second"), "marked", "within the targets"),
            ],
            rules,
        ),
        Plot(
            "Throughput",
            unit,
            "output tokens/s",
            [Series(points("output_tokens_per_second"), "marked")],
            rules,
        ),
        Plot(
            "Time to first token",
            unit,
            "ms",
            [
                Series(times("ttft_seconds", "p99"), "marked", "p99", "s2"),
                Series(times("ttft_seconds", "p50"), "marked", "p50"),
            ],
            [*rules, *_rules((targets.ttft_seconds, False))],
        ),
        Plot(
            "Time per output token",
            unit,
            "ms",
            [
                Series(times("tpot_seconds", "p99"), "marked", "p99", "s2"),
                Series(times("tpot_seconds", "p50"), "marked", "p50"),
            ],
            [*rules, *_rules((targets.itl_seconds, False))],
        ),
        Plot("In flight", unit, "requests", [Series(points("mean_in_flight"), "marked")], rules),
    ]
