"""Threads that take a job's units: each unit once, each part whole, and nobody is waited for in vain."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numba import carray, cfunc, types
from numba.extending import intrinsic

from ridgeline.kernels.jit.team import Team, fetch_add, finish, load, store, take

PARTS = 400
THREADS = pytest.mark.parametrize("threads", [1, 2, 3])

Integers = npt.NDArray[np.int64]


@pytest.fixture
def make_team() -> Iterator[Callable[[int], Team]]:
    teams = []

    def make(threads: int) -> Team:
        teams.append(Team(threads, PARTS))
        return teams[-1]

    yield make
    for team in teams:
        team.close()


@intrinsic
def _pointer(typing, address):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int64)(types.intp), generate


def entry(function: Callable[..., None]) -> int:
    """Its address, compiled; it stays alive with the module."""
    compiled = cfunc(types.void(types.intp, types.intp, types.intp))(function)
    _alive.append(compiled)
    return int(compiled.address)


_alive: list[Any] = []


def job_of(*words: int | Integers) -> tuple[int, Integers]:
    """An array of numbers and addresses, and its own address."""
    array = np.array([word if isinstance(word, int) else word.ctypes.data for word in words], np.int64)
    return array.ctypes.data, array


def _pass_on(thread, shared, job):  # type: ignore[no-untyped-def]
    """Each part makes its row of the one before, from end to end: what is not finished would show."""
    units, values_at, takers_at = carray(_pointer(job), 3)
    values, takers = carray(_pointer(values_at), (PARTS, units)), carray(_pointer(takers_at), (PARTS, units))
    for part in range(1, PARTS):
        done = 0
        unit = take(shared, part)
        while unit < units:
            values[part, unit] = values[part - 1, units - 1 - unit] + 1
            takers[part, unit] += 1 << (8 * thread)
            done += 1
            unit = take(shared, part)
        finish(shared, part, done, units)


@pytest.fixture(scope="module")
def pass_on() -> int:
    return entry(_pass_on)


@THREADS
@pytest.mark.parametrize("units", [1, 2, 7, 64])
def test_units_are_taken_once_and_parts_are_whole_before_the_next(
    make_team: Callable[[int], Team], pass_on: int, threads: int, units: int
) -> None:
    team = make_team(threads)
    for repetition in range(30):
        values, takers = np.zeros((PARTS, units), np.int64), np.zeros((PARTS, units), np.int64)
        values[0] = repetition
        address, _kept = job_of(units, values, takers)
        team.run(pass_on, address)
        assert np.array_equal(values, np.broadcast_to(np.arange(PARTS)[:, None] + repetition, values.shape))
        assert np.isin(takers[1:], [1 << (8 * thread) for thread in range(threads)]).all()


def test_jobs_one_after_the_other_never_meet(make_team: Callable[[int], Team], pass_on: int) -> None:
    """Thousands in a row, some at once and some after the others fell asleep: a thread that came too
    late for one would be seen to change its memory afterwards."""
    team, units = make_team(3), 3
    done: list[tuple[Integers, int]] = []
    for repetition in range(600):
        values, takers = np.zeros((PARTS, units), np.int64), np.zeros((PARTS, units), np.int64)
        values[0] = repetition
        address, _kept = job_of(units, values, takers)
        team.run(pass_on, address)
        done.append((takers, int(takers.sum())))
        if repetition % 50 == 0:
            time.sleep(0.002)
    assert all(int(takers.sum()) == total for takers, total in done)


def _add_up(thread, shared, job):  # type: ignore[no-untyped-def]
    counter, rounds, entered = carray(_pointer(job), 3)
    fetch_add(entered, 1)
    for _ in range(rounds):
        fetch_add(counter, 1)


@THREADS
def test_additions_are_not_lost(make_team: Callable[[int], Team], threads: int) -> None:
    team, counter, entered = make_team(threads), np.zeros(1, np.int64), np.zeros(1, np.int64)
    address, _kept = job_of(counter, 100_000, entered)
    add_up = entry(_add_up)
    for _ in range(10):
        team.run(add_up, address)
    assert 10 <= entered[0] <= 10 * threads
    assert counter[0] == 100_000 * entered[0]


def _wait_for_the_others(thread, shared, job):  # type: ignore[no-untyped-def]
    """Who takes the first unit keeps it until the rest are done."""
    others_done, holders_at, units = carray(_pointer(job), 3)
    holders = carray(_pointer(holders_at), units)
    done = 0
    unit = take(shared, 0)
    while unit < units:
        holders[unit] = thread
        if unit == 0:
            while load(others_done) < units - 1:
                pass
        else:
            fetch_add(others_done, 1)
        done += 1
        unit = take(shared, 0)
    finish(shared, 0, done, units)


@pytest.mark.parametrize("threads", [2, 3])
def test_a_thread_that_is_held_up_leaves_the_rest_to_the_others(
    make_team: Callable[[int], Team], threads: int
) -> None:
    team, units, function = make_team(threads), 50, entry(_wait_for_the_others)
    others_done, holders = np.zeros(1, np.int64), np.full(units, -1, np.int64)
    address, _kept = job_of(others_done, holders, units)
    for _ in range(20):
        others_done[:] = 0
        team.run(function, address)
        assert holders[0] not in holders[1:]


def _alone(thread, shared, job):  # type: ignore[no-untyped-def]
    """What is done by whoever has it first: nobody else has to come for it."""
    word = carray(_pointer(job), 1)
    if take(shared, 0) == 0:
        store(word[0], thread + 1)


def test_nobody_waits_for_a_thread_that_does_not_come(make_team: Callable[[int], Team]) -> None:
    team, function, word = make_team(3), entry(_alone), np.zeros(1, np.int64)
    lost = team._end.detach()
    assert lost is not None
    lost[1]()  # ends the threads, but does not say so to the team
    for thread in team._others:
        thread.join()
    team._end = weakref.finalize(team, lambda: None)
    address, _kept = job_of(word)
    for _ in range(3):
        word[:] = 0
        team.run(function, address)
        assert word[0] == 1


def compute_threads() -> set[Any]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("ridgeline-compute-")}


@THREADS
def test_closing_ends_the_threads(threads: int) -> None:
    before = compute_threads()
    team = Team(threads, 1)
    own = compute_threads() - before
    assert len(own) == threads - 1
    word = np.zeros(1, np.int64)
    address, _kept = job_of(word)
    team.run(entry(_alone), address)
    team.close()
    team.close()
    assert not any(thread.is_alive() for thread in own)
    with pytest.raises(RuntimeError, match="closed"):
        team.run(entry(_alone), address)


def test_threads_of_a_team_that_is_forgotten_end_too() -> None:
    before = compute_threads()
    team = Team(3, 1)
    own = compute_threads() - before
    del team
    gc.collect()
    for thread in own:
        thread.join(60)
        assert not thread.is_alive()
