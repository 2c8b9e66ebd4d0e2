"""The replica end to end over a simulated device: real thread, real event loop, no weights."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tiny_model import write_config

from ridgeline.engine.loop import Engine
from ridgeline.engine.options import EngineOptions, ModelSpec
from ridgeline.engine.replica import Replica
from ridgeline.engine.start import build_replica
from ridgeline.models.errors import ModelError
from ridgeline.protocol import Delta, Event, Message, Refusal, Request, Sampling, Stopping
from ridgeline.protocol.cached import CacheReport
from ridgeline.protocol.prefix_keys import canonical, prefix_keys
from ridgeline.protocol.timeline import Finished, Queued, Refused
from ridgeline.telemetry.metrics import Metrics


def block_bytes() -> int:
    return 16 * 2 * 2 * 2 * 16 * 2


@pytest.fixture
async def replica(tmp_path) -> AsyncIterator[Replica]:
    async for started in serve(tmp_path):
        yield started


async def serve(tmp_path, metrics: Metrics | None = None, **options) -> AsyncIterator[Replica]:
    path = write_config(tmp_path, 1024)
    options.setdefault("kv_memory_bytes", 4096 * block_bytes())
    settings = EngineOptions(device="simulated:h100", max_batch=4, max_batch_tokens=64, **options)
    built = build_replica([ModelSpec(str(path), random_weights=True)], settings, metrics or Metrics())
    await built.start()
    try:
        yield built
    finally:
        await built.close()
        for engine in engines(built):
            engine.scheduler.check()


def engines(replica: Replica) -> list[Engine]:
    return [engine for runner in replica.runners for engine in runner.engines]


def ask(text: str = "hello", **changes) -> Request:
    stopping = Stopping(max_tokens=20, ignore_eos=True)
    request = Request("r1", "tiny", prompt=text, stopping=stopping, sampling=Sampling(temperature=0))
    return replace(request, received_seconds=time.monotonic(), **changes)


async def collect(replica: Replica, request: Request) -> list[Delta]:
    return [delta async for delta in replica.generate(request)]


def text_of(deltas: list[Delta], index: int = 0) -> str:
    return "".join(d.text for d in deltas if d.index == index)


async def until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def held(replica: Replica) -> int:
    return engines(replica)[0].scheduler.cache.held


async def test_an_answer_ends_once_with_usage(replica: Replica) -> None:
    deltas = await collect(replica, ask())
    assert [d.finish for d in deltas if d.finish] == ["length"]
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == 20
    assert sum(len(d.token_ids) for d in deltas) == 20


async def test_the_second_asking_finds_the_first_in_the_cache(replica: Replica) -> None:
    first = await collect(replica, ask("x" * 100))
    second = await collect(replica, ask("x" * 100, id="r2"))
    stranger = await collect(replica, ask("x" * 100, id="r3", tenant="somebody else"))
    assert text_of(first) == text_of(second) == text_of(stranger)
    assert first[-1].usage and second[-1].usage and stranger[-1].usage
    assert first[-1].usage.cached_tokens == 0
    assert second[-1].usage.cached_tokens == 96
    assert stranger[-1].usage.cached_tokens == 0


async def test_n_answers_share_the_prompt_and_have_their_own_seeds(replica: Replica) -> None:
    deltas = await collect(replica, ask("y" * 64, n=3, sampling=Sampling(seed=5)))
    texts = [text_of(deltas, i) for i in range(3)]
    assert len(set(texts)) == 3
    single = await collect(replica, ask("y" * 64, id="r2", sampling=Sampling(seed=6)))
    assert text_of(single) == texts[1]
    usages = [d.usage for d in deltas if d.usage]
    assert sorted(u.cached_tokens for u in usages) == [0, 48, 48]


async def test_a_stop_string_is_cut_off_across_tokens_and_ends_the_engine_too(replica: Replica) -> None:
    whole = text_of(await collect(replica, ask()))
    stop = whole[7:10]
    cut = whole.index(stop)
    deltas = await collect(
        replica, ask(id="r2", stopping=Stopping(max_tokens=20, stop=(stop,), ignore_eos=True))
    )
    assert text_of(deltas) == whole[:cut]
    assert deltas[-1].finish == "stop"
    assert deltas[-1].stop_reason == stop
    await until(lambda: held(replica) == 0)


async def test_leaving_midway_frees_the_blocks(replica: Replica) -> None:
    stream = replica.generate(ask(stopping=Stopping(max_tokens=900, ignore_eos=True)))
    async for _ in stream:
        break
    assert held(replica) > 0
    await stream.aclose()
    await until(lambda: held(replica) == 0)
    assert replica.status().requests_in_flight == 0


async def test_cancel_ends_the_stream_and_keeps_what_came(replica: Replica) -> None:
    deltas = []
    async for delta in replica.generate(ask(stopping=Stopping(max_tokens=900, ignore_eos=True))):
        deltas.append(delta)
        replica.cancel("r1")
    assert deltas[-1].finish == "cancelled"
    assert deltas[-1].usage and deltas[-1].usage.completion_tokens >= 1
    await until(lambda: held(replica) == 0)


async def test_logprobs_come_one_per_token_with_their_bytes(replica: Replica) -> None:
    deltas = await collect(replica, ask(sampling=Sampling(temperature=0, logprobs=2)))
    entries = [entry for d in deltas for entry in d.logprobs or ()]
    assert len(entries) == 20
    assert b"".join(e.text_bytes for e in entries).decode() == text_of(deltas)
    assert all(len(e.top) == 2 for e in entries)


async def test_echo_with_logprobs_scores_the_prompt(replica: Replica) -> None:
    request = ask("abc", echo=True, sampling=Sampling(temperature=0, logprobs=1, prompt_logprobs=1))
    deltas = await collect(replica, request)
    entries = [entry for d in deltas for entry in d.logprobs or ()]
    prompt_tokens = deltas[-1].usage.prompt_tokens if deltas[-1].usage else 0
    assert len(entries) == prompt_tokens + 20
    assert entries[0].logprob is None
    assert all(e.logprob is not None for e in entries[1:])
    scored_only = await collect(replica, replace(request, id="r2", stopping=Stopping(max_tokens=0)))
    assert text_of(scored_only).endswith("abc")
    assert scored_only[-1].finish == "length"


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"model": "gpt-9"}, "model_not_found", "tiny"),
        ({"prompt": (5, 512)}, "invalid_request", "0 to 511"),
        ({"prompt": ""}, "invalid_request", "no tokens"),
        ({"prompt": "z" * 1100}, "context_length_exceeded", "1024"),
        ({"prompt": "z" * 100_000}, "context_length_exceeded", "100000"),
        ({"stopping": Stopping(max_tokens=1024)}, "context_length_exceeded", "1024"),
        (
            {"stopping": Stopping(min_tokens=1, stop_token_ids=tuple(range(512)))},
            "invalid_request",
            "min_tokens is 1",
        ),
    ],
)
async def test_what_can_never_be_served_is_refused_at_once(replica: Replica, changes, code, says) -> None:
    with pytest.raises(Refusal) as refused:
        await collect(replica, ask(**changes))
    assert refused.value.code == code
    assert says in refused.value.message
    assert replica.status().requests_in_flight == 0


async def test_beyond_the_queue_is_at_capacity_with_a_computed_wait(tmp_path) -> None:
    async for replica in serve(tmp_path, max_waiting=2):
        long = Stopping(max_tokens=500, ignore_eos=True)
        runs = [asyncio.create_task(collect(replica, ask(id=f"q{i}", stopping=long))) for i in range(40)]
        done = await asyncio.gather(*runs, return_exceptions=True)
        refusals = [r for r in done if isinstance(r, Refusal)]
        served = [r for r in done if isinstance(r, list)]
        assert refusals and served and len(refusals) + len(served) == 40
        assert {r.code for r in refusals} == {"at_capacity"}
        assert len(served) >= 6
        assert await collect(replica, ask(id="later")), "room again, served again"


async def test_tiny_kv_preempts_and_every_answer_is_what_it_would_be_alone(tmp_path) -> None:
    prompts = [f"{i} " + "w" * 60 for i in range(8)]
    stopping = Stopping(max_tokens=400, ignore_eos=True)
    alone = {}
    async for replica in serve(tmp_path):
        for prompt in prompts:
            alone[prompt] = text_of(await collect(replica, ask(prompt, stopping=stopping)))
    async for replica in serve(tmp_path, kv_memory_bytes=64 * block_bytes()):
        runs = [
            asyncio.create_task(collect(replica, ask(prompt, id=prompt, stopping=stopping)))
            for prompt in prompts
        ]
        together = await asyncio.gather(*runs)
        assert {p: text_of(d) for p, d in zip(prompts, together, strict=True)} == alone
        assert engines(replica)[0].scheduler.counters.preemptions > 0


async def test_draining_refuses_the_new_finishes_the_old_and_cancels_the_rest(
    replica: Replica, monkeypatch
) -> None:
    executor = engines(replica)[0].executor
    take = executor.collect

    def slowly(handle):
        time.sleep(0.002)  # so that 1000 tokens take longer than the drain, and 20 do not by far
        return take(handle)

    monkeypatch.setattr(executor, "collect", slowly)
    short = asyncio.create_task(collect(replica, ask(id="short")))
    endless = asyncio.create_task(
        collect(replica, ask(id="endless", stopping=Stopping(max_tokens=1000, ignore_eos=True)))
    )
    await until(lambda: replica.status().requests_in_flight == 2)
    draining = asyncio.create_task(replica.drain(1.5))
    await asyncio.sleep(0)
    with pytest.raises(Refusal) as refused:
        await collect(replica, ask(id="late"))
    assert refused.value.code == "shutting_down"
    await draining
    assert (await short)[-1].finish == "length"
    assert (await endless)[-1].finish == "cancelled"
    assert replica.status().state == "draining"


async def test_a_prompt_tokenised_while_the_server_drains_is_refused_and_does_not_hang(
    replica: Replica, monkeypatch
) -> None:
    monkeypatch.setattr("ridgeline.engine.intake.LONG_TEXT_CHARACTERS", 0)
    tokenizer, may_go_on = replica._models["tiny"].tokenizer, threading.Event()
    encode = tokenizer.encode

    def slowly(text: str) -> list[int]:
        assert may_go_on.wait(60)
        return encode(text)

    monkeypatch.setattr(tokenizer, "encode", slowly)
    late = asyncio.create_task(collect(replica, ask()))
    await asyncio.sleep(0.05)
    await replica.drain(1.0)
    await replica.close()
    may_go_on.set()
    with pytest.raises(Refusal) as refused:
        await asyncio.wait_for(late, 60)
    assert refused.value.code == "shutting_down"


async def test_a_bug_in_the_engine_ends_every_stream_and_says_failed(replica: Replica, monkeypatch) -> None:
    monkeypatch.setattr(engines(replica)[0].scheduler, "commit", lambda *_: 1 / 0)
    with pytest.raises(Refusal) as refused:
        await asyncio.wait_for(collect(replica, ask()), 60)
    assert refused.value.code == "internal_error"
    assert replica.status().state == "failed"
    with pytest.raises(Refusal):
        await collect(replica, ask(id="r2"))


async def test_a_step_that_breaks_fails_its_sequences_and_the_engine_goes_on(
    replica: Replica, monkeypatch
) -> None:
    executor = engines(replica)[0].executor
    launch = executor.launch
    monkeypatch.setattr(executor, "collect", lambda handle: 1 / 0)
    with pytest.raises(Refusal) as refused:
        await asyncio.wait_for(collect(replica, ask()), 60)
    assert refused.value.code == "internal_error"
    monkeypatch.undo()
    assert executor.launch == launch
    assert text_of(await collect(replica, ask(id="r2")))


def test_a_context_beyond_the_models_own_is_refused(tmp_path) -> None:
    path = write_config(tmp_path, 1024)
    options = EngineOptions(device="simulated:h100", max_context_tokens=1025)
    with pytest.raises(ModelError, match=r"1025.*1024"):
        build_replica([ModelSpec(str(path), random_weights=True)], options, Metrics())


async def test_tokenize_and_detokenize(replica: Replica) -> None:
    tokens = await replica.tokenize("tiny", "héllo")
    assert await replica.detokenize("tiny", tokens) == "héllo"
    chat = await replica.tokenize("tiny", messages=[Message("user", "hi")])
    assert len(chat) > len(await replica.tokenize("tiny", "hi"))
    with pytest.raises(Refusal):
        await replica.detokenize("tiny", [512])


# --- what became of a request --------------------------------------------------------------------------


async def events_of(replica: Replica, name: str, index: int = 0) -> list[Event]:
    (timeline,) = await replica.timeline(name, "")
    return list(timeline.answers[index].events)


async def finished(replica: Replica, name: str, index: int = 0) -> list[Event]:
    """Its events, once the last has come: it may come after the stream's end."""
    for _ in range(6000):
        events = await events_of(replica, name, index)
        if events and isinstance(events[-1], Finished):
            return events
        await asyncio.sleep(0.01)
    raise AssertionError("it did not end in time")


