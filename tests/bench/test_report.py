"""The arithmetic of the figures, on records with known times."""

import pytest
from rich.console import Console

from ridgeline.bench.client import TokenCounts
from ridgeline.bench.report import Targets, summarise
from ridgeline.bench.runner import RunResult, TurnRecord
from ridgeline.bench.spread import Spread, percentile, spread
from ridgeline.bench.table import render


def record(
    scheduled: float,
    chunks: list[float],
    *,
    sent: float | None = None,
    tokens: int | None = None,
    outcome: str = "completed",
    turn: int = 0,
    warmup: bool = False,
) -> TurnRecord:
    counts = TokenCounts(100, len(chunks) if tokens is None else tokens, 25)
    return TurnRecord(
        conversation=0,
        turn=turn,
        warmup=warmup,
        scheduled=scheduled,
        sent=scheduled if sent is None else sent,
        chunk_times=chunks,
        finished=chunks[-1] if chunks else scheduled + 0.5,
        outcome=outcome,
        error="" if outcome == "completed" else f"503 at_capacity: {outcome}",
        tokens=counts if outcome == "completed" else None,
    )


def result(*records: TurnRecord, seconds: float = 10.0, in_flight: float | None = None) -> RunResult:
    busy = sum(r.finished - r.sent for r in records if not r.warmup)
    return RunResult(
        records=list(records),
        started=0.0,
        ended=seconds,
        in_flight_seconds=busy if in_flight is None else in_flight,
        abandoned_turns=0,
        client_cpu_seconds=0.5,
        loop_delays=[0.001, 0.002],
    )


def test_ttft_counts_from_the_schedule_and_the_other_from_sending() -> None:
    report = summarise(result(record(1.0, [2.0, 2.5], sent=1.25)), Targets())
    assert report.ttft_seconds.p50 == 1.0
    assert report.ttft_from_send_seconds.p50 == 0.75
    assert report.request_seconds.p50 == 1.25


def test_tokens_come_from_usage_not_from_chunks() -> None:
    report = summarise(result(record(0.0, [1.0, 1.5, 3.0], tokens=9)), Targets())
    assert report.output_tokens == 9
    assert report.output_tokens_per_second == pytest.approx(0.9)
    assert report.itl_seconds == Spread(1.0, 0.5, 1.5, 1.5, 1.5)
    assert report.tpot_seconds.p50 == pytest.approx(2.0 / 8)
    assert report.cached_prompt_ratio == 0.25


def test_goodput_counts_refused_and_slow_ones() -> None:
    records = [
        record(0.0, [0.4, 0.5]),
        record(0.0, [2.0, 2.1]),  # first token too late
        record(0.0, [0.4, 3.4]),  # tokens too slow
        record(0.0, [], outcome="refused"),
        record(0.0, [], outcome="failed"),
    ]
    report = summarise(result(*records), Targets(ttft_seconds=1.0, itl_seconds=0.2))
    assert report.goodput_ratio == pytest.approx(1 / 5)
    assert (report.offered, report.completed, report.refused, report.failed) == (5, 3, 1, 1)
    assert report.errors == {"503 at_capacity: refused": 1, "503 at_capacity: failed": 1}


def test_warmup_is_in_no_figure() -> None:
    report = summarise(result(record(0.0, [5.0, 9.0], warmup=True), record(1.0, [2.0, 3.0])), Targets())
    assert (report.offered, report.warmup_requests, report.output_tokens) == (1, 1, 2)
    assert report.ttft_seconds.max == 1.0


def test_figures_by_turn() -> None:
    records = [record(0.0, [1.0, 2.0]), record(0.0, [3.0, 4.0]), record(5.0, [5.5, 6.0], turn=1)]
    report = summarise(result(*records), Targets())
    assert [(turn.turn, turn.completed, turn.ttft_seconds.p50) for turn in report.turns] == [
        (0, 2, 1.0),
        (1, 1, 0.5),
    ]


def test_littles_law_finds_lost_requests() -> None:
    sound = summarise(result(record(0.0, [1.0, 2.0])), Targets())
    assert sound.little.valid
    lost = summarise(result(record(0.0, [1.0, 2.0]), in_flight=4.0), Targets())
    assert not lost.little.valid


def test_a_busy_or_late_client_is_named() -> None:
    run = result(record(0.0, [1.0, 2.0]))
    assert not summarise(run, Targets()).client.limited
    run.client_cpu_seconds = 9.0
    assert summarise(run, Targets()).client.limited
    late = summarise(result(record(0.0, [1.0, 2.0], sent=0.3)), Targets())
    assert late.client.limited


def test_percentiles_are_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (0.5, 0.9, 0.99, 1.0)] == [50, 90, 99, 100]
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 7.0, 7.0)
    assert spread([]) == Spread(None, None, None, None, None)


def test_nothing_measured_is_no_number() -> None:
    report = summarise(result(seconds=0.0), Targets())
    assert report.goodput_ratio is None
    assert report.ttft_seconds.mean is None


def test_table_names_what_speaks_against_the_run() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(render(summarise(result(record(0.0, [], outcome="refused"), in_flight=9.0), Targets())))
    text = capture.get()
    assert "1 refused" in text
    assert "Invalid run" in text
    assert "1 x 503 at_capacity" in text
