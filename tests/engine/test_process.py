"""Engines in a process of their own: real torch, a tiny model with random weights."""

import asyncio
import os
import pickle
import signal
import time
from collections.abc import AsyncIterator

import pytest
from tiny_model import write_config

from ridgeline.engine.options import EngineOptions, ModelSpec
from ridgeline.engine.process import EngineProcess
from ridgeline.engine.replica import Replica
from ridgeline.engine.start import build_replica
from ridgeline.models.errors import ModelError
from ridgeline.protocol import Delta, Refusal, Request, Sampling, Stopping
from ridgeline.telemetry.metrics import Metrics

OPTIONS = EngineOptions(max_batch=4, max_batch_tokens=64, kv_memory_bytes=1 << 22, dtype="float32", threads=1)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def replica(tmp_path, metrics) -> AsyncIterator[Replica]:
    path = write_config(tmp_path, 4096)
    built = build_replica([ModelSpec(str(path), random_weights=True)], OPTIONS, metrics)
    await built.start()
    try:
        yield built
    finally:
        await built.close()
        assert not alive(process_of(built).pid)


def process_of(replica: Replica) -> EngineProcess:
    (runner,) = replica.runners
    assert isinstance(runner, EngineProcess)
    return runner


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def collect(replica: Replica, tokens: int = 12, request_id: str = "r1") -> list[Delta]:
    request = Request(
        request_id,
        "tiny",
        prompt="once upon a time there was a tiny model",
        sampling=Sampling(temperature=0, logprobs=1),
        stopping=Stopping(max_tokens=tokens, ignore_eos=True),
        received_seconds=time.monotonic(),
    )
    return [delta async for delta in replica.generate(request)]


async def test_answers_cache_and_measurements_cross_the_border(replica: Replica, metrics: Metrics) -> None:
    first, second = await collect(replica), await collect(replica, request_id="r2")
    assert "".join(d.text for d in first) == "".join(d.text for d in second) != ""
    assert sum(len(d.logprobs or ()) for d in first) == 12
    assert second[-1].usage is not None
    assert second[-1].usage.cached_tokens == 32
    rendered = metrics.render()[0].decode()
    assert 'ridgeline_prefix_tokens_total{model="tiny",result="hit"} 32.0' in rendered
    assert 'ridgeline_step_seconds_count{model="tiny"}' in rendered


async def test_a_refusal_crosses_the_border_as_it_is(replica: Replica) -> None:
    async def one(i: int) -> list[Delta]:
        return await collect(replica, tokens=300, request_id=f"r{i}")

    runs = [asyncio.create_task(one(i)) for i in range(300)]
    await asyncio.wait(runs, return_when=asyncio.FIRST_EXCEPTION)
    for run in runs:
        run.cancel()
    done = await asyncio.gather(*runs, return_exceptions=True)
    refusals = [r for r in done if isinstance(r, Refusal)]
    assert {r.code for r in refusals} == {"at_capacity"}
    assert all("max_waiting is 256" in r.message for r in refusals)


async def test_a_killed_engine_ends_every_stream_and_says_so(replica: Replica) -> None:
    stream = asyncio.create_task(collect(replica, tokens=3000))
    deadline = time.monotonic() + 60
    while not replica.status().requests_in_flight:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    os.kill(process_of(replica).pid, signal.SIGKILL)
    with pytest.raises(Refusal) as refused:
        await asyncio.wait_for(stream, 60)
    assert refused.value.code == "internal_error"
    assert "code -9" in refused.value.message
    assert replica.status().state == "failed"
    with pytest.raises(Refusal):
        await collect(replica, request_id="r2")


async def test_ctrl_c_and_sigterm_are_the_servers_business(replica: Replica) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process_of(replica).pid, number)
    assert await collect(replica)


def test_what_cannot_be_loaded_is_told_in_a_sentence(tmp_path, metrics) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        build_replica([ModelSpec(str(tmp_path / "nowhere.gguf"))], OPTIONS, metrics)


def test_the_process_ends_when_the_server_is_gone(tmp_path) -> None:
    path = write_config(tmp_path, 4096)
    process = EngineProcess([ModelSpec(str(path), random_weights=True)], OPTIONS)
    process.wait_until_loaded()
    process._pipe.close()  # as the system does when the server is killed
    assert process._process.wait(60) == 0


def test_the_process_ends_when_the_server_goes_before_it_has_loaded(tmp_path, capfd) -> None:
    path = write_config(tmp_path, 4096)
    process = EngineProcess([ModelSpec(str(path), random_weights=True)], OPTIONS)
    process._pipe.close()
    assert process._process.wait(60) == 0
    assert capfd.readouterr().err == ""


def test_nothing_is_left_of_the_process_where_a_start_is_given_up(tmp_path) -> None:
    path = write_config(tmp_path, 4096)
    with EngineProcess([ModelSpec(str(path), random_weights=True)], OPTIONS) as process:
        assert alive(process.pid)
    assert not alive(process.pid)


def test_what_took_how_long_crosses_the_border(tmp_path) -> None:
    path = write_config(tmp_path, 4096)
    with EngineProcess([ModelSpec(str(path), random_weights=True)], OPTIONS) as process:
        process.wait_until_loaded()
        assert [phase for phase, _ in process.phases] == ["program", "libraries", "open tiny", "load tiny"]
        assert all(seconds >= 0 for _, seconds in process.phases)


def test_a_refusal_survives_pickling() -> None:
    refusal = Refusal("at_capacity", "full", param="model", retry_after_seconds=1.5)
    copy = pickle.loads(pickle.dumps(refusal))
    assert (copy.code, copy.message, copy.param, copy.retry_after_seconds) == (
        "at_capacity",
        "full",
        "model",
        1.5,
    )