async def test_a_request_is_explained_under_both_its_names(replica: Replica) -> None:
    await collect(replica, ask(name="mine"))
    assert await finished(replica, "mine") == await events_of(replica, "r1")
    kinds = [type(event).__name__ for event in await events_of(replica, "r1")]
    assert kinds == ["Queued", "Matched", "Admitted", "Prefilled", "FirstToken", "Finished"]
    assert await replica.timeline("mine", "stranger") == []


async def test_one_that_runs_is_explained_while_it_runs(replica: Replica) -> None:
    stream = replica.generate(ask(stopping=Stopping(max_tokens=900, ignore_eos=True)))
    async for _ in stream:
        break
    events = await events_of(replica, "r1")
    assert isinstance(events[0], Queued) and not isinstance(events[-1], Finished)
    await stream.aclose()
    last = (await finished(replica, "r1"))[-1]
    assert isinstance(last, Finished) and last.reason == "cancelled"


async def test_each_of_several_answers_is_explained(replica: Replica) -> None:
    await collect(replica, ask("y" * 64, n=3, sampling=Sampling(seed=5)))
    for index in range(3):
        last = (await finished(replica, "r1", index))[-1]
        assert isinstance(last, Finished) and last.tokens == 20


async def test_a_refusal_is_explained(replica: Replica) -> None:
    for changes, code in (
        ({"model": "other"}, "model_not_found"),
        ({"text": "x" * 3000}, "context_length_exceeded"),
    ):
        with pytest.raises(Refusal):
            await collect(replica, ask(id=code, **changes))
        (event,) = await events_of(replica, code)
        assert isinstance(event, Refused) and event.code == code


