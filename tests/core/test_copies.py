"""Blocks that leave the device and come back: what is saved, what is loaded, and what goes wrong."""

import pytest
from simulation import Simulation

from ridgeline.kvcache import LoadTime

HOST = {"sizes": {"host": 64}}


def conversation(seed, turns=1, tokens=80):
    return [1 + (seed * 11 + i * 7) % 60 for i in range(tokens * turns)]


def converse(simulation, seed):
    """One turn of a conversation to its end; what it had of its prompt without computing."""
    name = simulation.submit(conversation(seed), max_tokens=8)
    cached = simulation.scheduler._sequences[name]
    simulation.run()
    simulation.settle()
    return cached


def flush_device(simulation):
    """Other conversations take all of the device's blocks."""
    for seed in range(100, 108):
        converse(simulation, seed)


def test_a_conversation_that_left_the_device_comes_back_from_the_host():
    simulation = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"host": 200}})
    assert converse(simulation, 1).cached == 0
    flush_device(simulation)
    back = converse(simulation, 1)
    assert back.cached == 64  # four of its five full blocks: the last token must be computed
    assert back.reloaded == {"host": 4}
    assert simulation.scheduler.counters.hit == 64
    assert simulation.scheduler.counters.recomputed_evicted == 0
    assert simulation.tiers.copies.counters["host"].loaded == 4


def test_nothing_is_saved_or_loaded_that_is_computed_faster():
    simulation = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"host": 200}, "load_seconds": 10.0})
    converse(simulation, 1)
    flush_device(simulation)
    assert simulation.tiers.copies.counters["host"].saved == 0
    assert converse(simulation, 1).cached == 0


def test_a_slow_tier_is_tried_again_now_and_then():
    simulation = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"host": 400}})
    converse(simulation, 1)
    flush_device(simulation)
    simulation.tiers.copies.tiers.ledgers[0].load_time = LoadTime(10.0)
    tries = 0
    while not (back := converse(simulation, 1)).reloaded and tries < 40:
        assert back.cached == 0
        flush_device(simulation)
        tries += 1
    assert 4 <= tries < 40
    assert simulation.tiers.copies.tiers.ledgers[0].load_time.seconds(1) < 10.0


def test_writes_are_dropped_when_too_many_are_on_their_way():
    simulation = Simulation(blocks=64, max_batch=8, tiers={"sizes": {"host": 200}, "most_on_the_way": 6})
    simulation.tiers.write_seconds = 1000.0
    for seed in range(8):
        simulation.submit(conversation(seed), max_tokens=8)
    simulation.run()
    counters = simulation.tiers.copies.counters["host"]
    assert counters.saved == 0 and counters.not_saved == 8 * 5 - 6
    simulation.settle()
    assert counters.saved == 6


def test_a_full_tier_gives_up_what_was_used_longest_ago():
    simulation = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"host": 12}})
    for seed in (1, 2, 3):
        converse(simulation, seed)
    ledger = simulation.tiers.copies.tiers.ledgers[0]
    assert ledger.used == 12 == len(simulation.tiers.stores["host"])


@pytest.mark.parametrize("fault", ["lost", "other", "fails", "late"])
def test_what_a_tier_does_not_give_back_is_computed(fault):
    simulation = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"disk": 200}})
    converse(simulation, 1)
    flush_device(simulation)
    simulation.tiers.read_fault = lambda: fault
    back = converse(simulation, 1)  # its answer is compared with that of an undisturbed run
    assert back.cached < 64
    assert simulation.tiers.copies.counters["disk"].not_loaded > 0
    assert simulation.scheduler.counters.recomputed_evicted > 0


def test_what_could_not_be_written_is_not_looked_for():
    simulation = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"disk": 200}})
    simulation.tiers.write_fault = lambda: "fails"
    converse(simulation, 1)
    flush_device(simulation)
    assert converse(simulation, 1).loads == 0
    assert simulation.tiers.copies.tiers.ledgers[0].used == 0


def test_one_who_leaves_while_blocks_are_on_their_way_leaves_nothing_behind():
    simulation = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"disk": 200}})
    converse(simulation, 1)
    flush_device(simulation)
    simulation.tiers.read_seconds = 0.1
    name = simulation.submit(conversation(1), max_tokens=8)
    assert simulation.tiers.copies.next_deadline() is not None
    simulation.cancel(name)
    simulation.run()
    simulation.settle()
    assert simulation.tiers.restored == 0


def test_two_that_begin_alike_load_once():
    simulation = Simulation(blocks=24, max_batch=4, tiers={"sizes": {"disk": 200}})
    converse(simulation, 1)
    flush_device(simulation)
    for _ in range(3):
        simulation.submit(conversation(1), max_tokens=8)
    simulation.run()
    assert simulation.tiers.restored == 4
    assert simulation.scheduler.counters.hit == 3 * 64


def test_a_tier_that_outlived_the_server_is_used():
    before = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"disk": 200}})
    converse(before, 1)
    after = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"disk": 200}})
    after.tiers.stores = before.tiers.stores
    after.tiers.discover("disk", after.clock.now())
    after.settle()
    back = converse(after, 1)
    assert back.reloaded == {"disk": 4} and back.cached == 64
    assert after.scheduler.counters.cold == 0


def test_more_than_the_tier_may_hold_is_removed_from_it():
    before = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"disk": 200}})
    for seed in range(4):
        converse(before, seed)
    after = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"disk": 7}})
    after.tiers.stores = before.tiers.stores
    after.tiers.discover("disk", after.clock.now())
    after.settle()
    assert len(after.tiers.stores["disk"]) == 7 == after.tiers.copies.tiers.ledgers[0].stored
