"""Threads that take a function's units: each unit once, each part whole, and no failure that hangs."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from ridgeline.kernels.jit.team import Team, fetch_add, finish, load, take

PARTS = 400
THREADS = pytest.mark.parametrize("threads", [1, 2, 3])


@pytest.fixture
def make_team() -> Iterator[Callable[[int], Team]]:
    teams = []

    def make(threads: int) -> Team:
        teams.append(Team(threads, PARTS))
        return teams[-1]

    yield make
    for team in teams:
        team.close()


@njit(nogil=True)
def _pass_on(thread, shared, values, takers):  # type: ignore[no-untyped-def]
    """Each part makes its row of the one before, from end to end: what is not finished would show."""
    parts, units = values.shape
    for part in range(1, parts):
        done = 0
        unit = take(shared, part)
        while unit < units:
            values[part, unit] = values[part - 1, units - 1 - unit] + 1
            takers[part, unit] += 1 << (8 * thread)
            done += 1
            unit = take(shared, part)
        finish(shared, part, done, units)


@THREADS
@pytest.mark.parametrize("units", [1, 2, 7, 64])
def test_units_are_taken_once_and_parts_are_whole_before_the_next(
    make_team: Callable[[int], Team], threads: int, units: int
) -> None:
    team = make_team(threads)
    for repetition in range(30):
        values, takers = np.zeros((PARTS, units), np.int64), np.zeros((PARTS, units), np.int64)
        values[0] = repetition
        team.run(_pass_on, values, takers)
        assert np.array_equal(values, np.broadcast_to(np.arange(PARTS)[:, None] + repetition, values.shape))
        assert np.isin(takers[1:], [1 << (8 * thread) for thread in range(threads)]).all()


@njit(nogil=True)
def _add_up(thread, shared, counter, rounds):  # type: ignore[no-untyped-def]
    for _ in range(rounds):
        fetch_add(counter.ctypes.data, 1)


@THREADS
def test_additions_are_not_lost(make_team: Callable[[int], Team], threads: int) -> None:
    team, counter = make_team(threads), np.zeros(1, np.int64)
    team.run(_add_up, counter, 0)
    team.run(_add_up, counter, 200_000)
    assert counter[0] == 200_000 * threads


@njit(nogil=True)
def _wait_for_the_others(thread, shared, others_done, holders, units):  # type: ignore[no-untyped-def]
    """Who takes the first unit keeps it until the rest are done."""
    done = 0
    unit = take(shared, 0)
    while unit < units:
        holders[unit] = thread
        if unit == 0:
            while load(others_done.ctypes.data) < units - 1:
                pass
        else:
            fetch_add(others_done.ctypes.data, 1)
        done += 1
        unit = take(shared, 0)
    finish(shared, 0, done, units)


@pytest.mark.parametrize("threads", [2, 3])
def test_a_thread_that_is_held_up_leaves_the_rest_to_the_others(
    make_team: Callable[[int], Team], threads: int
) -> None:
    team, units = make_team(threads), 50
    others_done, holders = np.full(1, units, np.int64), np.full(units, -1, np.int64)
    team.run(_wait_for_the_others, others_done, holders, units)
    for _ in range(20):
        others_done[:] = 0
        team.run(_wait_for_the_others, others_done, holders, units)
        assert holders[0] not in holders[1:]


def _failing(who: tuple[int, ...]) -> Callable[..., None]:
    def function(thread: int, shared: int, fails: bool, seen: list[int]) -> None:
        seen.append(thread)
        if fails and thread in who:
            raise ValueError(f"thread {thread}")

    return function


@pytest.mark.parametrize("who", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_a_failure_of_any_thread_is_raised_once(
    make_team: Callable[[int], Team], who: tuple[int, ...]
) -> None:
    team, function = make_team(3), _failing(who)
    team.run(function, False, [])
    for _ in range(3):
        seen: list[int] = []
        with pytest.raises(ValueError, match=f"thread [{''.join(map(str, who))}]"):
            team.run(function, True, seen)
        assert sorted(seen) == [0, 1, 2]
        seen.clear()
        team.run(function, False, seen)
        assert sorted(seen) == [0, 1, 2]


@THREADS
def test_arguments_that_do_not_fit_are_refused_and_the_team_goes_on(
    make_team: Callable[[int], Team], threads: int
) -> None:
    team, counter = make_team(threads), np.zeros(1, np.int64)
    for _ in range(2):
        with pytest.raises(TypingError, match="Unknown attribute"):
            team.run(_add_up, "no array", 1)
        team.run(_add_up, counter, 1)
    assert counter[0] == 1 + threads


@THREADS
def test_the_first_call_is_made_by_the_caller_alone(make_team: Callable[[int], Team], threads: int) -> None:
    """Otherwise all would compile it."""
    team, seen = make_team(threads), []

    def function(thread: int, shared: int) -> None:
        seen.append((thread, threading.current_thread() is threading.main_thread()))

    team.run(function)
    assert seen == [(0, True)]
    seen.clear()
    team.run(function)
    assert sorted(seen) == [(thread, thread == 0) for thread in range(threads)]


def compute_threads() -> set[Any]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("ridgeline-compute-")}


@THREADS
def test_closing_ends_the_threads(threads: int) -> None:
    before = compute_threads()
    team = Team(threads, 1)
    own = compute_threads() - before
    assert len(own) == threads - 1
    function, seen = _failing(()), []
    team.run(function, False, seen)
    team.run(function, False, seen)
    seen.clear()
    team.close()
    team.close()
    for thread in own:
        thread.join(60)
        assert not thread.is_alive()
    assert not seen