async def test_the_wait_that_was_computed_is_remembered(tmp_path) -> None:
    async for replica in serve(tmp_path, max_waiting=1):
        stopping = Stopping(max_tokens=900, ignore_eos=True)
        streams = [replica.generate(ask(id=f"r{i}", stopping=stopping)) for i in range(12)]
        results = await asyncio.gather(*(anext(stream) for stream in streams), return_exceptions=True)
        full = [i for i, result in enumerate(results) if isinstance(result, Refusal)]
        assert full
        for i in full:
            refused = [event for event in await events_of(replica, f"r{i}") if isinstance(event, Refused)]
            assert [event.code for event in refused] == ["at_capacity"]
        for stream in streams:
            await stream.aclose()


async def from_a_front_door(replica: Replica, name: str, text: str, tenant: str = "fleet") -> str:
    messages = (Message("user", text),)
    request = ask(
        id=name, prompt=None, messages=messages, begin_at_once=True, tenant=tenant, cache_salt="anns"
    )
    return text_of(await collect(replica, request))


def chat_keys(*turns: str) -> list[bytes]:
    roles = ("user", "assistant")
    messages = [Message(roles[place % 2], text) for place, text in enumerate(turns)]
    return prefix_keys("anns", canonical(messages))


@pytest.fixture
async def cramped(tmp_path) -> AsyncIterator[Replica]:
    async for started in serve(tmp_path, kv_memory_bytes=128 * block_bytes()):
        yield started


