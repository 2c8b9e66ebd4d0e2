"""When a front door asks a replica for its cache's log, and what it makes of the answers."""

import random

import pytest

from ridgeline.fleet.core.decisions import Arrival
from ridgeline.fleet.core.door import Door
from ridgeline.fleet.core.replica import Load, Replica
from ridgeline.fleet.reports import WHOLE_SECONDS, Reports
from ridgeline.fleet.upstream import Fault
from ridgeline.protocol.cached import CacheReport

KEYS = [bytes([number]) * 8 for number in range(4)]


class Log:
    """A replica's, by hand."""

    speaks_ridgeline = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: CacheReport | Fault | None = CacheReport("e", 3, True, tuple(KEYS), ())

    async def cache_report(self, session: object, since: str) -> CacheReport | None:
        self.asked.append(since)
        if isinstance(self.answer, Fault):
            raise self.answer
        return self.answer


class Fleet:
    def __init__(self) -> None:
        self.now = 1000.0
        self.door, self.log = Door("us", {}, rng=random.Random(1)), Log()
        self.reports = Reports(self.door, None, lambda: self.now)  # type: ignore[arg-type]
        self.door.joined(Replica("a", "us", "a", frozenset({"m"}), 4, 1e4, 0.0), self.now)
        self.door.told("a", Load(self.now, 0, 4), self.now)

    async def look(self) -> list[str]:
        """What was asked of the replica by this look."""
        self.now += 1
        before = len(self.log.asked)
        await self.reports.look("a", self.log)  # type: ignore[arg-type]
        return self.log.asked[before:]

    def believed(self) -> int:
        return self.door._prefixes.match(KEYS).get("a", 0)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


async def test_it_asks_where_there_may_be_something_new_and_only_there(fleet: Fleet) -> None:
    assert await fleet.look() == [""] and fleet.believed() == 4
    assert await fleet.look() == []
    fleet.reports.heard("a", 3)
    assert await fleet.look() == []
    fleet.reports.heard("a", 4)
    fleet.log.answer = CacheReport("e", 5, False, (), (KEYS[2],))
    assert await fleet.look() == ["e:3"] and fleet.believed() == 2
    fleet.door.arrive(Arrival("q", "m", (b"other",), 9), fleet.now)
    assert await fleet.look() == ["e:5"]
    fleet.door.ended("q", fleet.now, prompt_tokens=3, cached_tokens=0, full_keys=[])
    assert await fleet.look() == ["e:5"], "it was busy when it was looked at before"
    assert await fleet.look() == []


async def test_after_a_while_all_is_asked_for(fleet: Fleet) -> None:
    await fleet.look()
    fleet.now += WHOLE_SECONDS
    fleet.reports.heard("a", 9)
    assert await fleet.look() == [""]


async def test_one_that_has_come_anew_is_asked_for_all(fleet: Fleet) -> None:
    await fleet.look()
    fleet.door.joined(Replica("a", "us", "a", frozenset({"m"}), 4, 1e4, 0.0), fleet.now)
    fleet.reports.forget("a")
    assert fleet.believed() == 0
    assert await fleet.look() == [""] and fleet.believed() == 4


async def test_a_fault_is_tried_again_and_one_that_tells_nothing_is_not(fleet: Fleet) -> None:
    fleet.log.answer = Fault("broken")
    assert await fleet.look() == [""]
    fleet.reports.heard("a", 1)
    fleet.log.answer = None
    assert await fleet.look() == [""]
    fleet.reports.heard("a", 2)
    assert await fleet.look() == []
    assert fleet.believed() == 0 and not fleet.door.replicas["a"].reports


async def test_other_servers_are_not_asked(fleet: Fleet) -> None:
    fleet.log.speaks_ridgeline = False
    assert await fleet.look() == []


RIGHT = {"epoch": "e", "next": 1, "whole": False, "cached": [], "evicted": []}


@pytest.mark.parametrize(
    "told", [None, [], {}, RIGHT | {"cached": ["zz"]}, RIGHT | {"evicted": 3}, RIGHT | {"next": None}]
)
def test_nonsense_is_no_report(told: object) -> None:
    with pytest.raises(ValueError):
        CacheReport.from_json(told)
    assert CacheReport.from_json(RIGHT) == CacheReport("e", 1, False, (), ())
