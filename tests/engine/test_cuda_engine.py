"""`--device cuda` from the options to the answer, on a device of host memory."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from lazy_device import LazyDevice
from plain_launchers import plain_launchers
from tiny_model import write_config

from ridgeline.engine.build import ModelSpec, build_engines
from ridgeline.engine.core.messages import Submit
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.executors import presence
from ridgeline.engine.executors.cuda import executor as executor_module
from ridgeline.engine.loop import Engine, EngineThread, Report
from ridgeline.engine.options import EngineOptions
from ridgeline.protocol import Sampling

OPTIONS = EngineOptions(device="cuda", max_batch=4, max_batch_tokens=64, kv_memory_bytes=1 << 22)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[LazyDevice]:
    made = LazyDevice()
    monkeypatch.setattr(executor_module, "CudaDevice", lambda index: made)
    monkeypatch.setattr(presence, "require_cuda", lambda index: None)
    with plain_launchers():
        yield made


def build(tmp_path: Path, meter: MagicMock, options: EngineOptions = OPTIONS) -> Engine:
    spec = ModelSpec(str(write_config(tmp_path, 1024)), random_weights=True)
    ((engine, loaded),) = build_engines([spec], options, lambda name, geometry: meter)
    assert (loaded.name, loaded.geometry.max_batch) == ("tiny", 4)
    return engine


def sequence(name: str, length: int) -> Submit:
    return Submit(SequenceSpec(name, tuple(range(length)), Sampling(temperature=0.0, seed=0), 6), 0.0)


def test_an_engine_answers_and_is_measured(tmp_path: Path, device: LazyDevice) -> None:
    meter = MagicMock()
    engine = build(tmp_path, meter)
    assert engine.executor.depth == 1 and "bfloat16-lazy" in engine.executor.fingerprint
    assert device.replays == 1, "a graph was recorded while warming up"
    for name, length in (("a", 40), ("b", 3), ("c", 90)):
        engine.handle(sequence(name, length), 0.0)
    answers: dict[str, int] = {}
    while engine.has_work:
        for output in engine.step(time.monotonic):
            assert output.refusal is None
            answers[output.sequence_id] = answers.get(output.sequence_id, 0) + len(output.token_ids)
    assert answers == {"a": 6, "b": 6, "c": 6}
    record = meter.step.call_args.args[0]
    assert record.device_seconds == 1.0  # of the lazy device, whose time is a count of its work
    assert record.peak_bytes_per_second == device.hardware().bytes_per_second
    engine.scheduler.check()
    engine.executor.close()


def test_a_lost_device_ends_the_engine_and_says_so(tmp_path: Path, device: LazyDevice) -> None:
    thread = EngineThread([build(tmp_path, MagicMock())])
    reports: list[Report] = []
    thread.start(reports.append)
    device.fails = torch.AcceleratorError("an illegal memory access was encountered")
    thread.send("tiny", sequence("a", 5))
    thread.join()
    assert "illegal memory access" in str(reports[-1].failure)


def test_the_cost_model_reads_what_is_stored(tmp_path: Path, device: LazyDevice) -> None:
    """A step's bytes by K and V in bfloat16 and in float8 differ by half of what K and V take."""
    bytes_read = []
    for kv_dtype in ("bfloat16", "float8"):
        meter = MagicMock()
        engine = build(tmp_path, meter, replace(OPTIONS, kv_dtype=kv_dtype))
        engine.handle(sequence("a", 40), 0.0)
        while engine.has_work:
            engine.step(time.monotonic)
        bytes_read.append(meter.step.call_args.args[0].bytes_moved)
        per_token = engine.executor.geometry.block_bytes / 16
        engine.executor.close()
    # The last step reads 44 tokens and writes one more.
    assert bytes_read[0] - bytes_read[1] == pytest.approx(45 * per_token, rel=0.05)
