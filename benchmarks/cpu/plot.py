"""A bar chart of the rows as SVG: how fast each contender is beside the fastest peer of its row."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cpu.report import figure

WIDTH, LABELS, MARGIN = 760, 150, 16
"""Pixels: of all, of the names of rows, at the right edge."""

BAR, GAP, ROW_GAP, TOP = 13, 2, 14, 54

COLOURS = ("#2563eb", "#94a3b8", "#cbd5e1", "#d6b98c", "#b7c9a8")
"""Ours first."""

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2937; }
.value { font-size: 11px; } .axis { fill: #6b7280; font-size: 11px; }
line { stroke: #e5e7eb; } .goal { stroke: #dc2626; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e5e7eb; } .axis { fill: #9ca3af; } line { stroke: #374151; } .goal { stroke: #f87171; }
}
"""


def _is_time(row: Mapping[str, Any]) -> bool:
    return bool(row["metric"].endswith("_seconds"))


def speeds(row: Mapping[str, Any]) -> dict[str, float]:
    """Each contender's speed divided by the fastest peer's; of times, the inverse."""
    if "fastest_peer" not in row:
        return {}
    medians = {name: float(found["median"]) for name, found in row["contenders"].items()}
    base = medians[row["fastest_peer"]]
    return {name: base / value if _is_time(row) else value / base for name, value in medians.items()}


def goal_speed(row: Mapping[str, Any]) -> float | None:
    """Where the goal lies on the same axis."""
    if row["goal"] is None:
        return None
    return 1 / row["goal"] if _is_time(row) else float(row["goal"])


def _ticks(most: float) -> list[float]:
    step = next(step for step in (0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 1e9) if most / step <= 8)
    return [step * number for number in range(int(most / step) + 1)]


class _Chart:
    """Gathers the elements from top to bottom."""

    def __init__(self, contenders: Sequence[str], most: float) -> None:
        self.contenders = contenders
        self.scale = (WIDTH - LABELS - MARGIN - 90) / most  # room for a value beside the longest bar
        self.elements: list[str] = []
        self.y = TOP

    def x(self, speed: float) -> float:
        return LABELS + speed * self.scale

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        self.elements.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def upright(self, x: float, top: float, bottom: float, kind: str = "") -> None:
        self.elements.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" class="{kind}"/>'
        )

    def grid(self, ticks: Sequence[float]) -> None:
        """Behind all there is so far."""
        bars, self.elements = self.elements, []
        for tick in ticks:
            self.upright(self.x(tick), TOP - 6, self.y)
            self.text(self.x(tick), TOP - 10, f"{tick:g}", "axis", "middle")
            self.text(self.x(tick), self.y + 14, f"{tick:g}", "axis", "middle")
        self.text(LABELS, self.y + 30, "times as fast as the fastest peer", "axis")
        self.elements += bars
        self.y += 40

    def legend(self) -> None:
        x = float(LABELS)
        for name, colour in zip(self.contenders, COLOURS, strict=False):
            self.elements.append(f'<rect x="{x:.1f}" y="10" width="11" height="11" fill="{colour}"/>')
            self.text(x + 16, 20, name)
            x += 34 + 7 * len(name)
        self.upright(x, 9, 22, "goal")
        self.text(x + 8, 20, "goal")

    def row(self, row: Mapping[str, Any]) -> None:
        found = speeds(row)
        top = self.y
        for name, colour in zip(self.contenders, COLOURS, strict=False):
            if name not in found:
                continue
            width = found[name] * self.scale
            self.elements.append(
                f'<rect x="{LABELS}" y="{self.y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'
            )
            shown = figure(row["contenders"][name]["median"], _is_time(row)) + " s" * _is_time(row)
            self.text(self.x(found[name]) + 4, self.y + BAR - 3, shown, "value")
            self.y += BAR + GAP
        self.text(LABELS - 8, (top + self.y - GAP) / 2 + 4, row["row"], anchor="end")
        goal = goal_speed(row)
        if goal is not None:
            self.upright(self.x(goal), top - 2, self.y, "goal")
        self.y += ROW_GAP


def bar_chart(record: Mapping[str, Any]) -> str:
    """The SVG of a result, of all rows in which a peer was measured; see `compare.py` for its form."""
    rows = [row for row in record["rows"] if "fastest_peer" in row]
    reach = [max(*speeds(row).values(), goal_speed(row) or 0.0) for row in rows]
    chart = _Chart(list(record["contenders"]), max(reach, default=1.0))
    chart.legend()
    for row in rows:
        chart.row(row)
    chart.grid(_ticks(max(reach, default=1.0)))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {chart.y}" role="img">',
            f"<style>{STYLE}</style>",
            *chart.elements,
            "</svg>\n",
        ]
    )
