"""The replica that computes what lies between two events, beside one that makes every step."""

import math

import pytest
from tests.helpers.small_fleet import machine

from ridgeline.roofline import Work, step_cost
from ridgeline.simulate.fleet_load import PIECE_TOKENS
from ridgeline.simulate.fleet_memory import KeyMemory
from ridgeline.simulate.fleet_replica import CHUNK_TOKENS, Job, SimulatedReplica


def keys(name, tokens):
    return tuple(f"{name}{piece}".encode() for piece in range(tokens // PIECE_TOKENS))


def job(name, prompt, answer, shared=0):
    own = keys(name, prompt + answer - shared)
    return Job(name, keys("shared", shared) + own, prompt, answer)


def run(replica, coming=()):
    """Jobs with their times in; times of first tokens and of ends out."""
    first, ended = {}, {}
    coming = sorted(coming, key=lambda each: each[0])
    while coming or replica.running:
        due = replica.next_seconds()
        arrival = coming[0][0] if coming else math.inf
        began, ends = replica.advance(min(due, arrival))
        first |= {each.id: replica.now for each in began}
        ended |= {each.id: replica.now for each in ends}
        if arrival < due:
            replica.take(coming.pop(0)[1])
        replica.check()
    return first, ended


def stepped(of, coming):
    """The same, one step after the other: a chunk of the first prompt, and a token for all who draw."""
    now, first, ended = 0.0, {}, {}
    waiting, drawing = [], {}
    coming = sorted(coming, key=lambda each: each[0])
    while coming or waiting or drawing:
        while coming and (coming[0][0] <= now or not (waiting or drawing)):
            arrival, new = coming.pop(0)
            now = max(now, arrival)
            waiting.append([new, new.prompt_tokens])
        work = Work.of([(1, context) for context, _ in drawing.values()], len(drawing))
        if waiting:
            new, left = waiting[0]
            chunk = min(CHUNK_TOKENS, left)
            work = work.with_chunk(chunk, new.prompt_tokens - left)
            waiting[0][1] -= chunk
        now += step_cost(of.shape, of.hardware, of.dtype, work).seconds
        for name in list(drawing):
            context, left = drawing[name]
            drawing[name] = (context + 1, left - 1)
            if left == 1:
                del drawing[name]
                ended[name] = now
        if waiting and not waiting[0][1]:
            new, _ = waiting.pop(0)
            drawing[new.id] = (new.prompt_tokens, new.answer_tokens)
            first[new.id] = now
    return first, ended


@pytest.mark.parametrize("together", [1, 4, 12])
def test_agrees_with_a_replica_that_makes_every_step(together):
    of = machine(slots=64, kv_tokens=10**6)

    def coming():
        return [(0.013 * n, job(f"j{n}", 500 + 700 * (n % 4), 100 + 40 * n)) for n in range(together)]

    first, ended = run(SimulatedReplica(of), coming())
    plain_first, plain_ended = stepped(of, coming())

    assert first == {name: pytest.approx(seconds, rel=0.08) for name, seconds in plain_first.items()}
    assert ended == {name: pytest.approx(seconds, rel=0.05) for name, seconds in plain_ended.items()}


def test_what_is_cached_is_not_computed_again():
    replica = SimulatedReplica(machine())
    long, again = job("a", 8010, 100), job("a", 8010, 100)

    first, _ = run(replica, [(0.0, long)])
    start = replica.now
    later, _ = run(replica, [(start, again)])

    assert again.cached_tokens == 8000 // PIECE_TOKENS * PIECE_TOKENS
    assert later["a"] - start < first["a"] / 4


def test_a_shared_beginning_is_held_once():
    replica = SimulatedReplica(machine())
    for number in range(8):
        replica.take(job(f"j{number}", 2112, 400, shared=2048))
    while replica.running < 8:
        replica.advance(replica.next_seconds())

    assert replica.running == 8
    assert replica.memory.held_tokens < 2048 + 8 * (64 + 400)


def test_memory_that_runs_out_puts_back_the_last_one_and_all_end():
    replica = SimulatedReplica(machine(slots=8, kv_tokens=4000))
    coming = [(0.0, job(f"j{number}", 700, 600)) for number in range(5)]

    _, ended = run(replica, coming)

    assert set(ended) == {each.id for _, each in coming}
    assert replica.preempted > 0
    assert ended["j0"] < ended["j4"]
    assert replica.memory.held_tokens == 0


def test_slots_bound_the_batch_and_places_are_granted_by_slots_and_memory():
    replica = SimulatedReplica(machine(slots=2, kv_tokens=2600))
    replica.take(job("a", 960, 50))
    assert replica.promised_tokens >= 200, "an answer is expected, and kept room for"
    assert replica.has_place(keys("b", 960), 960)
    assert not replica.has_place(keys("b", 1280), 1280), "its memory would not suffice"
    assert replica.has_place(keys("a", 960), 1280), "what is in use is there already"
    replica.take(job("b", 960, 50))
    assert not replica.has_place((), 10), "it has two slots"


def test_idle_pieces_are_forgotten_from_the_end_of_the_one_used_longest_ago():
    memory = KeyMemory(8 * PIECE_TOKENS)
    memory.keep(keys("old", 4 * PIECE_TOKENS))
    memory.keep(keys("new", 4 * PIECE_TOKENS))
    memory.hold(keys("mine", 2 * PIECE_TOKENS))
    memory.shrink()

    assert memory.matched(keys("old", 4 * PIECE_TOKENS)) == 2
    assert memory.matched(keys("new", 4 * PIECE_TOKENS)) == 4
    memory.release(keys("mine", 2 * PIECE_TOKENS), computed=1)
    assert memory.matched(keys("mine", 2 * PIECE_TOKENS)) == 1, "what was not computed is not there"
    memory.check()


def test_what_dies_has_given_so_many_tokens():
    replica = SimulatedReplica(machine())
    mine = job("a", 640, 500)
    replica.take(mine)
    replica.advance(replica.next_seconds())
    began = replica.now
    end = replica.next_seconds()
    replica.advance((began + end) / 2)

    assert replica.given(mine) == pytest.approx(250, abs=1)
