"""What is remembered of requests: under which names, for whom, and how much of it at most."""

import tracemalloc

import told

from ridgeline.protocol import Refusal, Request, Told
from ridgeline.protocol.timeline import Preempted, Prefilled, Refused
from ridgeline.telemetry.timelines import FIRST_EVENTS, LAST_EVENTS, Timelines


def request(name: str, tenant: str = "local", n: int = 1, known_as: str = "") -> Request:
    return Request(
        name, "tiny", prompt="x", tenant=tenant, n=n, received_seconds=told.RECEIVED, name=known_as or name
    )


def test_it_is_found_by_either_name_and_by_nobody_else() -> None:
    timelines = Timelines()
    assert timelines.begin(request("chatcmpl-a", known_as="request-a"))
    timelines.tell([Told("chatcmpl-a/0", tuple(told.GOING))])
    for name in ("chatcmpl-a", "request-a"):
        (found,) = timelines.find(name, "local")
        assert found.answers[0].events == tuple(told.GOING)
        assert timelines.find(name, "stranger") == []
    assert timelines.find("another", "local") == []


def test_two_tenants_may_use_one_name() -> None:
    timelines = Timelines()
    timelines.begin(request("a", "ann", known_as="same"))
    timelines.begin(request("b", "bob", known_as="same"))
    timelines.begin(request("c", "bob", known_as="same"))
    assert [t.id for t in timelines.find("same", "ann")] == ["a"]
    assert [t.id for t in timelines.find("same", "bob")] == ["b", "c"]


def test_a_name_of_ones_own_does_not_hide_behind_anothers_id() -> None:
    timelines = Timelines()
    timelines.begin(request("a", "ann"))
    timelines.begin(request("b", "bob", known_as="a"))
    assert [t.id for t in timelines.find("a", "ann")] == ["a"]
    assert [t.id for t in timelines.find("a", "bob")] == ["b"]


def test_each_answer_has_its_own_events() -> None:
    timelines = Timelines()
    timelines.begin(request("a", n=2))
    timelines.tell([Told("a/1", tuple(told.GOING))])
    (found,) = timelines.find("a", "local")
    assert [len(answer.events) for answer in found.answers] == [0, len(told.GOING)]


def test_a_chunk_that_goes_on_takes_the_place_of_the_one_before() -> None:
    timelines = Timelines()
    timelines.begin(request("a"))
    chunks = [Prefilled(1001.0 + n, 0, 64 * n, n, 1.0 * n, n == 4) for n in (1, 2, 4)]
    timelines.tell([Told("a/0", tuple(chunks[:2])), Told("a/0", tuple(chunks[2:]))])
    timelines.tell([Told("a/0", (Prefilled(1009.0, 0, 9, 1, 1.0, True),))])
    (found,) = timelines.find("a", "local")
    assert [event.last for event in found.answers[0].events] == [256, 9]


def test_the_middle_of_a_very_long_story_is_left_out() -> None:
    timelines = Timelines()
    timelines.begin(request("a"))
    events = [Preempted(1001.0 + i, "b", "blocks", 1, 1, 0.1) for i in range(500)]
    for event in events:
        timelines.tell([Told("a/0", (event,))])
    (answer,) = timelines.find("a", "local")[0].answers
    assert answer.events == (*events[:FIRST_EVENTS], *events[-LAST_EVENTS:])
    assert answer.omitted == 500 - FIRST_EVENTS - LAST_EVENTS


def test_a_refusal_is_told_once_with_its_wait() -> None:
    timelines = Timelines()
    timelines.begin(request("a"))
    refusal = Refusal("at_capacity", "Full.", retry_after_seconds=4.0)
    timelines.refused(request("a"), refusal)
    timelines.refused(request("a"), refusal)
    (answer,) = timelines.find("a", "local")[0].answers
    (event,) = answer.events
    assert isinstance(event, Refused) and (event.code, event.wait_seconds) == ("at_capacity", 4.0)


def test_a_second_request_of_the_same_id_changes_nothing() -> None:
    timelines = Timelines()
    assert timelines.begin(request("a"))
    assert not timelines.begin(request("a", "stranger"))
    assert timelines.find("a", "stranger") == []


def test_no_more_than_so_many_are_remembered() -> None:
    timelines = Timelines(most_requests=10)
    for i in range(100):
        timelines.begin(request(f"r{i}", known_as="same"))
        timelines.tell([Told(f"r{i}/0", tuple(told.LONG)), Told("gone/0", tuple(told.LONG))])
    assert [t.id for t in timelines.find("same", "local")] == [f"r{i}" for i in range(90, 100)]
    assert len(timelines) == 10


def test_they_take_no_more_memory_than_said() -> None:
    most = 2 * 1024**2
    timelines = Timelines(most_requests=100_000, most_bytes=most)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for i in range(4000):
        timelines.begin(request(f"chatcmpl-{i:032}", known_as=f"{i:032}"))
        for event in told.LONG:  # made anew, as they come from the engine's process
            fields = {name: getattr(event, name) for name in type(event).__dataclass_fields__}
            fields["seconds"] = event.seconds + i
            timelines.tell([Told(f"chatcmpl-{i:032}/0", (type(event)(**fields),))])
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert timelines.bytes <= most
    assert 100 < len(timelines) < 4000
    assert 0.3 * most < held < 1.2 * most
    for i in range(4000):
        timelines.begin(request(f"r{i}"))
    assert timelines.bytes <= most
