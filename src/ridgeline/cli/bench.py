"""`ridgeline bench`: put a load on any OpenAI-compatible server and report what users would see."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.config import Config
from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.params import DEFAULT_URL, ApiKey, Json, Url, client_headers, no_server, option, server_url

if TYPE_CHECKING:
    from ridgeline.bench.measure import Measured, Plan


def bench(
    url: Url = DEFAULT_URL,
    model: Annotated[
        str | None, option("--model", "Model to ask; the server's first if not given.", metavar="NAME")
    ] = None,
    concurrency: Annotated[
        int | None,
        option(
            "--concurrency", "Closed loop: this many users at once (8 unless --rate).", metavar="USERS", min=1
        ),
    ] = None,
    rate: Annotated[
        float | None,
        option(
            "--rate",
            "Open loop: conversations begun per second, at Poisson times.",
            metavar="PER_SECOND",
            min=0.001,
        ),
    ] = None,
    conversations: Annotated[
        int, option("--conversations", "How many are measured.", metavar="N", min=1)
    ] = 32,
    duration: Annotated[
        float | None,
        option("--duration", "Begin no conversation after this many seconds.", metavar="SECONDS", min=0.1),
    ] = None,
    warmup: Annotated[
        int, option("--warmup", "Conversations run first and in no figure.", metavar="N", min=0)
    ] = 2,
    turns: Annotated[int, option("--turns", "Questions in each conversation.", metavar="N", min=1)] = 1,
    system_tokens: Annotated[
        int,
        option(
            "--system-tokens",
            "About this many tokens of system prompt, the same for all.",
            metavar="N",
            min=0,
        ),
    ] = 0,
    input_tokens: Annotated[
        int, option("--input-tokens", "About this many in each question.", metavar="N", min=1)
    ] = 128,
    output_tokens: Annotated[
        int, option("--output-tokens", "At most this many in each answer.", metavar="N", min=1)
    ] = 64,
    ignore_eos: Annotated[
        bool, option("--ignore-eos", "Make every answer as long as allowed (vLLM's parameter, and ours).")
    ] = False,
    prompts: Annotated[
        Path | None,
        option("--prompts", "JSON lines with 'prompt' or 'messages', instead of made ones.", metavar="FILE"),
    ] = None,
    think: Annotated[
        float, option("--think", "Seconds from an answer to the next question.", metavar="SECONDS", min=0)
    ] = 0.0,
    temperature: Annotated[float, option("--temperature", "0 is greedy.", metavar="T", min=0)] = 0.0,
    ttft_target: Annotated[
        float | None,
        option("--ttft-target", "Seconds; part of goodput.", metavar="SECONDS", min=0, show_default=False),
    ] = None,
    itl_target: Annotated[
        float | None,
        option(
            "--itl-target",
            "Seconds per token; part of goodput.",
            metavar="SECONDS",
            min=0,
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, option("--seed", "Of questions and arrival times.", metavar="N")] = 0,
    timeout: Annotated[
        float, option("--timeout", "Seconds until a request has failed.", metavar="SECONDS", min=1)
    ] = 600.0,
    api_key: ApiKey = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Measure an OpenAI-compatible server: TTFT, ITL, throughput, goodput.

    Prints a table, then one line of JSON (that line alone with --json).

    \b
    Examples:
      ridgeline bench --concurrency 16
      ridgeline bench --rate 2 --conversations 200 --ttft-target 1 --itl-target 0.1
      ridgeline bench --concurrency 16 --turns 3 --system-tokens 360 --input-tokens 40 --output-tokens 48
    """
    if concurrency is not None and rate is not None:
        raise typer.BadParameter("give --concurrency (closed loop) or --rate (open loop), not both")
    from ridgeline.bench.measure import Plan
    from ridgeline.bench.report import Targets
    from ridgeline.bench.runner import Load
    from ridgeline.bench.workload import Shape

    load = Load(
        conversations=conversations,
        concurrency=None if rate is not None else concurrency or 8,
        rate_per_second=rate,
        warmup=warmup,
        think_seconds=think,
        duration_seconds=duration,
        seed=seed,
    )
    plan = Plan(
        url=server_url(url),
        load=load,
        model=model,
        shape=Shape(turns, system_tokens, input_tokens, output_tokens),
        prompts=prompts,
        body={"temperature": temperature, **({"ignore_eos": True} if ignore_eos else {})},
        targets=Targets(ttft_target, itl_target),
        timeout_seconds=timeout,
        headers=client_headers(api_key),
        seed=seed,
    )
    _print(plan, _measure(plan), as_json)


def _measure(plan: "Plan") -> "Measured":
    import asyncio

    import uvloop
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ridgeline.bench.client import ServerError
    from ridgeline.bench.measure import measure
    from ridgeline.bench.workload import WorkloadError

    turns = plan.shape.turns if plan.prompts is None else None
    total = turns and (plan.load.conversations + plan.load.warmup) * turns
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("requests", total=total)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(measure(plan, lambda record: progress.advance(task)))
        except ServerError as error:
            raise no_server(plan.url, error) from error
        except WorkloadError as error:
            raise CommandFailed(str(error)) from error


def _print(plan: "Plan", measured: "Measured", as_json: bool) -> None:
    import orjson
    from rich.console import Console

    from ridgeline.bench.measure import as_json as to_json
    from ridgeline.bench.table import render

    if not as_json:
        Console().print(render(measured.report))
    typer.echo(orjson.dumps(to_json(plan, measured)).decode())
    if measured.report.offered and not measured.report.completed:
        raise CommandFailed("no request was completed; the errors are listed above")
