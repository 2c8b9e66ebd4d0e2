"""Plots: round numbers on the axes, and every mark within the picture."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.bench.pictures import in_flight, shares
from ridgeline.bench.plots import HEIGHT, WIDTH, Plot, Rule, Series, log_ticks, number, svg, thinned, ticks
from ridgeline.bench.runner import TurnRecord


@given(st.floats(0, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_even_and_around(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 9
    assert found[0] <= low + 1e-6 * span
    assert found[-1] >= (low + span) * (1 - 1e-6)


@given(st.floats(1e-3, 1e5), st.floats(1, 1e5))
def test_log_ticks_are_around(low: float, factor: float) -> None:
    found = log_ticks(low, low * factor)
    assert found == sorted(set(found))
    assert len(found) >= 2
    assert found[0] <= low * 1.01
    assert found[-1] >= low * factor * 0.99


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0, 0.25, 5000, 20_000, 1_500_000)] == [
        "0",
        "0.25",
        "5000",
        "20k",
        "1500k",
    ]


def test_thinning_keeps_both_ends() -> None:
    points = [(float(n), 0.0) for n in range(5000)]
    found = thinned(points, 100)
    assert (len(found), found[0], found[-1]) == (100, points[0], points[-1])
    assert thinned(points[:7], 100) == points[:7]


@given(
    st.lists(st.tuples(st.floats(0.01, 1e5), st.floats(0, 1e5)), min_size=1, max_size=20),
    st.booleans(),
    st.sampled_from(["dots", "line", "steps", "marked"]),
    st.floats(0.01, 1e5),
)
def test_marks_lie_within_the_picture(
    points: list[tuple[float, float]], log_x: bool, kind: str, rule: float
) -> None:
    series = Series(sorted(points), kind, "a <name>")  # type: ignore[arg-type]
    text = svg(
        Plot("T", "x", "y", [series], [Rule(rule, "target"), Rule(rule, "knee", vertical=True)], log_x)
    )
    root = ElementTree.fromstring(text)
    for circle in root.iter("circle"):
        assert -1 <= float(circle.attrib["cx"]) <= WIDTH + 1
        assert -1 <= float(circle.attrib["cy"]) <= HEIGHT + 1
    for path in root.iter("path"):
        numbers = [float(found) for found in re.findall(r"-?[\d.]+", path.attrib["d"])]
        assert all(math.isfinite(found) and -1 <= found <= max(WIDTH, HEIGHT) + 1 for found in numbers)


def test_nothing_to_show() -> None:
    assert svg(Plot("T", "x", "y", [Series([])])) == "<p>Nothing was measured.</p>"


def test_in_flight_rises_and_falls() -> None:
    records = [TurnRecord(0, 0, False, 0.0, sent, [], end) for sent, end in ((11.0, 14.0), (12.0, 13.0))]
    assert in_flight(records, 10.0) == [(0, 0), (1, 1), (2, 2), (3, 1), (4, 0)]


def test_shares_reach_all() -> None:
    found = shares([0.3, 0.1, 0.0])
    assert [value for value, _ in found] == [0.1, 100.0, 300.0]
    assert [share for _, share in found] == pytest.approx([100 / 3, 200 / 3, 100])
