"""Ledgers of the tiers below the device, against a plain list of keys."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ridgeline.kvcache import LoadTime, TierLedger, Tiers

ROOM = 6
SIZE = 16


def key(number: int) -> bytes:
    return number.to_bytes(2, "big")


class LedgerMachine(RuleBasedStateMachine):
    """`stored` and `writing` are what must be there; `store` is what a tier would hold."""

    def __init__(self):
        super().__init__()
        self.ledger = TierLedger("disk", ROOM, LoadTime(1.0))
        self.stored, self.writing = [], []
        self.now = 0.0

    @rule(first=st.integers(0, 20), count=st.integers(1, 9))
    def begin(self, first, count):
        self.now += 1
        keys = [key(n) for n in range(first, first + count) if not self.ledger.has(key(n))]
        dropped = self.ledger.begin(keys, 0, self.now)
        assert dropped == self.stored[: len(dropped)], "not the oldest went"
        self.stored = self.stored[len(dropped) :]
        self.writing += [k for k in keys if self.ledger.has(k)]
        assert len(self.stored) + len(self.writing) <= ROOM
        if len(self.writing) < ROOM and keys:
            assert self.ledger.has(keys[0])

    @rule(data=st.data(), fails=st.booleans())
    def end(self, data, fails):
        self.now += 1
        if not self.writing:
            return
        count = data.draw(st.integers(1, len(self.writing)))
        keys, self.writing = self.writing[:count], self.writing[count:]
        if fails:
            self.ledger.not_stored(keys)
        else:
            self.ledger.stored_now(keys, self.now)
            self.stored += keys

    @rule(number=st.integers(0, 20))
    def lose(self, number):
        self.ledger.not_stored([key(number)])
        self.stored = [k for k in self.stored if k != key(number)]
        self.writing = [k for k in self.writing if k != key(number)]

    @rule(first=st.integers(0, 20), count=st.integers(1, 9))
    def use(self, first, count):
        self.now += 1
        keys = [key(n) for n in range(first, first + count)]
        self.ledger.touch(keys, self.now)
        used = [k for k in reversed(keys) if k in self.stored]
        self.stored = [k for k in self.stored if k not in used] + used

    @rule(numbers=st.lists(st.integers(0, 20), unique=True, max_size=9))
    def discover(self, numbers):
        self.now += 1
        surplus = self.ledger.found([key(n) for n in numbers], self.now)
        gone = []
        for each in (key(n) for n in numbers):
            if each in self.stored or each in self.writing or each in gone:
                continue
            self.stored.append(each)
            if len(self.stored) + len(self.writing) > ROOM:
                gone.append(self.stored.pop(0))
        assert surplus == gone

    @invariant()
    def agrees(self):
        self.ledger.check()
        assert {key(n) for n in range(40) if key(n) in self.ledger} == set(self.stored)
        assert self.ledger.stored == len(self.stored)
        assert self.ledger.used == len(self.stored) + len(self.writing)


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestLedger = LedgerMachine.TestCase


def ledger_with(name: str, numbers: range, seconds_per_block: float) -> TierLedger:
    ledger = TierLedger(name, 100, LoadTime(seconds_per_block))
    keys = [key(n) for n in numbers]
    ledger.begin(keys, 0, 0.0)
    ledger.stored_now(keys, 0.0)
    return ledger


KEYS = [key(n) for n in range(10)]


def a_second_per_token(start: int, count: int) -> float:
    del start
    return float(count)


def test_the_fastest_tier_that_has_the_next_block_gives_its_whole_run() -> None:
    host, disk = ledger_with("host", range(2, 5), 1.0), ledger_with("disk", range(10), 4.0)
    tiers = Tiers([host, disk], a_second_per_token, SIZE)
    found = tiers.find(KEYS, 2, 10)
    assert found is not None and (found.tier.name, len(found.keys)) == ("host", 3)
    found = tiers.find(KEYS, 5, 10)
    assert found is not None and (found.tier.name, len(found.keys), found.seconds) == ("disk", 5, 20.0)
    assert tiers.find(KEYS, 10, 10) is None
    assert tiers.find(KEYS, 2, 4).keys == (key(2), key(3))  # type: ignore[union-attr]


def test_what_is_computed_faster_is_neither_loaded_nor_saved() -> None:
    tiers = Tiers([ledger_with("disk", range(3), 17.0)], a_second_per_token, SIZE)
    assert tiers.find(KEYS, 0, 10) is None
    assert tiers.wanting(KEYS) == []
    tiers = Tiers([ledger_with("disk", range(3), 15.0)], a_second_per_token, SIZE)
    assert [run for _, run in tiers.wanting(KEYS)] == [range(3, 10)]


def test_deep_blocks_pay_where_early_ones_do_not() -> None:
    """A token attends to all before it: late ones take longer to compute again."""
    tiers = Tiers(
        [ledger_with("disk", range(10), 100.0)], lambda start, count: count * (1 + start / 16), SIZE
    )
    assert tiers.find(KEYS, 0, 3) is None
    assert tiers.find(KEYS, 8, 10) is not None


@pytest.mark.parametrize(("per_block", "expected"), [(4.0, 4.0 * 6 + 3.0), (40.0, 99.0)])
def test_what_preemption_costs_is_the_cheaper_way_back(per_block: float, expected: float) -> None:
    tiers = Tiers([ledger_with("host", range(0), per_block)], a_second_per_token, SIZE)
    assert tiers.seconds_to_return(KEYS[:6], 99) == expected
    assert tiers.seconds_to_return([], 0) == 0.0


def test_load_time_follows_the_loads() -> None:
    load_time = LoadTime(1.0)
    for _ in range(200):
        load_time.observe(10, 0.1)
    assert load_time.seconds(5) == pytest.approx(0.05, rel=0.01)
    load_time.observe(1, 0.5)  # one that had to wait
    assert load_time.seconds(5) == pytest.approx(0.05 * (2.0 + 0.5) / 2.0, rel=0.05)
