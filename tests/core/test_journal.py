"""What the scheduler tells of each request: who waited for what, what was cached, who made whom give way."""

import pytest
from simulation import Simulation

from ridgeline.engine.core.journal import MOST_CULPRITS
from ridgeline.kvcache import LoadTime
from ridgeline.protocol.timeline import (
    ANOTHER_USER,
    Admitted,
    Awaited,
    Finished,
    FirstToken,
    LoadBegun,
    Loaded,
    Matched,
    NotLoaded,
    Preempted,
    Prefilled,
    Queued,
    Refused,
    Saved,
)

NEVER_STOPS = frozenset()


def text(seed, tokens=80):
    return [1 + (seed * 11 + i * 7 + i * i % (seed + 2)) % 60 for i in range(tokens)]


def turn(simulation, seed, **more):
    """One request to its end."""
    name = simulation.submit(text(seed), max_tokens=8, **more)
    simulation.run()
    simulation.settle()
    return name


def only(events):
    (event,) = events
    return event


def test_a_request_that_finds_an_empty_server():
    simulation = Simulation(max_batch_tokens=32)
    name = simulation.submit(text(1, 100), max_tokens=8, stop_token_ids=NEVER_STOPS)
    simulation.run()
    kinds = [type(event) for event in simulation.story(name)]
    assert kinds == [
        Queued, Matched, Admitted, Prefilled, Prefilled, Prefilled, FirstToken, Finished,
    ]  # fmt: skip
    queued = only(simulation.story(name, Queued))
    assert (queued.prompt_tokens, queued.max_tokens, queued.ahead, queued.running) == (100, 8, 0, 0)
    assert queued.expected_cached_tokens == 0
    matched = only(simulation.story(name, Matched))
    assert (matched.device_tokens, matched.cold_tokens, matched.short_tokens) == (0, 96, 4)
    assert matched.evicted_tokens == 0 and matched.room_tokens is None
    chunks = simulation.story(name, Prefilled)
    assert [(c.first, c.last, c.steps, c.done) for c in chunks] == [
        (0, 32, 1, False), (0, 64, 2, False), (0, 100, 4, True),
    ]  # fmt: skip
    first = only(simulation.story(name, FirstToken))
    assert first.after_seconds == pytest.approx(simulation.first_seconds[name])
    assert first.expected_seconds == queued.expected_first_token_seconds
    finished = only(simulation.story(name, Finished))
    assert (finished.reason, finished.tokens) == ("length", 8)
    assert finished.decode_seconds == pytest.approx(finished.seconds - first.seconds)


def test_a_long_prompt_is_told_in_few_events():
    simulation = Simulation(blocks=64, max_batch=2, max_batch_tokens=3)
    name = simulation.submit(text(1, 400), max_tokens=90, stop_token_ids=NEVER_STOPS)
    simulation.run()
    assert simulation.steps > 200
    assert len(simulation.story(name)) < 20


def test_who_evicted_a_conversation_is_told_at_its_next_turn():
    simulation = Simulation(blocks=12, max_batch=4)
    turn(simulation, 1)
    evictor = simulation.submit(text(2, 170), max_tokens=8)
    simulation.run()
    told = only(simulation.story(turn(simulation, 1), Matched))
    assert told.device_tokens + told.evicted_tokens == 64 and told.evicted_tokens > 0
    evicted = only(told.evictions)
    assert (evicted.tokens, evicted.by, evicted.price) == (told.evicted_tokens, evictor, None)
    assert evicted.seconds >= only(simulation.story(evictor, Admitted)).seconds
    assert told.room_tokens is not None and told.room_tokens >= told.evicted_tokens


