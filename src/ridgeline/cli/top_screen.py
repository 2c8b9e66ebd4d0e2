"""What `ridgeline top` draws: a verdict and a dozen lines per model, for 80 columns and more."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ridgeline.cli.figures import bar, count, labels, percent, seconds

Live = Mapping[str, Any]

_COLOURS = {"idle": "dim", "kv_capacity": "yellow", "host": "yellow", "launch": "yellow", "link": "red"}
_RESOURCES = {
    "compute": "arithmetic",
    "memory_bandwidth": "reading memory",
    "kv_capacity": "KV full",
    "host": "host",
    "launch": "launching",
    "link": "links",
    "idle": "nothing to do",
}
_LIMITS = {"kv": "KV full", "slots": "slots full", "latency": "too slow"}
_FORESEEN = {
    "step": "steps",
    "time_to_first_token": "first token",
    "cached_tokens": "cached tokens",
    "wait": "waits",
}
_WAYS = {"lru": "LRU", "no tiers": "without tiers it"}
_RESULTS = ("hit", "cold", "evicted", "short")
_NOT_REFUSED = ("stop", "length", "cancelled", "failed")


def frame(url: str, models: Mapping[str, Live], problem: str | None = None) -> RenderableType:
    """Everything, with what is wrong with the connection above it."""
    parts: list[RenderableType] = []
    if problem:
        parts.append(Text(f"{problem} These are the last figures; trying again.", style="bold yellow"))
    if not models:
        parts.append(Text(f"{url} serves no model yet."))
    for name, live in models.items():
        title = Text.assemble((name, "bold"), (f"  {url}  {time.strftime('%H:%M:%S')}", "dim"))
        parts += [Rule(title, align="left", style="dim"), _verdict(live), _figures(live)]
    return Group(*parts)


def _verdict(live: Live) -> RenderableType:
    verdict = live["verdict"]
    colour = _COLOURS.get(verdict["resource"], "green")
    return Group(
        Text(verdict["headline"], style=f"bold {colour}"),
        Text(verdict["reason"]),
        Text.assemble(("What would help: ", "bold"), verdict["advice"]),
    )


def _figures(live: Live) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, words in (
        ("pace", _pace(live)),
        ("batch", _batch(live)),
        ("room", _room(live)),
        ("KV", _kv(live)),
        ("prompts", _prompts(live)),
        ("device", _device(live)),
        ("speed", _speed(live)),
        ("requests", _requests(live)),
        ("foreseen", _foreseen(live)),
    ):
        if words:
            table.add_row(name, words)
    return Padding(table, (1, 0, 0, 0))


def _pace(live: Live) -> str:
    spent = labels(live["recent"]["counters"], "bound_seconds_total")
    total = sum(spent.values())
    shares = [(_RESOURCES.get(name, name), value / total) for name, value in spent.items() if value]
    return _joined(f"{name} {percent(share)}" for name, share in shares if share >= 0.005)


def _batch(live: Live) -> str:
    values = live["values"]
    tokens = count(values.get("ridgeline_batch_tokens", 0))
    allowed = values.get("ridgeline_step_limit_tokens")
    words = [
        f"{count(values.get('ridgeline_batch_size', 0))} answers in a step",
        f"{tokens} of {count(allowed)} tokens" if allowed else f"{tokens} tokens",
    ]
    if "ridgeline_ridge_batch_sequences" in values:
        ridge = values["ridgeline_ridge_batch_sequences"]
        words.append("ridge out of reach" if ridge is None else f"ridge at {count(ridge)}")
    return _joined(words)


def _room(live: Live) -> Text | None:
    room = labels(live["values"], "headroom_sequences")
    known = {what: room[what] for what in _LIMITS if what in room}
    if not known:
        return None
    first = min(known, key=lambda what: known[what])
    words = Text()
    for what, more in known.items():
        words.append(f"{count(more)} until {_LIMITS[what]}", style="bold yellow" if what == first else "")
        words.append(" (first)   " if what == first else "   ")
    return words


def _kv(live: Live) -> str:
    held, idle = (labels(live["values"], f"kv_{what}_ratio") for what in ("utilization", "idle"))
    lines = []
    for tier, share in held.items():
        kept = idle.get(tier, 0.0)
        free = max(0.0, 1 - share - kept)
        lines.append(
            f"{bar([(share, '█'), (kept, '▒'), (free, '·')])} "
            f"{f'{tier}: ' if len(held) > 1 else ''}"
            f"running {percent(share)}, idle {percent(kept)}, free {percent(free)}"
        )
    return "\n".join(lines)


def _prompts(live: Live) -> str:
    recent = live["recent"]["counters"]
    tokens = labels(recent, "prefix_tokens_total")
    total = sum(tokens.values())
    if not total:
        return "none came in the last minute"
    shares = ", ".join(f"{name} {percent(tokens.get(name, 0) / total)}" for name in _RESULTS)
    again = f"{shares}; reading again took {seconds(recent['ridgeline_recompute_seconds_total'])}"
    return "\n".join([again, *_saved(live)])


def _saved(live: Live) -> list[str]:
    saved = live.get("saved")
    if not saved:
        return []
    words = [f"saved {seconds(saved['live'])} of computing in the last {seconds(saved['span_seconds'])}"]
    words += [f"{_WAYS.get(name, name)} would have {seconds(each)}" for name, each in saved["others"].items()]
    if saved["best"] is not None:
        words.append(f"best possible {seconds(saved['best'])}")
    return ["; ".join(words)]


def _device(live: Live) -> Text:
    values = live["values"]
    words = Text(f"busy {percent(values.get('ridgeline_device_busy_ratio', 0.0))}")
    intensity, ridge = (values.get(f"ridgeline_{name}") for name in ("arithmetic_intensity", "ridge_point"))
    if intensity and ridge:
        style = "bold yellow" if live["verdict"]["is_busy_but_empty"] else ""
        words.append("   ").append(f"intensity {percent(intensity / ridge)} of the ridge", style=style)
    for name, label in (("flops", "arithmetic"), ("bandwidth", "memory")):
        share = values.get(f"ridgeline_{name}_utilization_ratio")
        if share is not None:
            words.append(f"   {label} {percent(share)}")
    return words


def _speed(live: Live) -> str:
    found = live["recent"]["quantiles"]
    names = {
        "first token": "time_to_first_token",
        "next": "inter_token_latency",
        "queue": "queue",
    }
    words = []
    for label, name in names.items():
        one = found.get(f"ridgeline_{name}_seconds")
        if one:
            words.append(f"{label} {seconds(one['p50'])} / {seconds(one['p95'])}")
    return f"{_joined(words)}   (half / 95% within)" if words else "nothing was answered in the last minute"


def _requests(live: Live) -> Text:
    values, span = live["values"], live["recent"]["seconds"] or 1.0
    recent = live["recent"]["counters"]
    words = Text(
        f"{count(values.get('ridgeline_requests{running}', 0))} running, "
        f"{count(values.get('ridgeline_requests{waiting}', 0))} waiting, "
        f"{count(recent['ridgeline_completion_tokens_total'] / span)} tokens/s"
    )
    outcomes = labels(recent, "requests_total")
    if outcomes.get("failed"):
        words.append(f"   {count(outcomes['failed'])} failed", style="bold red")
    refused = [
        f"{code} {count(times)}" for code, times in outcomes.items() if times and code not in _NOT_REFUSED
    ]
    if refused:
        words.append(f"   refused: {', '.join(refused)}", style="yellow")
    return words


def _foreseen(live: Live) -> Text | None:
    words = Text()
    for what, label in _FORESEEN.items():
        told = live["predictions"].get(what)
        if told is None:
            continue
        calibration = told["calibration"]
        is_bad = calibration["judgement"] == "bad"
        words.append(f"{label} {percent(calibration['median_error'])} off", "bold red" if is_bad else "")
        words.append(" PREDICTS BADLY   " if is_bad else "   ", "bold red")
    return words if words.plain else None


def _joined(words: Iterable[str]) -> str:
    return "   ".join(words)
