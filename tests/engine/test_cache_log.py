"""The log of what is cached: whoever reads it, at whatever pace, knows what is there."""

from hypothesis import given
from hypothesis import strategies as st

from ridgeline.engine.cache_log import CacheLog
from ridgeline.protocol.cached import CacheReport

KEYS = [bytes([number]) * 8 for number in range(6)]
STEP = st.tuples(st.sampled_from(["cached", "evicted", "read slow", "read fast"]), st.sampled_from(KEYS))


class Reader:
    def __init__(self) -> None:
        self.epoch, self.number, self.there, self.wholes = "", 0, set(), 0

    def read(self, log: CacheLog) -> None:
        report = log.since(self.epoch, self.number)
        assert CacheReport.from_json(report.as_json()) == report
        assert not set(report.cached) & set(report.evicted)
        self.there = set() if report.whole else self.there - set(report.evicted)
        self.there |= set(report.cached)
        self.wholes += report.whole
        self.epoch, self.number = report.epoch, report.next


@given(st.lists(STEP, max_size=60))
def test_readers_of_any_pace_know_what_is_there(steps: list[tuple[str, bytes]]) -> None:
    log, there, slow, fast = CacheLog("e1", most=8), set(), Reader(), Reader()
    for what, key in steps:
        if what == "cached":
            log.add((key,), ())
            there.add(key)
        elif what == "evicted":
            log.add((), (key,))
            there.discard(key)
        else:
            reader = slow if what == "read slow" else fast
            reader.read(log)
            assert reader.there == there
    for reader in (slow, fast):
        reader.read(log)
        assert reader.there == there


def test_another_epoch_and_a_number_that_never_was_are_told_the_whole() -> None:
    log = CacheLog("new")
    log.add(KEYS[:3], KEYS[:1])
    assert log.since("new", 4) == CacheReport("new", 4, False, (), ())
    for epoch, number in (("old", 4), ("new", 5), ("", 0)):
        assert log.since(epoch, number) == CacheReport("new", 4, True, tuple(KEYS[1:3]), ())


def test_each_key_is_told_once_as_it_is_now() -> None:
    log = CacheLog("e")
    log.add(KEYS[:3], ())
    log.add((), KEYS[:2])
    log.add(KEYS[:1], ())
    report = log.since("e", 0)
    assert report.cached == (KEYS[2], KEYS[0]) and report.evicted == (KEYS[1],)
