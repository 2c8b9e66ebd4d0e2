"""A timeline as a story: where the time went, in which words, and what more room would have changed."""

import pytest
import told

from ridgeline.protocol.timeline import (
    ANOTHER_USER,
    AnswerTimeline,
    Event,
    Finished,
    FirstToken,
    Matched,
    Placed,
    Preempted,
    Queued,
    Returned,
    WentOn,
)
from ridgeline.telemetry.sentences import duration, sentence
from ridgeline.telemetry.story import Story, story


def of(events: list[Event], now: float = 1010.0) -> Story:
    timeline = told.timeline(events, now=now)
    return story(timeline, timeline.answers[0])


def test_every_second_is_accounted_for() -> None:
    long = of(told.LONG)
    assert long.state == "finished" and long.total_seconds == pytest.approx(10.0)
    spent = {name: round(seconds, 6) for name, seconds in long.spent.items()}
    assert spent == {
        "arrival": 0.1, "queue": 2.0, "load": 0.5, "prefill": 1.0, "decode": 4.9, "preempted": 1.0,
        "recompute": 0.5,
    }  # fmt: skip
    ends = [phase.end_seconds for phase in long.phases]
    assert [phase.start_seconds for phase in long.phases] == [0.0, *ends[:-1]]


def test_one_that_goes_on_is_told_until_now() -> None:
    going = of(told.GOING, now=1002.0)
    assert going.state == "running" and going.total_seconds == 2.0
    assert going.spent["decode"] == pytest.approx(1.5)
    waiting = of(told.GOING[:1], now=1002.0)
    assert waiting.state == "waiting" and waiting.spent["queue"] == pytest.approx(1.9)
    put_aside = of([*told.GOING, Preempted(1001.0, "b", "blocks", 3, 80, 0.1)], now=1002.0)
    assert put_aside.state == "waiting" and put_aside.spent["preempted"] == 1.0
    nothing = of([], now=1002.0)
    assert nothing.state == "waiting" and nothing.spent == {"arrival": 2.0}


def test_a_refusal_ends_the_story() -> None:
    full = of(told.FULL)
    assert full.state == "refused" and full.total_seconds == pytest.approx(0.1)
    assert full.sentences == (
        "Refused (at_capacity): The line is full: 8 of 8 places are taken. The wait was computed as 12 s.",
    )


def test_the_words() -> None:
    says = of(told.LONG).sentences
    assert len(says) == len(told.LONG)
    for part in (
        "prompt of 800 tokens; 3 others waited, 8 answers ran. Foretold: a wait of 1.5 s, the first token "
        "after 2.5 s, 512 tokens of the prompt cached.",
        "64 tokens on disk were left there: reading them takes 400 ms, computing them 50 ms.",
        "192 tokens were loaded from the host's memory in 500 ms (250 ms were expected); 64 tokens found no "
        "room on the device.",
        "Found 320 tokens on the device and 192 tokens from the host's memory; 208 tokens had been evicted: "
        "160 to make room for request chatcmpl-b, 60 s before it came, at a price of 7.2 ms an "
        "hour, 48 to make room for another user's request, 30 s before it came; 64 tokens had "
        "never been seen; the last 16 are computed in any case.",
        "after 2.6 s: it waited 1 s for a place in the batch (--max-batch), 600 ms for KV blocks",
        "Computed 288 tokens (512 to 800) in 3 steps and 1 s.",
        "The first token came after 3.6 s (2.5 s had been foretold).",
        "Had to leave the batch for request chatcmpl-c, because KV blocks were short: it let go of 55 blocks",
        "240 tokens have to be computed a second time.",
        "60 blocks of its KV were copied to the host's memory.",
        "Ended by itself after 161 tokens, 25.0 a second.",
    ):
        assert any(part in sentence for sentence in says), part


def test_what_more_room_would_have_changed() -> None:
    assert of(told.LONG).advice == (
        "With more room on the device the other 64 tokens could have been loaded, too.",
        "With about 4,096 tokens more room for the KV cache, 208 tokens of the prompt would still have been "
        "there, which would have saved about 722 ms.",
        "With more room for the KV cache it would have waited at least 600 ms less.",
        "With more room for the KV cache it would not have had to leave the batch.",
    )
    assert of(told.GOING).advice == () == of(told.FULL).advice


def test_itself_and_the_unknown() -> None:
    timeline = told.timeline([])
    left = sentence(Preempted(1001.0, timeline.id, "blocks", 1, 16, 0.1), timeline)
    assert "for others that came before it" in left
    assert ANOTHER_USER in sentence(Preempted(1001.0, ANOTHER_USER, "priority", 1, 16, 0.1), timeline)
    assert "at once" in sentence(told.Admitted(1001.0, {"line": 0.0001}), timeline)
    forgotten = Matched(1001.0, 0, {}, 16, 0, 4, (told.Evicted(16, "", 0.0),))
    assert "for a reason that is not remembered" in sentence(forgotten, timeline)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (0.0000123, "12.3 µs"), (0.5, "500 ms"), (59.96, "60 s"), (150, "150 s"),
     (1200, "20 min"), (7200, "120 min"), (90000, "25 h")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_answer_whose_middle_is_left_out_is_still_a_story() -> None:
    events = (*told.LONG[:2], *told.LONG[-3:])
    timeline = told.timeline([])
    assert story(timeline, AnswerTimeline(events, omitted=9)).state == "finished"


def test_what_a_front_door_did() -> None:
    told_of = of(
        [
            Queued(1000.1, 300, 20, 0, 2),
            Placed(1000.2, "us-a/h:1", 1, 0.1, 128, 0.0, 0.05, 0.0, 0.004, {"eu-a/h:2": 0.13}),
            Returned(1000.3, "us-a/h:1", "full", "no place", 0),
            Placed(1000.3, "eu-a/h:2", 2, 0.0, 0, 0.2, 0.05, 0.08, 0.0, {}),
            FirstToken(1000.5, 0.5, 0.33),
            Returned(1001.0, "eu-a/h:2", "fault", "the connection broke", 7),
            Placed(1001.0, "us-a/h:1", 3, 0.0, 128, 0.0, 0.05, 0.0, 0.0, {}),
            WentOn(1001.25),
            Finished(1002.0, "stop", 20, 1.5),
        ]
    )
    assert told_of.state == "finished"
    assert {name: round(seconds, 6) for name, seconds in told_of.spent.items()} == {
        "arrival": 0.1, "queue": 0.1, "prefill": 0.3, "decode": 1.25, "recompute": 0.25,
    }  # fmt: skip
    says = " ".join(told_of.sentences)
    for part in (
        "Sent to us-a/h:1 after 100 ms; expected there: 50 ms of computing with 128 tokens cached, and 4 ms "
        "are counted for the crowd in its batch. The next best: eu-a/h:2 130 ms.",
        "us-a/h:1 had no place after all.",
        "Sent to eu-a/h:2 (attempt 2); expected there: 200 ms of waiting, 50 ms of computing with 0 tokens "
        "cached, 80 ms of way.",
        "eu-a/h:2 failed after 7 pieces of the answer: the connection broke",
        "The answer went on there.",
    ):
        assert part in says, says