async def test_front_doors_are_told_what_is_cached_in_their_keys(cramped: Replica) -> None:
    texts = [f"{number} " + "A tale of rivers and of bridges. " * 25 for number in range(6)]
    said = await from_a_front_door(cramped, "q0", texts[0])
    whole = chat_keys(texts[0], said)
    assert len(whole) >= len(chat_keys(texts[0])) >= 3

    def report(epoch: str = "", number: int = 0, tenant: str = "fleet") -> CacheReport:
        return cramped.cache_report("tiny", tenant, epoch, number)

    await until(lambda: report().next >= len(chat_keys(texts[0])))
    first = report()
    assert first.whole and set(first.cached) <= set(whole)
    assert set(first.cached) >= set(chat_keys(texts[0])[:-1])
    assert report(tenant="somebody else").cached == ()
    for number in range(1, 6):
        await from_a_front_door(cramped, f"q{number}", texts[number])
    gone = set(first.cached)
    await until(lambda: gone <= set(report(first.epoch, first.next).evicted))
    since = report(first.epoch, first.next)
    assert not since.whole and chat_keys(texts[5])[0] in since.cached
    assert chat_keys(texts[5])[0] in report("another", 3).cached and report("another", 3).whole


async def test_others_are_not_kept_account_of(replica: Replica) -> None:
    await collect(replica, ask("A tale of rivers. " * 40))
    assert replica.cache_report("tiny", "", "", 0).next == 0
    assert all(len(engine.scheduler.labelling.labels) == 0 for engine in engines(replica))


async def test_places_are_those_that_the_target_leaves(tmp_path) -> None:
    """Of 4 slots one is used, for with two each token would come too late; and that is what is told."""
    async for replica in serve(tmp_path, inter_token_seconds=1e-9):
        first = replica.generate(ask(stopping=Stopping(max_tokens=900, ignore_eos=True)))
        await anext(first)
        await until(lambda told=replica.status: told().models[0].slots == 1)
        second = ask(id="r2", begin_at_once=True)
        with pytest.raises(Refusal, match="has 1 of 1 sequences"):
            await collect(replica, second)
        assert "slots=1;" in second.told["x-ridgeline-load"]
        await first.aclose()
