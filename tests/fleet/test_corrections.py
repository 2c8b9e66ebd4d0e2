"""What a front door believes to be cached, corrected: by reports, by answers, by requests that came back."""

import random

import pytest

from ridgeline.fleet.core.decisions import Arrival, Send
from ridgeline.fleet.core.door import Door
from ridgeline.fleet.core.replica import Load, Replica
from ridgeline.protocol.prefix_keys import prefix_keys

NOW = 1000.0
KV_TOKENS = 100_000


def keys_of(text: str) -> list[bytes]:
    return prefix_keys("", text.encode())


def text_of(name: str, characters: int = 20_000) -> str:
    return (name + " ") * (characters // (len(name) + 1))


def door_with(*names: str) -> Door:
    door = Door("us", {}, rng=random.Random(7))
    for name in names:
        door.joined(Replica(name, "us", "a", frozenset({"m"}), 4, 10_000.0, 0.0), NOW)
        door.told(name, Load(NOW, 0, 4, kv_tokens=KV_TOKENS), NOW)
    return door


def ask(door: Door, name: str, text: str, now: float) -> Send:
    (sent,) = door.arrive(Arrival(name, "m", tuple(keys_of(text)), len(text)), now)
    assert isinstance(sent, Send)
    door.check()
    return sent


def answer(door: Door, name: str, text: str, now: float, cached: int = 0) -> None:
    door.began(name, now)
    door.ended(
        name, now, prompt_tokens=len(text) // 4, cached_tokens=cached, full_keys=keys_of(text + "said " * 90)
    )
    door.check()


def converse(door: Door, name: str, text: str, now: float, cached: int = 0) -> Send:
    sent = ask(door, name, text, now)
    answer(door, name, text, now + 0.5, cached)
    return sent


def believed(door: Door, replica: str, text: str) -> int:
    return door._prefixes.match(keys_of(text)).get(replica, 0)


def test_what_a_replica_has_evicted_draws_no_request_to_it() -> None:
    door = door_with("a", "b")
    text = text_of("rivers")
    home = converse(door, "q0", text, NOW).replica
    other = {"a": "b", "b": "a"}[home]
    door.told(home, Load(NOW + 1, 1, 4, kv_tokens=KV_TOKENS), NOW + 1)
    door.told(other, Load(NOW + 1, 0, 4, kv_tokens=KV_TOKENS), NOW + 1)
    assert door.options(Arrival("?", "m", tuple(keys_of(text)), len(text)), NOW + 1)[0].replica == home
    door.reported(home, [], keys_of(text), False, NOW + 2, NOW + 2)
    assert believed(door, home, text) == 0
    sent = ask(door, "q1", text, NOW + 2)
    assert (sent.replica, sent.chosen.cached_tokens) == (other, 0)
    assert door.keys_corrected == {"unlearned": len(keys_of(text)), "learned": 0}


def test_what_another_front_door_sent_there_is_known() -> None:
    door, text = door_with("a", "b", "c"), text_of("rivers")
    door.reported("b", keys_of(text), [], False, NOW, NOW)
    assert ask(door, "q0", text, NOW).replica == "b"
    assert door.keys_corrected == {"unlearned": 0, "learned": len(keys_of(text))}


def test_what_is_on_its_way_stays_whatever_a_report_says() -> None:
    door, text = door_with("a"), text_of("rivers")
    ask(door, "q0", text, NOW)
    for whole in (False, True):
        door.reported("a", [], [] if whole else keys_of(text), whole, NOW + 1, NOW + 1)
        assert believed(door, "a", text) == len(keys_of(text))
    answer(door, "q0", text, NOW + 2)
    door.reported("a", [], keys_of(text), False, NOW + 1.9, NOW + 2.1)
    assert believed(door, "a", text) == len(keys_of(text)), "it ended after the replica was asked"
    door.reported("a", [], keys_of(text), False, NOW + 2.2, NOW + 2.3)
    assert believed(door, "a", text) == 0


def test_a_whole_report_is_all_there_is() -> None:
    door = door_with("a")
    texts = [text_of(name) for name in ("rivers", "bridges", "clocks")]
    for number, text in enumerate(texts[:2]):
        converse(door, f"q{number}", text, NOW + number)
    door.reported("a", [*keys_of(texts[1])[:10], *keys_of(texts[2])], [], True, NOW + 9, NOW + 9)
    assert [believed(door, "a", text) for text in texts] == [0, 10, len(keys_of(texts[2]))]


def test_who_reports_is_believed_beyond_what_its_memory_would_hold() -> None:
    door, texts = door_with("a"), [text_of(f"about {number}", 100_000) for number in range(6)]
    for text in texts:
        door.reported("a", keys_of(text), [], False, NOW, NOW)
        door.told("a", Load(NOW, 0, 4, kv_tokens=KV_TOKENS), NOW)
    assert all(believed(door, "a", text) == len(keys_of(text)) for text in texts)


def test_a_report_of_one_who_is_gone_is_nothing() -> None:
    door = door_with("a")
    door.left("a", NOW)
    door.reported("a", keys_of(text_of("rivers")), [], True, NOW, NOW)
    door.check()
    assert believed(door, "a", text_of("rivers")) == 0


@pytest.mark.parametrize("how", ["full", "fault"])
def test_what_never_began_there_is_not_believed_to_be_there(how: str) -> None:
    door = door_with("a", "b")
    old, new = text_of("rivers"), text_of("rivers") + text_of("bridges", 4000)
    home = converse(door, "q0", old, NOW).replica
    assert ask(door, "q1", new, NOW + 1).replica == home
    (door.refused_full if how == "full" else door.failed)("q1", NOW + 1.1)
    door.check()
    assert believed(door, home, new) == len(keys_of(old)), "it had the beginning before"


def test_what_has_begun_or_is_asked_by_another_is_believed_to_be_there() -> None:
    door, text = door_with("a"), text_of("rivers")
    ask(door, "q0", text, NOW)
    ask(door, "q1", text + text_of("bridges"), NOW)
    door.refused_full("q1", NOW)
    assert believed(door, "a", text) == len(keys_of(text))
    door = door_with("a")
    ask(door, "q0", text, NOW)
    door.began("q0", NOW + 1)
    door.failed("q0", NOW + 2)
    assert believed(door, "a", text) == len(keys_of(text))


def lru_door() -> tuple[Door, list[str]]:
    door, texts = door_with("a"), [text_of(f"about {number}") for number in range(4)]
    for number, text in enumerate(texts):
        converse(door, f"q{number}", text, NOW + 10 * number, cached=64)
    return door, texts


def test_an_answer_that_was_not_cached_tells_of_all_that_is_older() -> None:
    door, texts = lru_door()
    converse(door, "again", texts[2], NOW + 60, cached=10)
    assert [believed(door, "a", text) > 0 for text in texts] == [False, False, True, True]
    assert door.keys_corrected["unlearned"] == 2 * len(keys_of(texts[0] + "said " * 90))


def test_it_tells_nothing_of_one_who_reports_or_was_right() -> None:
    door, texts = lru_door()
    converse(door, "right", texts[2], NOW + 60, cached=4500)
    assert all(believed(door, "a", text) for text in texts)
    door.reported("a", [], [], False, NOW + 70, NOW + 70)
    converse(door, "reports", texts[3], NOW + 80, cached=10)
    assert all(believed(door, "a", text) for text in texts)


def test_it_tells_nothing_of_one_whose_answers_never_say_what_was_cached() -> None:
    door, texts = door_with("a"), [text_of(f"about {number}") for number in range(4)]
    for turn in range(2):
        for number, text in enumerate(texts):
            converse(door, f"q{turn}.{number}", text, NOW + 100 * turn + 10 * number)
    assert all(believed(door, "a", text) for text in texts)
