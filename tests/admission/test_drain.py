import random

import pytest

from ridgeline.admission import DrainRate, wait_behind_batch


def test_nothing_is_promised_before_enough_is_measured():
    drain = DrainRate()
    assert drain.estimated_wait(3, 0.0) is None
    for i in range(8):
        drain.finished(float(i))
    assert drain.per_second(7.0) is None
    drain.finished(8.0)
    assert drain.per_second(8.0) == pytest.approx(1.0)


def test_a_steady_rate():
    drain = DrainRate()
    for i in range(200):
        drain.finished(i * 0.25)
    assert drain.per_second(49.75) == pytest.approx(4.0)
    assert drain.estimated_wait(12, 49.75) == pytest.approx(3.0)
    assert drain.estimated_wait(0, 49.75) == 0.0


def test_irregular_departures():
    drain, rng, now = DrainRate(), random.Random(3), 0.0
    for _ in range(2000):
        now += rng.expovariate(5.0)
        drain.finished(now)
    assert drain.per_second(now) == pytest.approx(5.0, rel=0.3)


def test_a_batch_that_ends_as_one_is_no_burst():
    drain = DrainRate()
    for period in range(1, 4):
        for _ in range(32):
            drain.finished(10.0 * period)
    assert drain.per_second(30.0) == pytest.approx(3.2)


def test_it_follows_a_change():
    drain = DrainRate()
    for i in range(300):
        drain.finished(i * 0.1)
    for i in range(1, 129):
        drain.finished(29.9 + i * 1.0)
    assert drain.per_second(157.9) == pytest.approx(1.0)


def test_idle_time_is_not_slowness():
    drain = DrainRate()
    for i in range(20):
        drain.finished(float(i), backlog=i < 19)
    for i in range(20):
        drain.finished(100_000.0 + i)
    assert drain.per_second(100_019.0) == pytest.approx(1.0)


def test_a_stall_is_counted_while_it_lasts():
    drain = DrainRate()
    for i in range(11):
        drain.finished(float(i))
    assert drain.per_second(10.5) == pytest.approx(1.0)
    assert drain.per_second(100.0) == pytest.approx(0.1)
    assert drain.estimated_wait(1, 100.0) == pytest.approx(10.0)


def test_a_cold_start_is_answered_from_the_running_batch():
    remaining = [4.0, 1.0, 2.5]
    assert wait_behind_batch(1, remaining, 6.0) == 1.0
    assert wait_behind_batch(3, remaining, 6.0) == 4.0
    assert wait_behind_batch(5, remaining, 6.0) == 8.5
    assert wait_behind_batch(1, [], 6.0) is None
