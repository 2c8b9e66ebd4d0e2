"""From samples to a table, ratios and shares of the machine's limits."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cpu.limits import Ceilings, Model, best_rate
from cpu.rows import Row

OURS = "Ridgeline"

Samples = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Figures by row name, contender and repetition."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def median_ceilings(measured: Sequence[Mapping[str, float]]) -> Ceilings | None:
    """Of what was measured in all repetitions; None of nothing."""
    if not measured:
        return None
    return Ceilings(**{key: statistics.median(each[key] for each in measured) for key in measured[0]})


def summaries(
    rows: Sequence[Row], samples: Samples, ceilings: Ceilings | None, model: Model | None
) -> list[dict[str, Any]]:
    """One for each row: contenders' spreads, the ratio of ours to the fastest peer, the limit."""
    found = []
    for row in rows:
        taken = samples.get(row.name, {})
        spreads = {
            name: spread([float(sample[row.metric]) for sample in each])
            for name, each in taken.items()
            if each
        }
        entry: dict[str, Any] = {"row": row.name, "metric": row.metric, "contenders": spreads}
        entry |= {"goal": row.goal, "stretch": row.stretch, "goal_seconds": row.goal_seconds}
        entry |= _ratio(row, spreads, taken)
        if ceilings is not None and model is not None:
            limit = best_rate(row, ceilings, model, _prompts(taken))
            entry["limit"] = limit
            if limit is not None and OURS in spreads:
                entry["share_of_limit"] = spreads[OURS]["median"] / limit
        entry["met"] = _met(row, entry)
        found.append(entry)
    return found


def _ratio(
    row: Row,
    spreads: Mapping[str, Mapping[str, float]],
    taken: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """Ours to the fastest peer by medians, and by the repetitions in which both have a figure."""
    peers = {name: each["median"] for name, each in spreads.items() if name != OURS}
    if not peers:
        return {}
    best = (min if row.less_is_better else max)(peers, key=lambda name: peers[name])
    if OURS not in spreads:
        return {"fastest_peer": best}
    theirs = {sample["repetition"]: sample[row.metric] for sample in taken[best]}
    pairs = [
        sample[row.metric] / theirs[sample["repetition"]]
        for sample in taken[OURS]
        if sample["repetition"] in theirs
    ]
    ratio = spreads[OURS]["median"] / peers[best]
    return {"fastest_peer": best, "ratio": ratio} | (
        {"ratio_least": min(pairs), "ratio_most": max(pairs)} if pairs else {}
    )


def _prompts(taken: Mapping[str, Sequence[Mapping[str, Any]]]) -> Sequence[float]:
    for each in taken.values():
        for sample in each:
            if sample.get("prompt_tokens"):
                lengths: Sequence[float] = sample["prompt_tokens"]
                return lengths
    return ()


def _met(row: Row, entry: Mapping[str, Any]) -> bool | None:
    if row.goal_seconds is not None:
        ours = entry["contenders"].get(OURS)
        return None if ours is None else bool(ours["median"] < row.goal_seconds)
    if row.goal is None or "ratio" not in entry:
        return None
    return bool(entry["ratio"] <= row.goal if row.less_is_better else entry["ratio"] >= row.goal)


def figure(value: float, seconds: bool) -> str:
    """Three digits or so."""
    if seconds:
        return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def goal_text(entry: Mapping[str, Any]) -> str:
    """As it stands in the tables."""
    if entry["goal_seconds"] is not None:
        return f"under {entry['goal_seconds']:g} s"
    if entry["goal"] is None:
        return ""
    if entry["metric"].endswith("_seconds"):
        return f"at most {entry['goal']:g}x"
    return f"{entry['goal']:g}x" + (f" ({entry['stretch']:g}x)" if entry["stretch"] else "")


def table(found: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Markdown: medians with least and most, the ratio, the goal, the limit and the share of it."""
    head = ["row", *names, "ratio", "goal", "met", "limit", "reached"]
    lines = [head, ["---"] * len(head)]
    for entry in found:
        seconds = entry["metric"].endswith("_seconds")
        cells = [entry["row"] + (", s" if seconds else "")]
        for name in names:
            each = entry["contenders"].get(name)
            cells.append(_cell(each, seconds) if each else "-")
        ratio = entry.get("ratio")
        cells.append("-" if ratio is None else f"{ratio:.2f}x" + _range(entry))
        cells.append(goal_text(entry))
        cells.append({True: "yes", False: "no", None: ""}[entry["met"]])
        limit, share = entry.get("limit"), entry.get("share_of_limit")
        cells.append("" if limit is None else figure(limit, seconds))
        cells.append("" if share is None else f"{share:.0%}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cell(each: Mapping[str, float], seconds: bool) -> str:
    middle = figure(each["median"], seconds)
    if each["least"] == each["most"]:
        return middle
    return f"{middle} ({figure(each['least'], seconds)} to {figure(each['most'], seconds)})"


def _range(entry: Mapping[str, Any]) -> str:
    if "ratio_least" not in entry or entry["ratio_least"] == entry["ratio_most"]:
        return ""
    return f" ({entry['ratio_least']:.2f} to {entry['ratio_most']:.2f})"
