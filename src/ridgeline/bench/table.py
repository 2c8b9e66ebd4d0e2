"""A report as a table for people."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ridgeline.bench.measure import Measured
from ridgeline.bench.ramp import Climbed
from ridgeline.bench.report import Report
from ridgeline.bench.spread import Spread


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
    _spread_row(table, "sent late by", report.schedule.delay_seconds)
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
    for name, text in (("rate", _rate(report)), ("server's cache", _server_cache(report))):
        if text:
            table.add_row(name, text)
    table.add_row(
        "client",
        f"{_percent(report.client.cpu_ratio)} of one core,"
        f" late by {_ms(report.client.loop_delay_p99_seconds)} ms at p99"
        + ("" if report.client.limited else ": not the bottleneck"),
    )
    return table


def _rate(report: Report) -> str:
    plan = report.schedule
    if plan.drawn_per_second is None or plan.achieved_per_second is None:
        return ""
    asked = "" if plan.requested_per_second is None else f"{plan.requested_per_second:,.3g} asked for, "
    return (
        f"{asked}{plan.drawn_per_second:,.3g} drawn, {plan.achieved_per_second:,.3g} achieved conversations/s"
    )


def _server_cache(report: Report) -> str:
    cache = report.server_cache
    if cache is None:
        return ""
    counts = ", ".join(f"{tokens:,.0f} {result}" for result, tokens in cache.tokens.items())
    return f"{_percent(cache.hit_ratio)} hit by {cache.source}: {counts} tokens"


def _refusals(report: Report) -> Table:
    table = Table(title="Refused", title_justify="left")
    for name in ("status", "code", "with Retry-After", "without", "Retry-After p50 s"):
        table.add_column(name, justify="left" if name == "code" else "right")
    for refusal in report.refusals:
        wait = refusal.retry_after_seconds.p50
        table.add_row(
            str(refusal.status),
            refusal.code,
            str(refusal.with_retry_after),
            str(refusal.without_retry_after),
            "-" if wait is None else f"{wait:,.0f}",
        )
    return table


def _ramp(climbed: Climbed) -> Table:
    table = Table(title="Ramp", title_justify="left")
    names = (climbed.unit, "requests/s", "tokens/s", "goodput", "TTFT p50 ms", "p99 ms", "TPOT p50 ms")
    for name in (*names, "in flight", "refused"):
        table.add_column(name, justify="right")
    table.add_column("")
    for number, step in enumerate(climbed.steps):
        table.add_row(
            f"{step.load:.3g}",
            f"{step.completed_per_second:,.2f}",
            f"{step.output_tokens_per_second:,.0f}",
            _percent(step.goodput_ratio),
            _ms(step.ttft_seconds.p50),
            _ms(step.ttft_seconds.p99),
            _ms(step.tpot_seconds.p50),
            f"{step.mean_in_flight:,.1f}",
            str(step.refused),
            "saturated" if step.saturated_by else "knee" if number == climbed.knee else "",
        )
    return table


def verdict(climbed: Climbed) -> str:
    """The knee in a sentence."""
    reasons = "; ".join(climbed.steps[-1].saturated_by)
    if climbed.knee is None:
        return f"Saturated at the first step: {reasons}. Begin lower."
    step = climbed.steps[climbed.knee]
    told = (
        f"{step.load:.3g} {climbed.unit}: {step.goodput_per_second:,.2f} good requests/s,"
        f" {step.output_tokens_per_second:,.0f} tokens/s, TTFT p50 {_ms(step.ttft_seconds.p50)} ms"
    )
    if not climbed.reached:
        return f"No knee up to {told}."
    return f"The knee is at {told}. Above it: {reasons}."


def warnings(report: Report) -> Iterator[Text]:
    """What speaks against a run."""
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
    if not report.schedule.kept:
        yield Text(
            "The client did not keep to its schedule: fewer conversations began per second than were due.",
            style="yellow",
        )
    for error, times in sorted(report.errors.items(), key=lambda item: -item[1])[:5]:
        yield Text(f"{times} x {error}", style="red")


def render(report: Report) -> RenderableType:
    """Counts, times, turns where there are several, and what speaks against the run."""
    parts: list[RenderableType] = [_counts(report), _times(report)]
    if len(report.turns) > 1:
        parts.append(_turns(report))
    if report.refusals:
        parts.append(_refusals(report))
    return Group(*parts, *warnings(report))


def render_all(measured: Measured) -> RenderableType:
    """The ramp, if there was one, the report, and the notes."""
    parts: list[RenderableType] = []
    if measured.climbed is not None:
        parts += [_ramp(measured.climbed), Text(verdict(measured.climbed), style="bold"), Text()]
    parts.append(render(measured.report))
    parts += [Text(f"Note: {note}", style="yellow") for note in measured.notes]
    return Group(*parts)
