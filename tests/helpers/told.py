"""Timelines of requests, as an engine tells them, with times that are easy to add up."""

from ridgeline.protocol import Event, Timeline
from ridgeline.protocol.timeline import (
    ANOTHER_USER,
    Admitted,
    AnswerTimeline,
    Evicted,
    Finished,
    FirstToken,
    LoadBegun,
    Loaded,
    Matched,
    NotLoaded,
    Preempted,
    Prefilled,
    Queued,
    Refused,
    Saved,
)

RECEIVED = 1000.0

LONG: list[Event] = [
    Queued(1000.1, 800, 200, 3, 8, 1.5, 2.5, 512),
    NotLoaded(1000.1, "disk", 64, 0.4, 0.05),
    LoadBegun(1002.1, "host", 256, 0.25),
    Loaded(1002.6, "host", 192, 64, 0.25, 0.5, "no_room"),
    Matched(
        1002.6,
        320,
        {"host": 192},
        208,
        64,
        16,
        (
            Evicted(160, "chatcmpl-b", 940.0, 2e-6),
            Evicted(48, ANOTHER_USER, 970.0, None),
        ),
        4096,
    ),
    Admitted(1002.6, {"line": 0.5, "slots": 1.0, "blocks": 0.6, "load": 0.5}),
    Prefilled(1003.6, 512, 800, 3, 1.0, True),
    FirstToken(1003.6, 3.6, 2.5),
    Preempted(1005.6, "chatcmpl-c", "blocks", 55, 880, 0.8),
    Matched(1006.6, 640, {}, 160, 0, 80, (), 2048, 240),
    Admitted(1006.6, {"line": 1.0}, again=True),
    Prefilled(1007.1, 640, 881, 2, 0.5, True),
    Saved(1010.0, "host", 60),
    Finished(1010.0, "stop", 161, 6.4),
]
"""10 s: 0.1 arrival, 2 queue, 0.5 load, 1 prefill, 2 + 2.9 decode, 1 preempted, 0.5 recompute."""

FULL: list[Event] = [Refused(1000.1, "at_capacity", "The line is full: 8 of 8 places are taken.", 12.0)]

GOING: list[Event] = [
    Queued(1000.1, 80, 20, 0, 1),
    Matched(1000.2, 0, {}, 0, 64, 16),
    Admitted(1000.2, {"line": 0.1}),
    Prefilled(1000.5, 0, 80, 2, 0.3, True),
    FirstToken(1000.5, 0.5),
]


def timeline(*answers: list[Event], now: float = 1010.0, **more: object) -> Timeline:
    fields = {
        "id": "chatcmpl-a",
        "name": "request-a",
        "tenant": "local",
        "model": "tiny",
        "received_seconds": RECEIVED,
        "received_unix_seconds": 1_780_000_000.0,
        "now_seconds": now,
        "answers": tuple(AnswerTimeline(tuple(events)) for events in answers),
    }
    return Timeline(**{**fields, **more})
