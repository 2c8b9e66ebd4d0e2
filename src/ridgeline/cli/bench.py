"""`ridgeline bench`: put a load on any OpenAI-compatible server and report what users would see."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ridgeline.cli import bench_options as options
from ridgeline.cli.config import Config
from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.params import DEFAULT_URL, ApiKey, Json, Url, client_headers, no_server, server_url

if TYPE_CHECKING:
    from ridgeline.bench.measure import Measured, Plan
    from ridgeline.bench.profiles import Profile
    from ridgeline.bench.saturation import Step
    from ridgeline.bench.work import Source

_CONVERSATIONS = 32


def bench(
    url: Url = DEFAULT_URL,
    model: options.Model = None,
    concurrency: options.Concurrency = None,
    rate: options.Rate = None,
    conversations: options.Conversations = None,
    duration: options.Duration = None,
    warmup: options.Warmup = 2,
    workload: options.Workload = None,
    trace: options.TraceFile = None,
    trace_scale: options.TraceScale = 1.0,
    speed_up: options.SpeedUp = 1.0,
    context: options.Context = None,
    turns: options.Turns = None,
    system_tokens: options.SystemTokens = None,
    input_tokens: options.InputTokens = None,
    output_tokens: options.OutputTokens = None,
    ignore_eos: options.IgnoreEos = None,
    prompts: options.Prompts = None,
    think: options.Think = None,
    ramp: options.Ramped = False,
    ramp_factor: options.RampFactor = 1.5,
    ramp_seconds: options.RampSeconds = 30.0,
    ramp_steps: options.RampSteps = 12,
    temperature: options.Temperature = 0.0,
    ttft_target: options.TtftTarget = None,
    itl_target: options.ItlTarget = None,
    seed: options.Seed = 0,
    timeout: options.Timeout = 600.0,
    html: options.Html = None,
    api_key: ApiKey = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Measure an OpenAI-compatible server: TTFT, ITL, throughput, goodput.

    Prints a table, then one line of JSON (that line alone with --json); --html writes a page with plots.

    \b
    Examples:
      ridgeline bench --concurrency 16
      ridgeline bench --rate 2 --conversations 200 --ttft-target 1 --itl-target 0.1
      ridgeline bench --workload chat --concurrency 50 --duration 600 --html chat.html
      ridgeline bench --trace conversation_trace.jsonl --duration 300 --html trace.html
      ridgeline bench --workload write --rate 0.5 --ramp --ttft-target 1 --itl-target 0.05
    """
    _check(concurrency, rate, trace, prompts, workload, ramp=ramp)
    if ramp and (duration is not None or conversations is not None):
        raise typer.BadParameter(
            "steps of a ramp last --ramp-seconds: leave out --duration and --conversations"
        )
    from ridgeline.bench.measure import Plan
    from ridgeline.bench.ramp import Ramp
    from ridgeline.bench.report import Targets
    from ridgeline.bench.runner import Load
    from ridgeline.bench.work import Source
    from ridgeline.bench.workload import Shape

    shape = Shape(turns or 1, system_tokens or 0, input_tokens or 128, output_tokens or 64)
    profile = None
    if workload is not None:
        profile = _profile(workload, turns, system_tokens, input_tokens, output_tokens, think)
    source = Source(shape, profile, prompts, trace, trace_scale, speed_up, context)
    _check_speed_up(source)
    load = Load(
        conversations=conversations or (None if trace or ramp else _CONVERSATIONS),
        concurrency=None if rate is not None or trace is not None else concurrency or 8,
        rate_per_second=rate,
        warmup=warmup,
        think_seconds=think or 0.0,
        duration_seconds=duration,
        seed=seed,
    )
    lasting = ignore_eos if ignore_eos is not None else (workload or trace) is not None
    plan = Plan(
        url=server_url(url),
        load=load,
        model=model,
        source=source,
        ramp=Ramp(ramp_factor, ramp_seconds, ramp_steps) if ramp else None,
        body={"temperature": temperature, **({"ignore_eos": True} if lasting else {})},
        targets=Targets(ttft_target, itl_target),
        timeout_seconds=timeout,
        headers=client_headers(api_key),
        seed=seed,
    )
    measured = _measure(plan)
    if html is not None:
        _write_page(html, plan, measured)
    _print(plan, measured, as_json)


def _check(
    concurrency: int | None,
    rate: float | None,
    trace: Path | None,
    prompts: Path | None,
    workload: str | None,
    *,
    ramp: bool,
) -> None:
    if concurrency is not None and rate is not None:
        raise typer.BadParameter("give --concurrency (closed loop) or --rate (open loop), not both")
    if sum(given is not None for given in (trace, prompts, workload)) > 1:
        raise typer.BadParameter("give one of --workload, --trace and --prompts")
    if trace is not None and (concurrency is not None or rate is not None):
        raise typer.BadParameter(
            "a trace has its own times: leave out --concurrency and --rate (see --speed-up)"
        )
    if trace is not None and ramp:
        raise typer.BadParameter("a trace has its own times: --ramp raises --rate or --concurrency")


def _check_speed_up(source: "Source") -> None:
    if source.speed_up != 1 and source.profile is None and source.trace is None:
        raise typer.BadParameter("--speed-up is for --workload and --trace; here --think is the pause itself")


def _profile(
    name: str,
    turns: int | None,
    system_tokens: int | None,
    input_tokens: int | None,
    output_tokens: int | None,
    think_seconds: float | None,
) -> "Profile":
    from ridgeline.bench.profiles import WORKLOADS, overridden

    if name not in WORKLOADS:
        raise typer.BadParameter(f"there is no workload '{name}': known are {', '.join(WORKLOADS)}")
    return overridden(
        WORKLOADS[name],
        turns=turns,
        system_tokens=system_tokens,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        think_seconds=think_seconds,
    )


def _total(plan: "Plan") -> int | None:
    """Requests of the whole run, where that is known beforehand."""
    source = plan.asks
    if source.prompts or source.trace or source.profile or plan.load.conversations is None:
        return None
    return (plan.load.conversations + plan.load.warmup) * source.shape.turns


def _measure(plan: "Plan") -> "Measured":
    import asyncio

    import uvloop
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ridgeline.bench.client import ServerError
    from ridgeline.bench.measure import measure
    from ridgeline.bench.workload import WorkloadError

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("requests", total=_total(plan))

        def on_step(step: "Step") -> None:
            said = "saturated" if step.saturated_by else f"{step.output_tokens_per_second:,.0f} tokens/s"
            progress.console.print(f"{step.load:.3g}: {said}")

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(measure(plan, lambda record: progress.advance(task), on_step))
        except ServerError as error:
            raise no_server(plan.url, error) from error
        except WorkloadError as error:
            raise CommandFailed(str(error)) from error


def _write_page(path: Path, plan: "Plan", measured: "Measured") -> None:
    from ridgeline.bench.page import page

    try:
        path.write_text(page(plan, measured), encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}") from error


def _print(plan: "Plan", measured: "Measured", as_json: bool) -> None:
    import orjson
    from rich.console import Console

    from ridgeline.bench.measure import as_json as to_json
    from ridgeline.bench.table import render_all

    if not as_json:
        Console().print(render_all(measured))
    typer.echo(orjson.dumps(to_json(plan, measured)).decode())
    if measured.report.offered and not measured.report.completed:
        raise CommandFailed("no request was completed; the errors are listed above")
