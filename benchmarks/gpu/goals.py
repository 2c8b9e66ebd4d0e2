"""What is aimed at, and which rows it is measured on."""

from collections.abc import Callable
from dataclasses import dataclass

from gpu.bench import Record


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure to reach.

    Attributes:
        text: in words.
        table: where the figures are.
        concerns: which rows of it count.
        reached: the figure of a row.
        least: what each must reach.
    """

    text: str
    table: str
    concerns: Callable[[Record], bool]
    reached: Callable[[Record], float]
    least: float


def _decodes(model: str, least_batch: int, most_batch: int) -> Callable[[Record], bool]:
    return lambda row: row["model"] == model and row["graphs"] and least_batch <= row["batch"] <= most_batch


_8B, _1B = "llama-3.1-8b", "llama-3.2-1b"

GOALS = (
    Goal(
        "decode of the 8B model at batch 1 to 64: at least 75 % of the binding roof, which is memory",
        "decode",
        _decodes(_8B, 1, 64),
        lambda row: row["of_roof"],
        0.75,
    ),
    Goal(
        "decode of the 8B model at batch 256: at least 65 % of the binding roof",
        "decode",
        _decodes(_8B, 256, 256),
        lambda row: row["of_roof"],
        0.65,
    ),
    Goal(
        "decode of the 1B model at batch 1: at least 50 % of the memory roof",
        "decode",
        _decodes(_1B, 1, 1),
        lambda row: row["of_roof"],
        0.50,
    ),
    Goal(
        "prefill of the 8B model: at least 60 % of the measured rate of products",
        "prefill",
        lambda row: row["model"] == _8B,
        lambda row: row["of_product"],
        0.60,
    ),
    Goal(
        "the host is hidden for the 8B model: a step takes at most 5 % longer than the device is at it",
        "decode",
        lambda row: row["model"] == _8B and row["graphs"],
        lambda row: row["device_seconds"] / row["step_seconds"],
        1 / 1.05,
    ),
    Goal(
        "under the load: at least 3 times transformers' continuous batching",
        "ratio",
        lambda row: True,
        lambda row: row["ratio"],
        3.0,
    ),
)


def verdicts(tables: dict[str, list[Record]]) -> list[Record]:
    """Each goal with the least figure of all rows that it concerns; None where nothing was measured."""
    found = []
    for goal in GOALS:
        figures = [goal.reached(row) for row in tables.get(goal.table, []) if goal.concerns(row)]
        least = min(figures) if figures else None
        met = None if least is None else least >= goal.least
        row = {"goal": goal.text, "rows": len(figures), "least": least, "wanted": goal.least, "met": met}
        found.append(row)
    return found
