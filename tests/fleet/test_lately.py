"""What a front door did lately: placements with their reasons, and counts."""

import random

from ridgeline.fleet.core.decisions import Arrival, Send
from ridgeline.fleet.core.door import Door
from ridgeline.fleet.core.replica import Load, Replica
from ridgeline.fleet.core.route import Option
from ridgeline.fleet.lately import MOST_PLACEMENTS, Lately

WORDS = "All about rivers and how they are measured. "


def door(*ids: str, slots: int = 4) -> Door:
    made = Door("us", {("eu", "us"): 0.08}, rng=random.Random(1))
    for each in ids:
        replica = Replica(
            each, each[:2], each.partition("/")[0], frozenset({"m"}), slots, 4000.0, up_seconds=-100.0
        )
        made.joined(replica, 0.0)
        made.told(each, Load(0.0, 0, slots), 0.0)
    return made


def send(made: Door, name: str, text: bytes = b"x" * 4096, now: float = 0.0) -> Send:
    keys = tuple(text[i : i + 256] + bytes([i // 256]) for i in range(0, len(text), 256))
    (decision,) = made.arrive(Arrival(name, "m", keys, len(text), max_tokens=16), now)
    assert isinstance(decision, Send)
    return decision


def option(
    replica: str, seconds: float, cached: int = 0, crowding: float = 0.0, place: bool = True
) -> Option:
    return Option(replica, cached, 0.0, seconds, 0.0, crowding, 0.002, place)


def reason(chosen: Option, *others: Option, takers: int = 2, waited: float = 0.0, model: str = "m") -> str:
    lately = Lately(0.0)
    lately.asked("r", "m", 1200, takers)
    lately.placed(Send("r", chosen.replica, model, 1, chosen, others), waited, 0.0)
    return lately.placements[-1].why


def test_why_it_went_there() -> None:
    near, far = option("us-a/1", 0.04, cached=1024), option("eu-a/1", 0.095)
    assert reason(near, far) == (
        "1,024 of 1,200 tokens cached there; 40 ms expected, soonest of 2, next best eu-a/1 95 ms"
    )
    assert reason(option("us-a/1", 0.3), option("eu-a/1", 0.38), takers=2) == (
        "none of 1,200 tokens cached anywhere; 300 ms expected, soonest of 2, next best eu-a/1 380 ms"
    )
    # Others than the next best are not known.
    assert "cached there;" in reason(option("us-a/1", 0.3), option("eu-a/1", 0.38), takers=9)
    assert reason(near, takers=1).endswith("40 ms expected; nobody else takes it")


def test_why_not_where_it_is_cached() -> None:
    chosen = option("eu-a/1", 0.095)
    full = option("us-a/1", 0.9, cached=1024, place=False)
    assert reason(chosen, full) == (
        "none of 1,200 tokens cached there; us-a/1 has 1,024, but no place; "
        "95 ms expected, next best us-a/1 900 ms, but no place"
    )
    further = option("us-a/1", 0.3, cached=1024)
    assert "; us-a/1 has 1,024, but would begin in 300 ms; 95 ms expected" in reason(chosen, further)
    crowded = option("us-a/1", 0.04, cached=1024, crowding=0.5)
    assert "us-a/1 40 ms, but 500 ms are counted for the crowd in its batch" in reason(chosen, crowded)


def test_equals_are_drawn_among() -> None:
    says = reason(option("us-a/1", 0.301), option("us-a/2", 0.3))
    assert says.endswith(
        "301 ms expected; us-a/2 300 ms, as good with crowds and doubts counted: drawn among equals"
    )


def test_waits_and_smaller_models_are_told() -> None:
    says = reason(option("us-a/1", 0.3), waited=1.25, model="small", takers=1)
    assert says.startswith("waited 1.25 s for a place; m had no place, and a smaller model was welcome; ")


def test_what_came_back_goes_elsewhere() -> None:
    made, lately = door("us-a/1", "eu-a/1"), Lately(0.0)
    first = send(made, "r")
    lately.asked("r", "m", 1024, 2)
    lately.placed(first, 0.0, 0.0)
    lately.returned("r", first.replica, "full")
    (second,) = made.refused_full("r", 0.0)
    assert isinstance(second, Send) and second.replica != first.replica
    lately.placed(second, 0.0, 0.0)
    lately.began("r", 0.5)
    earlier, later = lately.placements
    assert (earlier.outcome, later.outcome) == ("full", "answering")
    assert later.why.startswith(f"{first.replica} was full; ") and later.first_token_seconds == 0.5
    lately.ended("r", 1000, 16)
    lately.over("r")
    assert later.outcome == "answered" and later.found_tokens == 16
    assert lately.cached.prompt == 1000 and lately.cached.found == 16
    assert lately.returns[first.replica].full == 1 and lately.returns[second.replica].full == 0


def test_who_goes_away_is_told() -> None:
    lately = Lately(0.0)
    lately.asked("r", "m", 10, 1)
    lately.placed(Send("r", "us-a/1", "m", 1, option("us-a/1", 0.1), ()), 0.0, 0.0)
    lately.over("r")
    lately.over("never placed")
    assert lately.placements[-1].outcome == "left"


def test_it_remembers_a_few_and_counts_a_minute() -> None:
    lately = Lately(0.0)
    for i in range(100):
        lately.came(float(i))
        lately.asked(str(i), "m", 10, 1)
        lately.placed(Send(str(i), "us-a/1", "m", 1, option("us-a/1", 0.1), ()), 0.0, float(i))
        lately.over(str(i))
    lately.refused("at_capacity", 99.0)
    assert [each.request for each in lately.placements] == [str(i) for i in range(70, 100)]
    assert len(lately.placements) == MOST_PLACEMENTS
    assert lately.last_minute(99.5) == (60.0, 60, {"at_capacity": 1})
    assert lately.last_minute(129.5) == (60.0, 30, {"at_capacity": 1})
    assert lately.last_minute(500.0) == (60.0, 0, {})
    assert Lately(10.0).last_minute(15.0) == (5.0, 0, {})
