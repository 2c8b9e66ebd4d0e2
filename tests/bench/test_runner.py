"""The load generator against a server whose answers are known."""

import asyncio
from pathlib import Path

import orjson
import pytest
from fake_openai import FakeServer, serving

from ridgeline.bench.client import ServerError, new_session
from ridgeline.bench.measure import Plan, as_json, measure
from ridgeline.bench.runner import Load, Runner, TurnRecord
from ridgeline.bench.workload import Shape, WorkloadError, made_conversations


async def test_closed_loop_counts_every_turn_and_appends_real_answers() -> None:
    fake = FakeServer(tokens=3)
    seen: list[TurnRecord] = []
    async with serving(fake) as url:
        plan = Plan(url, Load(conversations=5, concurrency=2, warmup=1), shape=Shape(3, 10, 4, 48))
        measured = await measure(plan, seen.append)
    report = measured.report
    assert measured.model == "fake"
    assert (report.offered, report.completed, report.warmup_requests) == (15, 15, 3)
    assert report.output_tokens == 15 * 3
    assert report.tokens_from == "usage"
    assert len(seen) == len(fake.requests) == 18
    # Turn 1: 10 words of system prompt and 4 of question; each further turn 3 + 4 more.
    assert report.prompt_tokens == 5 * ((10 + 4) + (10 + 4 + 7) + (10 + 4 + 14))
    assert [turn.completed for turn in report.turns] == [5, 5, 5]
    third = next(r for r in fake.requests if len(r["messages"]) == 6)
    assert [m["role"] for m in third["messages"]] == [
        "system", "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    assert third["messages"][2]["content"] == "w0 w1 w2 "
    assert third["max_tokens"] == 48
    assert third["stream_options"] == {"include_usage": True}


async def test_closed_loop_keeps_to_its_concurrency() -> None:
    fake = FakeServer()
    async with serving(fake) as url:
        report = (await measure(Plan(url, Load(conversations=12, concurrency=3)))).report
    assert fake.most_in_flight <= 3
    assert report.completed == 12
    assert report.little.valid


async def test_open_loop_does_not_wait_for_answers() -> None:
    fake = FakeServer()
    fake.hold = asyncio.Event()
    async with serving(fake) as url:
        load = Load(conversations=6, concurrency=None, rate_per_second=500.0)
        running = asyncio.create_task(measure(Plan(url, load)))
        await fake.reached(6)
        fake.hold.set()
        report = (await running).report
    assert fake.most_in_flight == 6
    assert report.completed == 6


async def test_refused_and_cut_answers_are_counted_against_goodput() -> None:
    fake = FakeServer(refuse=(1,), cut=(3,))
    async with serving(fake) as url:
        load = Load(conversations=5, concurrency=1)
        report = (await measure(Plan(url, load, shape=Shape(turns=2, input_tokens=3)))).report
    # Requests in order: 0 ok, 1 refused (ends conversation 1); 2 ok, 3 cut; then three whole ones.
    assert (report.completed, report.refused, report.failed) == (8, 1, 1)
    assert report.offered == 10
    assert report.abandoned_turns == 0
    assert report.goodput_ratio == pytest.approx(0.8)
    assert any("at_capacity" in error for error in report.errors)
    assert any("stream_cut" in error for error in report.errors)


async def test_later_turns_of_a_refused_conversation_are_abandoned() -> None:
    fake = FakeServer(refuse=(0,))
    async with serving(fake) as url:
        report = (await measure(Plan(url, Load(conversations=1), shape=Shape(turns=4)))).report
    assert (report.offered, report.abandoned_turns, len(fake.requests)) == (1, 3, 1)


async def test_absent_server_and_unknown_model_are_told_at_once() -> None:
    with pytest.raises(ServerError) as none:
        await measure(Plan("http://127.0.0.1:9", Load(conversations=1)))
    assert none.value.status == 0
    async with serving(FakeServer()) as url:
        with pytest.raises(ServerError, match="the server serves fake"):
            await measure(Plan(url, Load(conversations=1), model="other"))


async def test_prompts_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": "one two"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "max_tokens": 9},
    ]
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    fake = FakeServer()
    async with serving(fake) as url:
        plan = Plan(url, Load(conversations=4), prompts=path, shape=Shape(output_tokens=5))
        measured = await measure(plan)
    assert [request["max_tokens"] for request in fake.requests] == [5, 9, 9, 5, 9, 9]
    assert orjson.loads(orjson.dumps(as_json(plan, measured)))["workload"]["file"] == "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n{"nothing": 1}\n')
    with pytest.raises(WorkloadError, match="line 2"):
        await measure(plan)


async def test_times_are_the_clocks() -> None:
    """Every reading of the clock is one second later, so every time is a count of readings."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    fake = FakeServer(tokens=2)
    async with serving(fake) as url, new_session(10, {}) as session:
        runner = Runner(session, url, {"model": "fake"}, made_conversations(Shape(), 0), clock=clock)
        record = TurnRecord(0, 0, False, scheduled=clock())
        await runner._ask(record, [{"role": "user", "content": "x"}], 8)
    # Readings: schedule, in flight, sent, two chunks, finished.
    assert record.sent == record.scheduled + 2
    assert record.chunk_times == [record.sent + 1, record.sent + 2]
    assert record.finished == record.sent + 3
