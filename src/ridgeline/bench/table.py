"""A report as a table for people."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ridgeline.bench.report import Report, Spread


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.1f}"


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"


def _spread_row(table: Table, name: str, values: Spread) -> None:
    table.add_row(
        name, *(_ms(value) for value in (values.mean, values.p50, values.p90, values.p99, values.max))
    )


def _times(report: Report) -> Table:
    table = Table(title="Milliseconds", title_justify="left")
    table.add_column("")
    for name in ("mean", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right")
    _spread_row(table, "time to first token", report.ttft_seconds)
    _spread_row(table, "  from sending", report.ttft_from_send_seconds)
    _spread_row(table, "inter-token latency", report.itl_seconds)
    _spread_row(table, "time per output token", report.tpot_seconds)
    _spread_row(table, "whole request", report.request_seconds)
    return table


def _turns(report: Report) -> Table:
    table = Table(title="By turn", title_justify="left")
    for name in ("turn", "requests", "TTFT p50 ms", "request p50 ms", "prompt cached"):
        table.add_column(name, justify="right")
    for turn in report.turns:
        table.add_row(
            str(turn.turn + 1),
            str(turn.completed),
            _ms(turn.ttft_seconds.p50),
            _ms(turn.request_seconds.p50),
            _percent(turn.cached_prompt_ratio),
        )
    return table


def _counts(report: Report) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "requests",
        f"{report.completed} of {report.offered} completed, {report.refused} refused, {report.failed} failed"
        f" (and {report.warmup_requests} to warm up, {report.abandoned_turns} turns abandoned)",
    )
    table.add_row("goodput", f"{_percent(report.goodput_ratio)} of requests offered met every target")
    table.add_row(
        "throughput",
        f"{report.output_tokens_per_second:,.1f} output tokens/s,"
        f" {report.requests_per_second:,.2f} requests/s over {report.seconds:,.1f} s",
    )
    table.add_row(
        "tokens",
        f"{report.prompt_tokens:,} in prompts ({_percent(report.cached_prompt_ratio)} cached),"
        f" {report.output_tokens:,} in answers (from {report.tokens_from})",
    )
    table.add_row(
        "client",
        f"{_percent(report.client.cpu_ratio)} of one core,"
        f" late by {_ms(report.client.loop_delay_p99_seconds)} ms at p99"
        + ("" if report.client.limited else ": not the bottleneck"),
    )
    return table


def _warnings(report: Report) -> Iterator[Text]:
    if report.client.limited:
        yield Text(
            "The client was too busy or too late for these times to be believed: give it a core of its"
            " own, or lower the load.",
            style="yellow",
        )
    if not report.little.valid:
        yield Text(
            f"Invalid run: {report.little.mean_in_flight:.2f} requests in flight on average, but rate x time"
            f" gives {report.little.rate_times_mean_seconds:.2f}.",
            style="red",
        )
    for error, times in sorted(report.errors.items(), key=lambda item: -item[1])[:5]:
        yield Text(f"{times} x {error}", style="red")


def render(report: Report) -> RenderableType:
    """Counts, times, turns where there are several, and what speaks against the run."""
    parts: list[RenderableType] = [_counts(report), _times(report)]
    if len(report.turns) > 1:
        parts.append(_turns(report))
    return Group(*parts, *_warnings(report))
