"""Which replicas of a cluster to start and to end next, by what is wanted and what is there.

    (missing) --Start--> silent --> starting --> ready --Stop--> stopping --> ended --Remove--> (missing)
                                        ^          |
                                        '-- failing <-- its process has ended and is started again

Each place of a cluster, 0 to the number wanted less one, has one replica. One whose settings are not the
wanted ones is ended, and its place is missing then. Of those that serve one at a time is touched, and the
next only when all new ones serve.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["silent", "starting", "ready", "failing", "stopping", "ended"]

SETTLED_SECONDS = 2.0
"""A replica that has become ready is known to its front doors after so long."""

SILENT_SECONDS = 30.0
"""One that has not answered for so long waits for room, or is on a machine that is lost."""

FIRST_PAUSE_SECONDS = 0.5
MOST_PAUSE_SECONDS = 60.0
STEADY_SECONDS = 60.0
"""A process that was ready for so long has not failed at its start."""


@dataclass(frozen=True, slots=True)
class Present:
    """A replica that is there.

    Attributes:
        place: in its cluster, from 0.
        settings: digest of those that it was started with.
        state: see above; `silent` does not answer.
        since: seconds, when it came into that state.
    """

    place: int
    settings: str
    state: State
    since: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many replicas, and the digest of their settings."""

    replicas: int
    settings: str


@dataclass(frozen=True, slots=True)
class Start:
    """A place is missing: start a replica there."""

    place: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Let it end its answers, and then itself."""

    replica: Present


@dataclass(frozen=True, slots=True)
class Remove:
    """It has ended, or does not answer: take it away."""

    replica: Present


Action = Start | Stop | Remove


def decide(wanted: Wanted, present: Iterable[Present], now: float) -> list[Action]:
    """What to do now. To be asked again when that has had time to show."""
    there = sorted(present, key=lambda each: (each.place, each.settings))
    actions: list[Action] = [Remove(each) for each in there if each.state == "ended"]
    alive = [each for each in there if each.state != "ended"]
    for each in alive:
        if each.place >= wanted.replicas:
            actions += _end(each, now)
    inside = [each for each in alive if each.place < wanted.replicas]
    outdated = [each for each in inside if each.settings != wanted.settings]
    # They serve nobody: nothing is lost, and what is wrong with them may be what the change is for.
    actions += [Stop(each) for each in outdated if each.state in ("starting", "failing")]
    actions += _next_in_turn(wanted, inside, outdated, now)
    taken = {each.place for each in there}
    actions += [Start(place) for place in range(wanted.replicas) if place not in taken]
    return actions


def is_done(wanted: Wanted, present: Iterable[Present], now: float) -> bool:
    """Whether all that is wanted is there and serves, and nothing else is there."""
    there = list(present)
    settled = [each for each in there if each.settings == wanted.settings and _settled(each, now)]
    return {each.place for each in settled} == set(range(wanted.replicas)) and len(there) == wanted.replicas


def pause_seconds(failures: int) -> float:
    """Until a process that has ended is started again, after so many ends in a row without a steady time."""
    return min(MOST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(max(0, failures - 1), 16))


def _next_in_turn(
    wanted: Wanted, inside: list[Present], outdated: list[Present], now: float
) -> Iterable[Action]:
    """The one that a rolling change touches next; nothing while the last one is not through."""
    current = {each.place: each for each in inside if each.settings == wanted.settings}
    turns = [each for each in outdated if each.state in ("silent", "ready")]
    places = {each.place for each in inside}
    if not turns or any(each.state == "stopping" for each in inside) or len(places) < wanted.replicas:
        return []
    # Who waits for room may wait for that of the very one that is to be touched.
    if not all(_settled(each, now) or _lost(each, now) for each in current.values()):
        return []
    return _end(min(turns, key=lambda each: (each.state != "silent", each.place)), now)


def _end(replica: Present, now: float) -> list[Action]:
    if replica.state == "stopping":
        return []
    if replica.state == "silent":
        return [Remove(replica)] if _lost(replica, now) else []
    return [Stop(replica)]


def _settled(replica: Present, now: float) -> bool:
    return replica.state == "ready" and now - replica.since >= SETTLED_SECONDS


def _lost(replica: Present, now: float) -> bool:
    return replica.state == "silent" and now - replica.since >= SILENT_SECONDS
