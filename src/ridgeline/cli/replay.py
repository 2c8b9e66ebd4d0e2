"""`ridgeline replay`: a recorded trace through KV caches of several sizes and policies."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.config import Config
from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.figures import count
from ridgeline.cli.params import ENV_PREFIX, Json, option

if TYPE_CHECKING:
    from ridgeline.bench.trace import TraceRequest
    from ridgeline.roofline import ModelShape
    from ridgeline.simulate.replay import Part, Policy, Replay, Seconds

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


def parse_rooms(text: str) -> tuple[int, ...]:
    """Tokens of `1M,3M,500k`."""
    rooms = []
    for word in text.split(","):
        number = word.strip().lower()
        unit = number[-1:] if number[-1:] in "kmg" else ""
        try:
            rooms.append(round(float(number.removesuffix(unit)) * _UNITS[unit]))
        except (ValueError, OverflowError):
            raise typer.BadParameter(f"'{word}' is no number of tokens: write it like 500k or 3M") from None
        if rooms[-1] < 512:
            raise typer.BadParameter(f"'{word}' has no room for a block of 512 tokens")
    return tuple(rooms)


def parse_policies(text: str) -> "tuple[Policy, ...]":
    """Names of `lru,price,optimal`."""
    from ridgeline.simulate.replay import POLICIES

    named: list[Policy] = []
    for word in text.split(","):
        found = next((policy for policy in POLICIES if policy == word.strip().lower()), None)
        if found is None:
            raise typer.BadParameter(f"there is no policy '{word.strip()}': known are {', '.join(POLICIES)}")
        named.append(found)
    return tuple(named)


def parse_part(text: str) -> "Part":
    """Shares of `50-100`."""
    from ridgeline.simulate.replay import Part

    begin, _, end = text.partition("-")
    try:
        part = Part(float(begin) / 100, float(end) / 100)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no part: write it like 50-100, in percent") from None
    if not 0 <= part.begin < part.end <= 1:
        raise typer.BadParameter(f"'{text}' must go from 0 or more to more, at most 100")
    return part


def replay(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE", envvar=f"{ENV_PREFIX}TRACE", help="JSON lines as Mooncake's.")
    ],
    room: Annotated[
        str, option("--room", "Sizes of the cache in tokens, with commas: 500k, 1M.", metavar="TOKENS")
    ] = "1M,3M,10M,50M",
    policy: Annotated[
        str, option("--policy", "lru, price, optimal, with commas.", metavar="NAMES")
    ] = "lru,price,optimal",
    model: Annotated[
        str, option("--model", "Whose costs: a name, or a config.json.", metavar="MODEL")
    ] = "llama-3.1-8b",
    hardware: Annotated[str, option("--hardware", "What it runs on.", metavar="NAME")] = "h100",
    dtype: Annotated[str, option("--dtype", "Of arithmetic.", metavar="DTYPE")] = "bfloat16",
    part: Annotated[
        str,
        option(
            "--part",
            "Percent of the trace's time that results are for; policies see all of it.",
            metavar="FROM-TO",
        ),
    ] = "0-100",
    skip_bad_lines: Annotated[
        bool, option("--skip-bad-lines", "Leave out lines that are no requests, instead of ending.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Tell what a prefix cache would have saved on recorded requests, by its size and policy.

    A policy learns from the trace as it goes. `optimal` knows the future: no policy finds more blocks.

    \b
    Examples:
      ridgeline replay conversation_trace.jsonl
      ridgeline replay conversation_trace.jsonl --room 500k,2M --policy lru,price
      ridgeline replay conversation_trace.jsonl --part 50-100 --json
      ridgeline replay conversation_trace.jsonl --model qwen3-32b --hardware b200
    """
    rooms, policies, told = parse_rooms(room), parse_policies(policy), parse_part(part)
    recompute = _recompute(model, hardware, dtype)
    requests, skipped = _read(trace, skip_bad_lines)
    results = _replay(requests, policies, rooms, recompute, told)
    if as_json:
        import orjson

        body = {
            "trace": str(trace),
            "model": model,
            "hardware": hardware,
            "dtype": dtype,
            "part": [told.begin, told.end],
            "requests": len(told.of(requests)),
            "skipped_lines": skipped,
            "results": [asdict(r) | {"saved_over_lru": _over_lru(r, results)} for r in results],
        }
        typer.echo(orjson.dumps(body).decode())
    else:
        _print(results, len(told.of(requests)), f"{model} on {hardware}")


