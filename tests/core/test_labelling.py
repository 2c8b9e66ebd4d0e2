"""What front doors are told of what a scheduler caches and evicts."""

import random

from simulation import Simulation

from ridgeline.engine.core.sequence import Mark


def conversation(seed, tokens=80):
    return [1 + (seed * 11 + i * 7) % 60 for i in range(tokens)]


def marks(seed, *ends):
    return tuple(Mark(end, b"%d.%d" % (seed, end)) for end in ends)


def names(labels):
    return {label.key.decode() for label in labels}


def told(simulation):
    changes = simulation.scheduler.labelling.take()
    return (set(), set()) if changes is None else (names(changes.cached), names(changes.evicted))


def converse(simulation, seed, ends=(20, 40, 75), **more):
    name = simulation.submit(
        conversation(seed), max_tokens=8, stop_token_ids=frozenset(), marks=marks(seed, *ends), **more
    )
    simulation.run()
    return name


def test_what_is_published_is_told_and_what_is_evicted_too():
    simulation = Simulation(blocks=16, max_batch=4)
    converse(simulation, 1)
    assert told(simulation) == ({"1.20", "1.40", "1.75"}, set())
    converse(simulation, 1)
    assert told(simulation) == (set(), set()), "what was told is not told again"
    evicted = set()
    for seed in range(2, 6):
        converse(simulation, seed)
        cached, gone = told(simulation)
        assert {f"{seed}.20", f"{seed}.40", f"{seed}.75"} <= cached
        evicted |= gone
    assert {"1.20", "1.40", "1.75"} <= evicted
    converse(simulation, 1)
    assert told(simulation)[0] == {"1.20", "1.40", "1.75"}


def test_a_tail_that_fills_no_block_is_told_as_not_cached():
    simulation = Simulation(blocks=16)
    simulation.submit(conversation(1), max_tokens=2, stop_token_ids=frozenset(), marks=marks(1, 40, 82))
    simulation.run()
    assert told(simulation) == ({"1.40"}, {"1.82"})


def test_an_answer_is_told_once_its_text_is_known():
    simulation = Simulation(blocks=16)
    name = simulation.submit(conversation(1), max_tokens=40, stop_token_ids=frozenset(), marks=marks(1, 75))
    simulation.run()
    assert told(simulation) == ({"1.75"}, set())
    simulation.scheduler.labelling.mark(name, marks(1, 90, 110, 119))
    assert told(simulation) == ({"1.90", "1.110"}, {"1.119"}), "the last block is not full"
    for seed in range(2, 6):
        converse(simulation, seed)
    assert {"1.75", "1.90", "1.110"} <= told(simulation)[1]
    simulation.scheduler.labelling.mark(name, marks(1, 90))
    assert told(simulation)[1] == {"1.90"}, "of whom nothing is known any more"


def test_what_was_given_up_midway_is_told_as_not_cached():
    simulation = Simulation(blocks=32, max_batch_tokens=64)
    name = simulation.submit(conversation(1, 300), marks=marks(1, 40, 290))
    for _ in range(3):
        simulation.step()
    simulation.cancel(name)
    cached, evicted = told(simulation)
    assert cached == {"1.40"} and evicted == {"1.290"}


def test_nobody_is_told_of_what_came_from_elsewhere():
    simulation = Simulation(blocks=16)
    for seed in range(8):
        converse(simulation, seed, ends=())
    assert told(simulation) == (set(), set()) and len(simulation.scheduler.labelling.labels) == 0


def test_what_a_tier_has_is_cached_until_the_tier_gives_it_up():
    simulation = Simulation(blocks=16, max_batch=4, tiers={"sizes": {"host": 12}})
    converse(simulation, 1)
    simulation.settle()
    assert told(simulation)[0] == {"1.20", "1.40", "1.75"}
    host = simulation.scheduler.copies.tiers.ledgers[0]
    evicted = set()
    for seed in range(2, 12):
        converse(simulation, seed)
        simulation.settle()
        evicted |= told(simulation)[1]
        chain = simulation.scheduler.labelling._is_there
        for label, there in ((each, chain(key)) for key, at in labels_at(simulation) for each in at):
            assert there, label
    assert {"1.20", "1.40", "1.75"} <= evicted and host.stored


def labels_at(simulation):
    return simulation.scheduler.labelling.labels._at.items()


def test_under_pressure_the_sum_of_what_was_told_is_what_is_there():
    rng = random.Random(5)
    simulation = Simulation(blocks=24, max_batch=4, tiers={"sizes": {"host": 20}})
    believed = set()

    def hear():
        cached, evicted = told(simulation)
        assert not cached & believed
        believed.difference_update(evicted)
        believed.update(cached)

    open_names = []
    for _ in range(200):
        seed, ends = rng.randrange(12), sorted(rng.sample(range(5, 80), 3))
        ended = [name for name in open_names if name in simulation.ended]
        open_names.append(
            simulation.submit(conversation(seed), max_tokens=rng.randrange(1, 20), marks=marks(seed, *ends))
        )
        for _ in range(rng.randrange(6)):
            simulation.step()
        if rng.random() < 0.2 and open_names[-1] not in simulation.ended:
            simulation.cancel(open_names[-1])
        for name in ended:
            simulation.scheduler.labelling.mark(name, marks(seed, 90))
        hear()
    simulation.run()
    simulation.settle()
    hear()
    labels = simulation.scheduler.labelling.labels
    labels.check()
    assert believed == names(labels._blocks)
    there = simulation.scheduler.labelling._is_there
    assert all(there(key) for key in labels._at) and len(labels) > 10
