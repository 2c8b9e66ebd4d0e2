"""Workloads, traces and ramps put on a server whose answers are known, and the page made of them."""

import asyncio
import json
import re
import types
from pathlib import Path

import pytest
from fake_openai import FakeServer, serving

from ridgeline.bench.client import new_session
from ridgeline.bench.measure import Measured, Plan, as_json, measure
from ridgeline.bench.page import page
from ridgeline.bench.profiles import WORKLOADS, overridden
from ridgeline.bench.ramp import Ramp
from ridgeline.bench.report import Targets
from ridgeline.bench.runner import Load, Runner
from ridgeline.bench.table import render_all
from ridgeline.bench.work import Source
from ridgeline.bench.workload import Conversation, Shape, WorkloadError

CHAT = overridden(WORKLOADS["chat"], turns=3, system_tokens=20, input_tokens=6, output_tokens=5)


def text_of(measured: Measured) -> str:
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as capture:
        console.print(render_all(measured))
    return capture.get()


def trace_file(folder: Path, rows: list[tuple[float, int, int, list[int]]]) -> Path:
    file = folder / "trace.jsonl"
    file.write_text(
        "".join(
            json.dumps({"timestamp": at, "input_length": given, "output_length": made, "hash_ids": ids})
            + "\n"
            for at, given, made, ids in rows
        )
    )
    return file


async def test_chat_is_asked_as_drawn_and_says_what_speed_distorts() -> None:
    fake = FakeServer(tokens=3)
    async with serving(fake) as url:
        plan = Plan(url, Load(conversations=4, concurrency=2), source=Source(profile=CHAT, speed_up=1e5))
        measured = await measure(plan)
    # Two requests first, to learn what words take.
    assert [len(r["messages"][0]["content"].split()) for r in fake.requests[:2]] == [50, 250]
    assert measured.workload["tokens_per_word"] == 1
    assert all(request["max_tokens"] == 5 for request in fake.requests[2:])
    assert measured.report.completed == 12
    assert [turn.completed for turn in measured.report.turns] == [4, 4, 4]
    (said,) = [note for note in measured.notes if "Pauses are divided by 100000" in note]
    assert "Do not size a cache" in said
    assert said.split(".")[0] in text_of(measured)