def _shape(model: str) -> "ModelShape":
    from ridgeline.models.errors import ModelError
    from ridgeline.roofline import find_shape

    if model.endswith(".json") or Path(model).is_dir():
        from ridgeline.models.config_readers import config_from_json
        from ridgeline.models.json_files import read_json

        path = Path(model) / "config.json" if Path(model).is_dir() else Path(model)
        try:
            return config_from_json(read_json(path), str(path)).shape()
        except ModelError as error:
            raise typer.BadParameter(f"--model: {error}") from error
    try:
        return find_shape(model)
    except ValueError as error:
        raise typer.BadParameter(f"--model: {error}; or give a config.json") from error


def _recompute(model: str, hardware: str, dtype: str) -> "Seconds":
    from ridgeline.bench.trace import BLOCK_TOKENS
    from ridgeline.roofline import find_hardware, recompute_seconds

    shape = _shape(model)
    try:
        device = find_hardware(hardware)
        device.peak_flops(dtype)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    def of_block(position: int) -> float:
        start = position * BLOCK_TOKENS
        return recompute_seconds(shape, device, dtype, start_token=start, tokens=BLOCK_TOKENS)

    return of_block


def _read(path: Path, skip_bad_lines: bool) -> "tuple[list[TraceRequest], int]":
    from ridgeline.bench.trace import read_trace
    from ridgeline.bench.workload import WorkloadError

    bad: list[WorkloadError] = []
    try:
        requests = read_trace(path, bad.append if skip_bad_lines else None)
    except WorkloadError as error:
        raise CommandFailed(str(error)) from error
    if bad:
        typer.echo(f"{len(bad)} lines left out; the first: {bad[0]}", err=True)
    if not any(request.hash_ids for request in requests):
        raise CommandFailed(f"{path} has no 'hash_ids', by which prompts with a common beginning are known")
    return requests, len(bad)


def _replay(
    requests: "list[TraceRequest]",
    policies: "tuple[Policy, ...]",
    rooms: tuple[int, ...],
    recompute: "Seconds",
    part: "Part",
) -> "list[Replay]":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from ridgeline.simulate.replay import replay as run

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replay", total=len(requests) * len(rooms) * len(policies))
        for tokens in rooms:
            for name in policies:
                progress.update(task, description=f"{name} {count(tokens)}")
                results.append(
                    run(requests, name, tokens, recompute, part, lambda done: progress.advance(task, done))
                )
    return results


def _over_lru(result: "Replay", results: "list[Replay]") -> float | None:
    for other in results:
        if other.policy == "lru" and other.room_tokens == result.room_tokens and other.saved_seconds:
            return result.saved_seconds / other.saved_seconds
    return None


def _print(results: "list[Replay]", requests: int, costs: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{requests:,} requests, {costs}", title_justify="left")
    for name in ("room, tokens", "policy", "blocks hit", "saved", "over LRU"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for i, result in enumerate(results):
        over = _over_lru(result, results)
        last = i + 1 == len(results) or results[i + 1].room_tokens != result.room_tokens
        table.add_row(
            count(result.room_tokens),
            result.policy,
            f"{result.hit_ratio:.1%}",
            f"{result.saved_seconds:,.0f} s",
            "-" if over is None else f"{over:.2f} x",
            end_section=last,
        )
    Console().print(table)
