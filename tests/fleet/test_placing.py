"""Which replica is started and ended next: examples, and worlds in which things happen by chance."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.fleet.core.placing import (
    MOST_PAUSE_SECONDS,
    SILENT_SECONDS,
    Present,
    Remove,
    Start,
    State,
    Stop,
    Wanted,
    decide,
    is_done,
    pause_seconds,
)

NEW, OLD = "new", "old"
LONG = 1000.0
"""Since 0, any state has lasted for long."""


def there(*states: tuple[str, State], since: float = 0.0) -> list[Present]:
    """Replicas in places from 0."""
    return [Present(place, settings, state, since) for place, (settings, state) in enumerate(states)]


def test_what_is_missing_is_started_at_once() -> None:
    assert decide(Wanted(3, NEW), there((NEW, "ready")), LONG) == [Start(1), Start(2)]


def test_what_is_too_much_is_ended_at_once() -> None:
    present = there((NEW, "ready"), (NEW, "ready"), (OLD, "starting"), (NEW, "stopping"), (NEW, "ended"))
    assert decide(Wanted(1, NEW), present, LONG) == [Remove(present[4]), Stop(present[1]), Stop(present[2])]
    assert decide(Wanted(0, NEW), there((NEW, "silent")), LONG) == [Remove(there((NEW, "silent"))[0])]
    assert decide(Wanted(0, NEW), there((NEW, "silent")), 1.0) == []


def test_a_change_touches_one_after_the_other() -> None:
    def touched(*states: tuple[str, State]) -> list[int]:
        actions = decide(Wanted(3, NEW), there(*states), LONG)
        assert all(isinstance(each, Stop) for each in actions)
        return [each.replica.place for each in actions if isinstance(each, Stop)]

    assert touched((OLD, "ready"), (OLD, "ready"), (OLD, "ready")) == [0]
    assert touched((OLD, "stopping"), (OLD, "ready"), (OLD, "ready")) == []
    assert touched((NEW, "starting"), (OLD, "ready"), (OLD, "ready")) == []
    assert touched((NEW, "ready"), (OLD, "ready"), (OLD, "ready")) == [1]
    assert touched((NEW, "ready"), (NEW, "failing"), (OLD, "ready")) == [], "what fails goes no further"
    assert touched((OLD, "failing"), (NEW, "failing"), (OLD, "starting")) == [0, 2], "these serve nobody"
    fresh = [Present(0, NEW, "ready", LONG - 1.0), Present(1, OLD, "ready", 0.0)]
    assert decide(Wanted(2, NEW), fresh, LONG) == [], "front doors may not know it yet"


def test_what_waits_for_room_does_not_hold_up_a_change_for_ever() -> None:
    present = there((NEW, "silent"), (OLD, "ready"))
    assert decide(Wanted(2, NEW), present, SILENT_SECONDS - 1) == []
    assert decide(Wanted(2, NEW), present, SILENT_SECONDS + 1) == [Stop(present[1])]
    present = there((OLD, "ready"), (OLD, "silent"), (OLD, "silent"))
    assert decide(Wanted(3, NEW), present, LONG) == [Remove(present[1])], "one after the other, too"


def test_pauses_grow_to_a_limit() -> None:
    pauses = [pause_seconds(failures) for failures in range(1, 30)]
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0] and pauses[-1] == MOST_PAUSE_SECONDS
    assert pauses == sorted(pauses)


@dataclass
class World:
    """Replicas that do as they are told, each in its time."""

    now: float = 0.0
    replicas: dict[tuple[int, str], Present] = field(default_factory=dict)

    def turn(self, replica: Present, state: State) -> None:
        self.replicas[replica.place, replica.settings] = Present(
            replica.place, replica.settings, state, self.now
        )

    def act(self, wanted: Wanted) -> None:
        for action in decide(wanted, self.replicas.values(), self.now):
            match action:
                case Start(place):
                    assert (place, wanted.settings) not in self.replicas
                    self.turn(Present(place, wanted.settings, "silent", 0.0), "silent")
                case Stop(replica):
                    assert replica.state not in ("stopping", "ended", "silent")
                    self.turn(replica, "stopping")
                case Remove(replica):
                    assert replica.state in ("ended", "silent")
                    del self.replicas[replica.place, replica.settings]

    def pass_time(self, seconds: float) -> None:
        following: dict[State, State] = {"silent": "starting", "starting": "ready", "stopping": "ended"}
        self.now += seconds
        for replica in list(self.replicas.values()):
            if replica.state in following and self.now - replica.since >= 1.0:
                self.turn(replica, following[replica.state])


STATES = st.sampled_from(["silent", "starting", "ready", "failing", "stopping", "ended"])


@given(
    st.dictionaries(st.tuples(st.integers(0, 7), st.sampled_from([NEW, OLD, "older"])), STATES),
    st.integers(0, 6),
    st.floats(0.2, 5.0),
)
def test_from_whatever_there_is_it_comes_to_what_is_wanted(
    states: dict[tuple[int, str], State], replicas: int, step: float
) -> None:
    world, wanted = World(), Wanted(replicas, NEW)
    for (place, settings), state in states.items():
        world.turn(Present(place, settings, state, 0.0), state)
    for _ in range(2000):
        if is_done(wanted, world.replicas.values(), world.now):
            break
        world.act(wanted)
        world.pass_time(step)
        for replica in world.replicas.values():
            if replica.state == "failing" and replica.settings == NEW:
                world.turn(replica, "ready")
    assert is_done(wanted, world.replicas.values(), world.now)
    assert decide(wanted, world.replicas.values(), world.now) == []


@given(st.integers(2, 6), st.floats(0.1, 3.0), st.lists(st.integers(0, 5), max_size=12))
def test_a_rolling_change_leaves_all_but_one_serving(replicas: int, step: float, deaths: list[int]) -> None:
    """Beside those that die of themselves: while any is away, none that serves is touched."""
    world, wanted = World(), Wanted(replicas, NEW)
    for place in range(replicas):
        world.replicas[place, OLD] = Present(place, OLD, "ready", -LONG)
    for _ in range(3000):
        before = {each.place for each in world.replicas.values() if each.state == "ready"}
        world.act(wanted)
        after = {each.place for each in world.replicas.values() if each.state == "ready"}
        touched = before - after
        assert len(touched) <= 1
        if touched:
            away_and_new = [
                each for each in world.replicas.values() if each.settings == NEW and each.state != "ready"
            ]
            assert not away_and_new, "the last one did not serve yet"
            assert len(after) >= 1
        world.pass_time(step)
        if deaths:
            place = deaths.pop()
            for each in list(world.replicas.values()):
                if each.place == place and each.state == "ready" and each.settings == NEW:
                    world.turn(each, "starting")
        if is_done(wanted, world.replicas.values(), world.now):
            break
    assert is_done(wanted, world.replicas.values(), world.now)


@given(st.lists(st.tuples(st.sampled_from([NEW, OLD]), STATES), max_size=8), st.integers(0, 8))
def test_what_is_as_wanted_is_never_touched(states: list[tuple[str, State]], replicas: int) -> None:
    for action in decide(Wanted(replicas, NEW), there(*states), LONG):
        if isinstance(action, Stop | Remove):
            each = action.replica
            good = each.place < replicas and each.settings == NEW and each.state != "ended"
            assert not good


@pytest.mark.parametrize("replicas", [0, 1, 3])
def test_a_second_look_finds_nothing_to_do(replicas: int) -> None:
    present = there(*[(NEW, "ready")] * replicas)
    assert decide(Wanted(replicas, NEW), present, LONG) == []
    assert is_done(Wanted(replicas, NEW), present, LONG)
    assert not is_done(Wanted(replicas + 1, NEW), present, LONG)