async def test_pauses_are_waited_for() -> None:
    """In the closed loop a user pauses before each turn, in the open loop before each but the first."""
    waited: list[float] = []
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        if seconds > 0:
            waited.append(round(seconds, 6))
            now += seconds

    fake = FakeServer(tokens=1)
    chats = [Conversation(("a", "b"), think_seconds=(100.0, 30.0)) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        async with serving(fake) as url, new_session(10, {}) as session:

            async def run(load: Load, arrivals: list[float] | None = None) -> None:
                runner = Runner(session, url, {"model": "fake"}, iter(chats), clock=lambda: now)
                patch.setattr(runner, "_watch_loop", lambda delays: sleep(0))
                with pytest.MonkeyPatch.context() as inner:
                    # For the runner alone: servers of other tests sleep in this process, too.
                    its_asyncio = types.SimpleNamespace(**vars(asyncio) | {"sleep": sleep})
                    inner.setattr("ridgeline.bench.runner.asyncio", its_asyncio)
                    await runner.run(load, arrivals)

            await run(Load(conversations=2, concurrency=1))
            first, *others = waited
            assert 0 <= first < 100  # a user begins somewhere within a pause
            assert others == [30, 100, 30]
            waited.clear()
            await run(Load(conversations=2, concurrency=None), arrivals=[5.0, 8.0])
            assert sorted(waited) in ([3, 5, 30, 30], [5, 30, 30])


async def test_a_trace_is_replayed_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    rows = [(0.0, 520, 7, [1, 2]), (10.0, 1030, 8, [1, 3, 4]), (20.0, 4000, 9, list(range(5, 13)))]
    fake = FakeServer(tokens=2)
    fake.context = 2000
    async with serving(fake, counters=True) as url:
        source = Source(trace=trace_file(tmp_path, rows))
        plan = Plan(url, Load(conversations=None, concurrency=None, warmup=1), source=source)
        measured = await measure(plan)
    first, second = fake.requests[3:]  # after the two that learn, and the warm-up
    assert (first["max_tokens"], second["max_tokens"]) == (7, 8)
    texts = [request["messages"][0]["content"].split() for request in (first, second)]
    assert [len(words) for words in texts] == [520, 1030]
    assert texts[0][:512] == texts[1][:512]
    assert measured.report.prompt_tokens == 1550
    assert measured.report.schedule.drawn_per_second is not None
    cache = measured.report.server_cache
    assert cache is not None
    assert (cache.tokens, cache.hit_ratio, cache.foreign_ratio) == ({"hit": 775.0, "miss": 775.0}, 0.5, 0.0)
    told = as_json(plan, measured)["workload"]
    assert isinstance(told, dict)
    assert (told["requests"], told["left_out_too_long"]) == (2, 1)
    assert any("1 of 3 requests (33%) exceed the model's context" in note for note in measured.notes)
    # The fake server says that it found half, and no cache could have.
    assert any("it was asked this trace before" in note for note in measured.notes)


async def test_a_trace_that_fits_nowhere(tmp_path: Path) -> None:
    fake = FakeServer()
    async with serving(fake) as url:
        source = Source(trace=trace_file(tmp_path, [(0.0, 520, 7, [1, 2])]), context_tokens=100)
        with pytest.raises(WorkloadError, match="no request of the trace is left"):
            await measure(Plan(url, Load(conversations=None, concurrency=None), source=source))


async def test_a_seed_that_was_asked_before_is_noticed() -> None:
    """The fake server says that it knew half of every prompt."""
    async with serving(FakeServer()) as url:
        plan = Plan(url, Load(conversations=2), shape=Shape(input_tokens=600))
        assert any("asked with this seed before" in note for note in (await measure(plan)).notes)
        plan = Plan(url, Load(conversations=2), shape=Shape(system_tokens=600, input_tokens=200))
        assert not (await measure(plan)).notes


async def test_others_who_ask_are_noticed() -> None:
    fake = FakeServer()
    async with serving(fake, counters=True) as url:

        def somebody_else(_: object) -> None:
            fake.prompt_tokens += 100

        measured = await measure(
            Plan(url, Load(conversations=2), shape=Shape(input_tokens=50)), somebody_else
        )
    assert any("67% of the prompt tokens" in note for note in measured.notes)


async def test_refusals_are_told_by_kind() -> None:
    fake = FakeServer(refuse=(0, 2))
    async with serving(fake) as url:
        first = await measure(Plan(url, Load(conversations=3)))
        fake.requests.clear()
        fake.refusal_headers = {}
        second = await measure(Plan(url, Load(conversations=3)))
    (kind,) = first.report.refusals
    assert (kind.status, kind.code, kind.with_retry_after, kind.without_retry_after) == (
        503,
        "at_capacity",
        2,
        0,
    )
    assert kind.retry_after_seconds.p50 == 7
    (kind,) = second.report.refusals
    assert (kind.with_retry_after, kind.without_retry_after) == (0, 2)
    assert "at_capacity" in text_of(first)


async def test_a_ramp_stops_when_more_users_bring_nothing(tmp_path: Path) -> None:
    fake = FakeServer(refuse=tuple(range(40, 100_000)))
    async with serving(fake) as url:
        plan = Plan(
            url,
            Load(conversations=None, concurrency=1, warmup=1),
            ramp=Ramp(factor=2, step_seconds=0.2, steps=4),
            targets=Targets(ttft_seconds=5.0),
        )
        steps: list[float] = []
        measured = await measure(plan, on_step=lambda step: steps.append(step.load))
    climbed = measured.climbed
    assert climbed is not None
    assert climbed.reached  # from the 40th request on all are refused
    assert steps == [step.load for step in climbed.steps]
    assert climbed.steps[-1].refused
    assert "Ramp" in text_of(measured)
    assert "ramp" in as_json(plan, measured)
    text = page(plan, measured)
    assert "The ramp" in text
    assert text.count("<svg") >= 9


async def test_the_page_stands_alone_and_escapes_what_servers_say() -> None:
    fake = FakeServer(tokens=4, refuse=(3,))
    async with serving(fake, counters=True) as url:
        plan = Plan(
            url,
            Load(conversations=8, concurrency=None, rate_per_second=400.0),
            shape=Shape(turns=2, input_tokens=5),
            targets=Targets(ttft_seconds=1.0, itl_seconds=0.5),
        )
        measured = await measure(plan)
    measured = Measured(
        "<script>alert(1)</script>",
        measured.report,
        {"file": "<i>file</i>"},
        measured.started,
        measured.records,
        ("a <b>note</b>",),
    )
    text = page(plan, measured)
    assert "<script" not in text
    assert "<i>" not in text
    assert "a &lt;b&gt;note" in text
    links = re.findall(r"(?:src|href|url|@import)\s*[=(]", text)
    assert not links  # nothing is fetched
    for title in ("In flight", "Time to first token by turn", "Sent late by", "refused or failed"):
        assert title in text
    assert text.count("<svg") == text.count("</svg>") == 7


async def test_a_page_of_nothing() -> None:
    async with serving(FakeServer(refuse=(0, 1))) as url:
        plan = Plan(url, Load(conversations=2))
        text = page(plan, await measure(plan))
    assert "Nothing was measured." in text
    assert "at_capacity" in text
