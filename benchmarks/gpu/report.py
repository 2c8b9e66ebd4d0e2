"""From rows to fractions of what was measured of the device, tables, and one line of JSON."""

from collections.abc import Callable, Sequence
from typing import Any

from gpu.bench import Record
from gpu.floors import CEILINGS
from gpu.goals import verdicts
from gpu.parts import Outcome

Tables = dict[str, list[Record]]
Column = tuple[str, Callable[[Record], str]]


def tables_of(outcomes: Sequence[Outcome]) -> Tables:
    """Rows of all parts by table, with what only all of them together tell."""
    tables: Tables = {}
    for outcome in outcomes:
        for table, row in outcome.rows:
            tables.setdefault(table, []).append(dict(row))
    _relate_to_ceilings(tables)
    _compare_engines(tables)
    tables["goals"] = verdicts(tables)
    return tables


def failed_checks(tables: Tables) -> list[str]:
    """Of correctness, in words."""
    return [
        f"{row['model']} {row['dtype']} {row['check']}: {row['error']:.3g}, at most {row['limit']:.3g}"
        for row in tables.get("correctness", [])
        if not row["ok"]
    ]


def _relate_to_ceilings(tables: Tables) -> None:
    """Fractions of the faster of copying and reading, and of the product; the data sheet's if missing."""
    sheet = CEILINGS[0]
    rates = {row["what"]: row["rate"] for row in tables.get("ceilings", [])}
    memory = [rate for what, rate in rates.items() if not what.startswith("product")]
    products = [rate for what, rate in rates.items() if what.startswith("product")]
    moved = max(memory, default=sheet.bytes_per_second)
    computed = max(products, default=sheet.flops_per_second)
    tables["roofs"] = [
        {"what": "bytes per second", "rate": moved, "measured": bool(memory)},
        {"what": "FLOP per second", "rate": computed, "measured": bool(products)},
    ]
    for row in [*tables.get("decode", []), *tables.get("prefill", [])]:
        by_memory, by_product = row["bytes"] / moved, row["flops"] / computed
        row["of_memory"] = by_memory / row["step_seconds"]
        row["of_product"] = by_product / row["step_seconds"]
        row["bound_by"] = "memory" if by_memory >= by_product else "product"
        row["of_roof"] = max(row["of_memory"], row["of_product"])
        if "host_seconds" in row:
            row["host_hidden"] = row["step_seconds"] <= 1.05 * row["device_seconds"]


def _compare_engines(tables: Tables) -> None:
    rows = {row["engine"]: row for row in tables.get("load", []) if row["round"] == "measured"}
    ours = rows.pop("Ridgeline", None)
    for engine, row in rows.items():
        if ours is None:
            continue
        pairs = zip(ours["first_tokens"], row["first_tokens"], strict=True)
        equal = [a == b for a, b in pairs if b is not None]
        tables.setdefault("ratio", []).append(
            {
                "than": engine,
                "ratio": ours["output_tokens_per_second"] / row["output_tokens_per_second"],
                "same_first_token": sum(equal) / len(equal) if equal else None,
            }
        )


def _text(key: str) -> Callable[[Record], str]:
    return lambda row: str(row.get(key, "-"))


def _number(key: str, factor: float = 1.0, digits: int = 1) -> Callable[[Record], str]:
    def show(row: Record) -> str:
        value: Any = row.get(key)
        return "-" if value is None else f"{value * factor:,.{digits}f}"

    return show


def _yes(key: str) -> Callable[[Record], str]:
    return lambda row: {True: "yes", False: "NO", None: "not measured"}[row.get(key)]


COLUMNS: dict[str, tuple[str, tuple[Column, ...]]] = {
    "correctness": (
        "Correctness: relative errors, or shares of other tokens",
        (
            ("model", _text("model")),
            ("dtype", _text("dtype")),
            ("check", _text("check")),
            ("error", lambda row: f"{row['error']:.2e}"),
            ("at most", lambda row: f"{row['limit']:.0e}"),
            ("passes", _yes("ok")),
        ),
    ),
    "ceilings": (
        "Ceilings of the device: medians",
        (
            ("what", _text("what")),
            ("unit", _text("unit")),
            ("10^12 per second", _number("rate", 1e-12, 3)),
            ("best", _number("best", 1e-12, 3)),
            ("worst", _number("worst", 1e-12, 3)),
        ),
    ),
    "decode": (
        "Decode, one step ahead, scheduler and engine included",
        (
            ("model", _text("model")),
            ("graphs", _yes("graphs")),
            ("batch", _text("batch")),
            ("context", _text("context")),
            ("step ms", _number("step_seconds", 1e3, 3)),
            ("device ms", _number("device_seconds", 1e3, 3)),
            ("host ms", _number("host_seconds", 1e3, 3)),
            ("host hidden", _yes("host_hidden")),
            ("tokens/s", _number("tokens_per_second", 1, 0)),
            ("GB a step", _number("bytes", 1e-9, 2)),
            ("% of memory", _number("of_memory", 100)),
            ("% of product", _number("of_product", 100)),
            ("bound by", _text("bound_by")),
            ("% of roof", _number("of_roof", 100)),
        ),
    ),
    "prefill": (
        "Prefill, one prompt alone",
        (
            ("model", _text("model")),
            ("tokens", _text("tokens")),
            ("step ms", _number("step_seconds", 1e3, 2)),
            ("device ms", _number("device_seconds", 1e3, 2)),
            ("tokens/s", _number("tokens_per_second", 1, 0)),
            ("TFLOP", _number("flops", 1e-12, 2)),
            ("% of product", _number("of_product", 100)),
        ),
    ),
    "load": (
        "Load: conversations at once after one system prompt",
        (
            ("engine", _text("engine")),
            ("model", _text("model")),
            ("round", _text("round")),
            ("conversations", _text("conversations")),
            ("output tokens", _text("output_tokens")),
            ("output tokens/s", _number("output_tokens_per_second", 1, 0)),
            ("first token p50 s", _number("first_token_p50_seconds", 1, 3)),
            ("p99 s", _number("first_token_p99_seconds", 1, 3)),
            ("largest batch", _text("largest_batch")),
            ("cached tokens", _text("cached_tokens")),
            ("attention", _text("attention")),
            ("finished", _text("finished")),
        ),
    ),
    "ratio": (
        "Ridgeline against others under the same load",
        (
            ("than", _text("than")),
            ("times as fast", _number("ratio", 1, 2)),
            ("% same first token", _number("same_first_token", 100)),
        ),
    ),
    "kernels": (
        "Where the time goes",
        (
            ("step", _text("step")),
            ("kernel", lambda row: row["kernel"][:72]),
            ("calls", _number("calls")),
            ("microseconds", _number("microseconds")),
            ("%", _number("share", 100)),
        ),
    ),
    "goals": (
        "Goals",
        (
            ("goal", _text("goal")),
            ("rows", _text("rows")),
            ("least reached", _number("least", 1, 3)),
            ("wanted", _number("wanted", 1, 3)),
            ("met", _yes("met")),
        ),
    ),
    "cut": ("Not measured: the time was up", (("what", _text("what")),)),
}


def markdown(tables: Tables) -> str:
    """All tables that have rows."""
    parts = []
    for name, (title, columns) in COLUMNS.items():
        rows = tables.get(name)
        if not rows:
            continue
        lines = [" | ".join(head for head, _ in columns), " | ".join("---" for _ in columns)]
        lines += [" | ".join(show(row).replace("|", "/") for _, show in columns) for row in rows]
        parts.append(f"## {title}\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n")
    return "\n".join(parts)
