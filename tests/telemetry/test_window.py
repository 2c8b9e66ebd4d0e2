"""The ring against a list of everything that was ever added."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.telemetry.window import Window

SECONDS, BUCKETS = 5.0, 50
times = st.floats(0, 30, allow_nan=False)
events = st.lists(st.tuples(times, st.floats(0, 8), st.floats(0, 100)), max_size=30)


def overlap(start: float, end: float, low: float, high: float) -> float:
    return max(0.0, min(end, high) - max(start, low))


@given(events, st.floats(0, 10))
def test_sums_are_those_of_what_arose_within_the_window(added, wait):
    window = Window(1, seconds=SECONDS, buckets=BUCKETS)
    # As an engine's clock gives them: in the order of their ends, none later than now.
    added = sorted((start, start + length, amount) for start, length, amount in added)
    added.sort(key=lambda event: event[1])
    for start, end, amount in added:
        window.add(start, end, [amount])
    now = max((end for _, end, _ in added), default=0.0) + wait
    low = window.start(now)
    expected = 0.0
    for start, end, amount in added:
        if math.floor(start / 0.1) == math.floor(end / 0.1):
            expected += amount if end >= low + 1e-9 else 0.0
        else:
            expected += amount * overlap(start, end, low, now) / (end - start)
    slack = sum(amount for start, end, amount in added if abs(end - low) < 0.11)
    assert window.sums(now)[0] == pytest.approx(expected, abs=1e-6 + slack)


@given(times)
def test_the_window_is_as_long_as_promised(now):
    span = Window(1, seconds=SECONDS, buckets=BUCKETS).span(now)
    assert SECONDS - SECONDS / BUCKETS - 1e-9 <= span <= SECONDS + 1e-9


@given(times, st.floats(0, 4.8), st.floats(0.1, 100))
def test_nothing_within_the_window_is_lost(now, age, amount):
    window = Window(2)
    window.add(now - age, now, [amount, -amount])
    assert window.sums(now) == [pytest.approx(amount), pytest.approx(-amount)]


@given(times, st.floats(5.001, 1e9))
def test_what_is_older_than_the_window_is_gone(now, later):
    window = Window(1)
    window.add(now, now, [7.0])
    assert window.sums(now + later) == [0.0]


def test_an_amount_is_spread_over_the_time_in_which_it_arose():
    window = Window(1, seconds=4, buckets=4)
    window.add(0.0, 8.0, [8.0])
    assert window.sums(7.999) == [pytest.approx(4.0, abs=0.01)]


def test_late_news_of_a_bucket_already_used_again_is_dropped():
    window = Window(1, seconds=4, buckets=4)
    window.add(9.5, 9.5, [1.0])
    window.add(1.5, 1.5, [100.0])
    assert window.sums(9.6) == [1.0]
