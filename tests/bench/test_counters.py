"""A server's own counters, refusals by kind, and the schedule beside what came of it."""

import pytest
from fake_openai import FakeServer, serving

from ridgeline.bench.client import new_session
from ridgeline.bench.counters import CacheCounters, change, parse, read
from ridgeline.bench.refusals import refusals
from ridgeline.bench.runner import TurnRecord
from ridgeline.bench.schedule import schedule

OURS = """# HELP ridgeline_prefix_tokens_total Prompt tokens.
# TYPE ridgeline_prefix_tokens_total counter
ridgeline_prefix_tokens_total{model="a",result="hit"} 30.0
ridgeline_prefix_tokens_total{model="a",result="cold"} 50.0
ridgeline_prefix_tokens_total{model="b",result="hit"} 7.0
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{model_name="a"} 80.0
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{model_name="a"} 30.0
"""
VLLM = """# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 1000.0
vllm:prefix_cache_queries_total{engine="1",model_name="m"} 200.0
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 600.0
"""


def test_ours_come_first_and_are_this_models() -> None:
    assert parse(OURS, "a") == CacheCounters("ridgeline_prefix_tokens_total", {"hit": 30.0, "cold": 50.0})
    found = parse(OURS, "other name of a model")
    assert found is not None
    assert found.tokens == {"hit": 37.0, "cold": 50.0}


def test_vllms_are_read_where_ours_are_not() -> None:
    found = parse(VLLM, "m")
    assert found == CacheCounters("vllm:prefix_cache_queries_total", {"hit": 600.0, "miss": 600.0})
    assert parse("# nothing here\nup 1\n", "m") is None
    with pytest.raises(ValueError):
        parse("<html>no metrics</html>", "m")


def test_a_change_is_a_difference() -> None:
    before = CacheCounters("x", {"hit": 10.0, "cold": 5.0})
    found = change(before, CacheCounters("x", {"hit": 40.0, "cold": 15.0, "short": 0.0}), prompt_tokens=30)
    assert found is not None
    assert found.tokens == {"hit": 30.0, "cold": 10.0, "short": 0.0}
    assert found.hit_ratio == 0.75
    assert found.foreign_ratio == 0.25
    assert change(before, None, 1) is None
    assert change(None, before, 1) is None
    assert change(before, CacheCounters("x", {"hit": 0.0, "cold": 0.0}), 1) is None  # it began anew
    assert change(before, CacheCounters("y", {"hit": 99.0}), 1) is None
    still = change(before, before, 0)
    assert still is not None
    assert still.hit_ratio is None


async def test_a_server_without_counters() -> None:
    async with serving(FakeServer()) as url, new_session(10, {}) as session:
        assert await read(session, url, "fake") is None
        assert await read(session, "http://127.0.0.1:9", "fake") is None


def refused(status: int, code: str, retry_after: float | None = None) -> TurnRecord:
    return TurnRecord(
        0, 0, False, 0.0, outcome="refused", status=status, code=code, retry_after_seconds=retry_after
    )


def test_refusals_by_kind_and_by_what_they_promise() -> None:
    records = [
        refused(503, "at_capacity", 3.0),
        refused(429, "rate_limited", 60.0),
        refused(503, "at_capacity"),
        refused(503, "at_capacity", 9.0),
        TurnRecord(0, 0, False, 0.0, outcome="failed", status=500, code="internal"),
        TurnRecord(0, 0, False, 0.0),
    ]
    full, limited = refusals(records)
    assert (full.status, full.code) == (503, "at_capacity")
    assert (full.with_retry_after, full.without_retry_after) == (2, 1)
    assert full.retry_after_seconds.max == 9.0
    assert (limited.status, limited.with_retry_after, limited.without_retry_after) == (429, 1, 0)


def sent(*pairs: tuple[float, float], turn: int = 0) -> list[TurnRecord]:
    return [TurnRecord(0, turn, False, due, at) for due, at in pairs]


def test_the_schedule_is_held_against_what_was_sent() -> None:
    kept = schedule(sent((101.0, 101.0), (102.0, 102.1)), 100.0, open_loop=True, requested_per_second=1.5)
    assert (kept.requested_per_second, kept.drawn_per_second) == (1.5, 1.0)
    assert kept.achieved_per_second == pytest.approx(2 / 2.1)
    assert kept.kept
    assert kept.delay_seconds.max == pytest.approx(0.1)
    late = schedule(sent((101.0, 101.0), (102.0, 104.0)), 100.0, open_loop=True, requested_per_second=None)
    assert late.achieved_per_second == 0.5
    assert not late.kept
    # Later turns are due when the one before has been answered, and belong to no rate.
    assert schedule(sent((1.0, 9.0), turn=1), 0.0, open_loop=True, requested_per_second=1).kept
    assert (
        schedule(sent((1.0, 9.0)), 0.0, open_loop=False, requested_per_second=None).drawn_per_second is None
    )
