"""What was saved, what LRU would have saved, and the best that was possible."""

import random

import pytest

from ridgeline.engine.shadows import MOST_KEYS, WINDOW_SECONDS, Shadows, short_keys
from ridgeline.kvcache import Ghost, Lru, extend_keys, root_key
from ridgeline.telemetry.records import PromptRecord

BLOCK_SECONDS, DEEPER_SECONDS = 0.01, 0.001


def keys_of(text, blocks):
    keys = []
    extend_keys(keys, root_key(""), [text] * (16 * blocks), 16)
    return keys


def record(seconds, keys, hits=0, load_seconds=0.0):
    return PromptRecord(seconds, short_keys(keys), hits, load_seconds, BLOCK_SECONDS, DEEPER_SECONDS)


def seconds_of(blocks):
    return sum(BLOCK_SECONDS + DEEPER_SECONDS * i for i in range(blocks))


def shadows(blocks=20, **more):
    return Shadows(blocks, 16, begin=lambda work: work(), **more)


def test_seconds_are_those_of_the_blocks_found():
    watched = shadows()
    watched.note(record(0.0, keys_of(1, 10)))
    watched.note(record(1.0, keys_of(1, 10), hits=10))
    assert watched.totals() == pytest.approx({"live": seconds_of(10), "lru": seconds_of(10)})
    saved = watched.saved(2.0)
    assert (saved.live, saved.best, saved.span_seconds) == (pytest.approx(seconds_of(10)), saved.live, 2.0)


def test_where_lru_forgets_too_early():
    """Three conversations of ten blocks go round in a room for two: LRU finds nothing, ever."""
    watched = shadows()
    for turn in range(12):
        hits = 10 if turn and turn % 3 == 0 else 0  # the live cache keeps one of them
        watched.note(record(float(turn), keys_of(turn % 3, 10), hits))
    saved = watched.saved(12.0)
    assert saved.others == {"lru": 0.0}
    assert saved.live == pytest.approx(3 * seconds_of(10))
    assert saved.best > saved.live


def test_loading_is_subtracted_and_never_saves_less_than_nothing():
    watched = shadows(tier_blocks=100)
    watched.note(record(0.0, keys_of(1, 10)))
    watched.note(record(1.0, keys_of(1, 10), 10, load_seconds=0.02))
    watched.note(record(2.0, keys_of(1, 10), 10, load_seconds=99.0))
    assert watched.totals()["live"] == pytest.approx(seconds_of(10) - 0.02)
    assert set(watched.totals()) == {"live", "lru", "no tiers"}


def test_lru_without_tiers_is_its_own_ghost():
    assert set(shadows(policy="lru").totals()) == {"live"}
    assert set(shadows(policy="lru", tier_blocks=5).totals()) == {"live", "lru"}


def test_only_the_last_hour_is_told_and_memory_is_bounded():
    watched = shadows()
    assert watched.saved(0.0) is None
    watched.note(record(0.0, keys_of(1, 10)))
    watched.note(record(1.0, keys_of(1, 10), hits=10))
    assert watched.saved(WINDOW_SECONDS + 5) is None
    for i in range(40):
        watched.note(record(WINDOW_SECONDS + i, keys_of(i, 10)))
    assert watched.saved(WINDOW_SECONDS + 40).live == 0.0
    long = shadows(blocks=10)
    for i in range(30):
        long.note(record(float(i), keys_of(i, MOST_KEYS // 10)))
    assert sum(len(each.keys) for each in long._asked) <= MOST_KEYS


def test_the_ghost_is_the_one_that_replays_use():
    rng = random.Random(1)
    watched, ghost, expected = shadows(blocks=40), Ghost(40, Lru()), 0.0
    for now in range(200):
        keys = keys_of(rng.randrange(9), rng.randrange(1, 12))
        watched.note(record(float(now), keys))
        expected += seconds_of(ghost.request([key[:8] for key in keys], float(now)))
    assert watched.totals()["lru"] == pytest.approx(expected)