def test_with_the_room_that_is_told_it_would_have_been_there():
    small = Simulation(blocks=12, max_batch=4)
    for seed in (1, 2, 3, 4):
        turn(small, seed)
    told = only(small.story(turn(small, 1), Matched))
    assert told.evicted_tokens == 64
    large = Simulation(blocks=12 + told.room_tokens // 16, max_batch=4)
    for seed in (1, 2, 3, 4):
        turn(large, seed)
    assert only(large.story(turn(large, 1), Matched)).device_tokens == 64


def test_a_stranger_is_not_named():
    simulation = Simulation(blocks=12, max_batch=4)
    turn(simulation, 1, tenant="a")
    for seed in (2, 3, 4):
        turn(simulation, seed, tenant="b")
    told = only(simulation.story(turn(simulation, 1, tenant="a"), Matched))
    assert told.evicted_tokens == 64
    assert [evicted.by for evicted in told.evictions] == [ANOTHER_USER]


def test_only_a_few_are_named():
    simulation = Simulation(blocks=26, max_batch=4)
    simulation.submit(text(1, 390), max_tokens=8)
    simulation.run()
    for seed in range(2, 12):
        turn(simulation, seed, tenant="")
    name = simulation.submit(text(1, 390), max_tokens=8)
    simulation.run()
    told = only(simulation.story(name, Matched))
    assert len(told.evictions) == MOST_CULPRITS
    assert [e.tokens for e in told.evictions] == sorted((e.tokens for e in told.evictions), reverse=True)


class WithPrices:
    """The least block first, worth a hundredth of its number."""

    def __init__(self):
        self.idle = {}
        self.last_price = 0.0

    def wanted(self, keys, now):
        pass

    def add(self, chain, now):
        self.idle.update(dict.fromkeys(chain.blocks))

    def remove(self, block):
        del self.idle[block]

    def victim(self, now):
        block = max(self.idle)
        del self.idle[block]
        self.last_price = block / 100
        return block

    def __len__(self):
        return len(self.idle)


def test_the_price_is_that_of_the_policy():
    simulation = Simulation(blocks=12, max_batch=4, policy=WithPrices())
    turn(simulation, 1)
    simulation.submit(text(2, 170), max_tokens=8)
    simulation.run()
    told = only(simulation.story(turn(simulation, 1), Matched))
    assert told.evictions
    for evicted in told.evictions:
        assert 0 <= evicted.price <= 0.11


def test_waiting_for_a_place_and_for_blocks():
    simulation = Simulation(blocks=16, max_batch=1)
    simulation.submit(text(1), max_tokens=20, stop_token_ids=NEVER_STOPS)
    simulation.step()
    name = simulation.submit(text(2), max_tokens=8)
    simulation.run()
    waited = only(simulation.story(name, Admitted)).waited
    assert set(waited) <= {"line", "slots"} and waited["slots"] > 0
    assert only(simulation.story(name, Queued)).running == 1

    simulation = Simulation(blocks=8, max_batch=2)
    simulation.submit(text(1), max_tokens=20, stop_token_ids=NEVER_STOPS)
    simulation.step()
    name = simulation.submit(text(2), max_tokens=8)
    simulation.run()
    assert only(simulation.story(name, Admitted)).waited["blocks"] > 0


def test_waiting_for_one_that_computes_the_same():
    simulation = Simulation(max_batch_tokens=32)
    first = simulation.submit(text(1, 200), max_tokens=8)
    simulation.step()
    second = simulation.submit(text(1, 200), max_tokens=8)
    simulation.run()
    assert only(simulation.story(second, Awaited)).by == first
    assert only(simulation.story(second, Admitted)).waited["same_prefix"] > 0
    assert only(simulation.story(second, Matched)).device_tokens > 0


def test_a_preemption_and_the_way_back():
    simulation = Simulation(blocks=12, max_batch=6, expected_output_tokens=1)
    names = [simulation.submit(text(i, 20), 80, stop_token_ids=NEVER_STOPS) for i in range(6)]
    simulation.run()
    left = {name: simulation.story(name, Preempted) for name in names}
    assert sum(map(len, left.values())) == simulation.scheduler.counters.preemptions > 0
    name, (event, *_) = next((name, events) for name, events in left.items() if events)
    assert event.by in names and event.why == "blocks"
    assert event.blocks > 0 and event.expected_seconds > 0
    back = next(m for m in simulation.story(name, Matched) if m.seconds > event.seconds)
    assert back.recomputed_tokens == max(0, event.computed_tokens - back.device_tokens)
    again = simulation.story(name, Admitted)[1]
    assert again.again and again.seconds == back.seconds
    assert sum(again.waited.values()) == pytest.approx(again.seconds - event.seconds)
    recomputed = sum(m.recomputed_tokens for n in names for m in simulation.story(n, Matched))
    assert recomputed == simulation.scheduler.counters.recomputed_preempted


def test_a_better_priority_is_named_as_the_reason():
    simulation = Simulation(blocks=16, max_batch=1)
    low = simulation.submit(text(1), 60, priority=10, stop_token_ids=NEVER_STOPS, tenant="a")
    for _ in range(6):
        simulation.step()
    simulation.submit(text(2), 8, tenant="b")
    simulation.run()
    event = only(simulation.story(low, Preempted))
    assert (event.why, event.by) == ("priority", ANOTHER_USER)


def test_who_is_pushed_out_of_the_line_is_told_why():
    simulation = Simulation(blocks=16, max_batch=1, max_waiting=1)
    for seed in (1, 2):
        simulation.submit(text(seed), 20, priority=10)
        simulation.step()
    waiting = only(s.spec.id for s in simulation.scheduler._line._waiting.values())
    simulation.submit(text(3), 20)
    told = only(simulation.story(waiting, Refused))
    assert told.code == "at_capacity" and told.wait_seconds is not None


def test_cancelled_in_the_midst_of_its_prompt():
    simulation = Simulation(max_batch_tokens=16)
    name = simulation.submit(text(1, 200), 20)
    for _ in range(4):
        simulation.step()
    simulation.cancel(name)
    chunk, finished = simulation.story(name)[-2:]
    assert isinstance(chunk, Prefilled) and chunk.done and 0 < chunk.last < 200
    assert isinstance(finished, Finished) and (finished.reason, finished.tokens) == ("cancelled", 0)


# --- tiers --------------------------------------------------------------------------------------------


def flushed(**tiers):
    """A simulation in which conversation 1 is in the tier alone."""
    simulation = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"host": 200}, **tiers})
    first = turn(simulation, 1)
    for seed in range(10, 18):
        turn(simulation, seed)
    return simulation, first


