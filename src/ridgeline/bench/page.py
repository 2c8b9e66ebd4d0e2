"""A report as one HTML file with plots: nothing is fetched, no script is run."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import orjson
from markupsafe import Markup

from ridgeline.bench.measure import Measured, Plan, as_json
from ridgeline.bench.pictures import of_ramp, of_run
from ridgeline.bench.plots import Plot, svg
from ridgeline.bench.report import Report
from ridgeline.bench.spread import Spread
from ridgeline.bench.table import verdict, warnings


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure in large letters."""

    name: str
    value: str
    more: str = ""


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:,.2f} s" if seconds >= 10 else f"{seconds * 1000:,.1f} ms"


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else value


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.1%}"


def _tiles(report: Report) -> list[Tile]:
    return [
        Tile("Goodput", _percent(report.goodput_ratio), "of requests offered met the targets"),
        Tile(
            "Throughput",
            f"{report.output_tokens_per_second:,.0f}",
            f"output tokens/s, {report.requests_per_second:,.2f} requests/s",
        ),
        Tile("TTFT, median", _ms(report.ttft_seconds.p50), f"p99 {_ms(report.ttft_seconds.p99)}"),
        Tile("Per token, median", _ms(report.tpot_seconds.p50), f"p99 {_ms(report.tpot_seconds.p99)}"),
        Tile(
            "Requests",
            f"{report.completed:,}",
            f"of {report.offered:,} completed, {report.refused:,} refused, {report.failed:,} failed",
        ),
        Tile(
            "Prompt from cache",
            _percent(report.cached_prompt_ratio),
            f"of {report.prompt_tokens:,} tokens, by usage",
        ),
    ]


def _times(report: Report) -> list[tuple[str, list[str]]]:
    rows: list[tuple[str, Spread]] = [
        ("Time to first token", report.ttft_seconds),
        ("from sending", report.ttft_from_send_seconds),
        ("Inter-token latency", report.itl_seconds),
        ("Time per output token", report.tpot_seconds),
        ("Whole request", report.request_seconds),
        ("Sent late by", report.schedule.delay_seconds),
    ]
    return [(name, [_ms(value) for value in (s.mean, s.p50, s.p90, s.p99, s.max)]) for name, s in rows]


def _checks(report: Report) -> list[tuple[str, str]]:
    """What tells whether to believe the run."""
    plan, little, client, cache = report.schedule, report.little, report.client, report.server_cache
    checks = [
        (
            "Client",
            f"{client.cpu_ratio:.1%} of one core, late by {_ms(client.loop_delay_p99_seconds)} at p99"
            + (": too busy to be believed" if client.limited else ": not the bottleneck"),
        ),
        (
            "Little's law",
            f"{little.mean_in_flight:.3g} in flight; rate x time gives {little.rate_times_mean_seconds:.3g}"
            + ("" if little.valid else ": the run is not valid"),
        ),
        ("Tokens", f"counted from {report.tokens_from}"),
    ]
    if plan.drawn_per_second is not None and plan.achieved_per_second is not None:
        asked = plan.requested_per_second
        rate = f"{plan.drawn_per_second:.3g} drawn, {plan.achieved_per_second:.3g} achieved conversations/s"
        checks.append(("Rate", rate if asked is None else f"{asked:.3g} asked for, {rate}"))
    if cache is not None:
        counted = ", ".join(f"{tokens:,.0f} {name}" for name, tokens in cache.tokens.items())
        checks.append(("Server's cache", f"{_percent(cache.hit_ratio)} hit ({counted}) by {cache.source}"))
    return checks


def drawn(plots: Sequence[Plot]) -> list[tuple[Plot, Markup]]:
    """Plots with their pictures, as the templates' macro takes them."""
    return [(plot, Markup(svg(plot))) for plot in plots]


def render_page(template: str, **values: Any) -> str:
    """A page of this folder's templates, with its style in it."""
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_source),
    )
    return environment.get_template(template).render(style=Markup(_source("page.css")), **values)


def _source(name: str) -> str:
    return files("ridgeline.bench").joinpath(name).read_text(encoding="utf-8")


def page(plan: Plan, measured: Measured) -> str:
    """The whole file."""
    line = as_json(plan, measured)
    climbed = measured.climbed
    return render_page(
        "page.html.jinja",
        model=measured.model,
        url=plan.url,
        report=measured.report,
        verdict=verdict(climbed) if climbed else None,
        ramp_plots=drawn(of_ramp(climbed, plan.targets)) if climbed else [],
        climbed=climbed,
        tiles=_tiles(measured.report),
        plots=drawn(of_run(measured, plan.targets)),
        times=_times(measured.report),
        checks=_checks(measured.report),
        warnings=[text.plain for text in warnings(measured.report)],
        notes=measured.notes,
        machine=line["client_machine"],
        version=line["version"],
        workload={name: _short(value) for name, value in {**measured.workload, "seed": plan.seed}.items()},
        load=line["load"],
        json=orjson.dumps(line, option=orjson.OPT_INDENT_2).decode(),
        ms=_ms,
        percent=_percent,
    )
