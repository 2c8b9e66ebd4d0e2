"""Plots as inline SVG: small, without scripts, in the colours of the page around them.

Drawn for a column some 360 px wide, so that the letters stay readable on a phone. Colours are classes
(`s1`, `s2`, `bad`), which the page defines for light and dark.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

WIDTH, HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 38
MAX_MARKS = 800

Point = tuple[float, float]
Colour = Literal["s1", "s2", "bad"]


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind.

    Attributes:
        points: x and y.
        kind: `dots`; `line` through them; `steps`, which hold until the next; `marked`, both.
        name: in the legend; empty for none.
        colour: class of the mark.
    """

    points: Sequence[Point]
    kind: Literal["dots", "line", "steps", "marked"] = "line"
    name: str = ""
    colour: Colour = "s1"


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight line across the plot at one x or y, with its name."""

    at: float
    name: str
    vertical: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot.

    Attributes:
        title: what it shows.
        x_label: with its unit.
        y_label: with its unit.
        series: in the order in which they are drawn.
        rules: targets, knees.
        log_x: logarithmic; all x must be above 0.
        y_from: where the y axis begins.
        y_to: where it ends at least; None for what the points need.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    rules: Sequence[Rule] = field(default_factory=tuple)
    log_x: bool = False
    y_from: float = 0.0
    y_to: float | None = None


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high` or the next above, some `about` of them."""
    if high <= low:
        high = low + 1
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around both, with their 2 and 5 folds where they span few."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    every = [factor * 10.0**power for power in range(first, max(last, first + 1) + 1) for factor in factors]
    begin = max((number for number, tick in enumerate(every) if tick <= low * 1.001), default=0)
    end = next((number for number, tick in enumerate(every) if tick >= high * 0.999), len(every) - 1)
    return every[begin : max(end, begin + 1) + 1]


def number(value: float) -> str:
    """Short, for an axis."""
    if value and abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def thinned(points: Sequence[Point], most: int = MAX_MARKS) -> Sequence[Point]:
    """At most so many of the points, evenly taken, the last among them."""
    if len(points) <= most:
        return points
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


Scale = Callable[[float], float]


def _scale(low: float, high: float, start: float, end: float, *, log: bool = False) -> Scale:
    if log:
        low, high = math.log10(low), math.log10(high)
        return lambda value: start + (math.log10(value) - low) / (high - low) * (end - start)
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _path(points: Sequence[Point], x: Scale, y: Scale, *, steps: bool) -> str:
    parts = []
    for place, point in enumerate(points):
        if place and steps:
            parts.append(f"H{x(point[0]):.1f}V{y(point[1]):.1f}")
        else:
            parts.append(f"{'L' if place else 'M'}{x(point[0]):.1f} {y(point[1]):.1f}")
    return "".join(parts)


def _marks(series: Series, x: Scale, y: Scale) -> str:
    points = thinned(series.points)
    drawn = ""
    if series.kind != "dots" and points:
        path = _path(points, x, y, steps=series.kind == "steps")
        drawn += f'<path class="line {series.colour}" d="{path}"/>'
    if series.kind in ("dots", "marked"):
        radius = 3.5 if series.kind == "marked" else 2.2
        drawn += "".join(
            f'<circle class="dot {series.colour}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="{radius}">'
            f"<title>{escape(series.name or '')} {a:.4g}, {b:.4g}</title></circle>"
            for a, b in points
        )
    return drawn


def _axes(plot: Plot, x_ticks: Sequence[float], y_ticks: Sequence[float], x: Scale, y: Scale) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    drawn = ""
    for tick in y_ticks:
        drawn += f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        drawn += f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>'
    for tick in x_ticks:
        drawn += f'<line class="tick" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        drawn += f'<text x="{x(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{number(tick)}</text>'
    drawn += f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    middle = (_LEFT + right) / 2
    return (
        drawn + f'<text x="{middle:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(plot.x_label)}</text>'
    )


def _rules(plot: Plot, x: Scale, y: Scale) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    drawn = ""
    for rule in plot.rules:
        name = escape(rule.name)
        if rule.vertical:
            at = x(rule.at)
            left = at > WIDTH * 0.6
            drawn += f'<line class="rule" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>'
            drawn += (
                f'<text class="rule" x="{at + (-4 if left else 4):.1f}" y="{_TOP + 10}"'
                f' text-anchor="{"end" if left else "start"}">{name}</text>'
            )
        else:
            at = y(rule.at)
            drawn += f'<line class="rule" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
            drawn += f'<text class="rule" x="{right}" y="{at - 4:.1f}" text-anchor="end">{name}</text>'
    return drawn


def _bounds(plot: Plot) -> tuple[list[float], list[float]]:
    xs = [a for series in plot.series for a, _ in series.points]
    ys = [b for series in plot.series for _, b in series.points]
    xs += [rule.at for rule in plot.rules if rule.vertical]
    ys += [rule.at for rule in plot.rules if not rule.vertical]
    if plot.y_to is not None:
        ys.append(plot.y_to)
    return xs, ys


def svg(plot: Plot) -> str:
    """The plot; a sentence in its place where there is nothing to show."""
    if not any(series.points for series in plot.series):
        return "<p>Nothing was measured.</p>"
    xs, ys = _bounds(plot)
    x_ticks = log_ticks(min(xs), max(xs)) if plot.log_x else ticks(min(0.0, *xs), max(xs))
    y_ticks = ticks(plot.y_from, max(ys), about=4)
    if not plot.log_x and x_ticks[-1] > max(xs) > x_ticks[-2]:
        x_ticks[-1:] = []  # the axis ends with the points
    ends = x_ticks[-1] if plot.log_x else max(x_ticks[-1], *xs)
    x = _scale(x_ticks[0], ends, _LEFT, WIDTH - _RIGHT, log=plot.log_x)
    y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    marks = "".join(_marks(series, x, y) for series in plot.series)
    label = escape(f"{plot.title}: {plot.y_label} by {plot.x_label}")
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{_axes(plot, x_ticks, y_ticks, x, y)}{marks}{_rules(plot, x, y)}</svg>"
    )