def test_blocks_that_come_back_from_a_tier():
    simulation, first = flushed()
    saved = only(simulation.story(first, Saved))
    assert (saved.tier, saved.blocks) == ("host", 5)
    name = turn(simulation, 1)
    begun, loaded = simulation.story(name, LoadBegun, Loaded)
    assert (begun.tier, begun.tokens) == (loaded.tier, loaded.tokens) == ("host", 64)
    assert loaded.missing_tokens == 0 and loaded.why is None
    assert loaded.expected_seconds == begun.expected_seconds
    assert loaded.took_seconds == simulation.tiers.read_seconds
    matched = only(simulation.story(name, Matched))
    assert (matched.device_tokens, matched.loaded_tokens, matched.evicted_tokens) == (0, {"host": 64}, 0)


@pytest.mark.parametrize(("fault", "why"), [("lost", "lost"), ("fails", "lost"), ("late", "late")])
def test_why_blocks_did_not_come_back(fault, why):
    simulation, _ = flushed()
    simulation.tiers.read_fault = lambda: fault
    told = simulation.story(turn(simulation, 1), Loaded)[0]
    assert told.why == why and told.missing_tokens > 0
    assert told.tokens + told.missing_tokens == 64


def test_what_is_read_more_slowly_than_computed_is_told_once():
    simulation, _ = flushed()
    simulation.tiers.copies.tiers.ledgers[0].load_time = LoadTime(10.0)
    simulation.submit(text(30), 40, stop_token_ids=NEVER_STOPS)
    simulation.step()
    name = turn(simulation, 1)
    told = only(simulation.story(name, NotLoaded))
    assert (told.tier, told.tokens, told.expected_seconds) == ("host", 64, 40.0)
    assert 0 < told.recompute_seconds < 1
    assert only(simulation.story(name, Matched)).evicted_tokens == 64
