"""What the executor for CUDA is built with, shown by one that computes on the CPU instead."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_model import write_config

from ridgeline.engine.build import ModelSpec, build_engines
from ridgeline.engine.executors import presence
from ridgeline.engine.executors.cpu import CpuExecutor
from ridgeline.engine.options import EngineOptions
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles
from ridgeline.roofline import HARDWARE, Hardware
from ridgeline.telemetry.metrics import Metrics

BUILT: list[dict[str, Any]] = []


class OnCpu(CpuExecutor):
    hardware: Hardware = HARDWARE["h200"]

    def __init__(self, files: ModelFiles, **keywords: Any) -> None:
        BUILT.append(dict(keywords))
        del keywords["device_index"], keywords["max_batch_tokens"]
        device = self.hardware
        super().__init__(files, **keywords, threads=1)
        self.hardware = device

    def warm_up(self) -> None:
        """Nothing to compile."""


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> type[OnCpu]:
    module = ModuleType("ridgeline.engine.executors.cuda.executor")
    module.TorchCudaExecutor = OnCpu  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(presence, "require_cuda", lambda index: None)
    BUILT.clear()
    return OnCpu


def build(folder: Path, **options: Any) -> Any:
    spec = ModelSpec(str(write_config(folder, 4096)), random_weights=True)
    metrics = Metrics()

    def meter_of(name: str, geometry: Any) -> Any:
        return metrics.engine(
            name, block_size_tokens=geometry.block_size_tokens, blocks_total=geometry.blocks
        )

    ((engine, _),) = build_engines([spec], EngineOptions(dtype="float32", **options), meter_of)
    return engine


def test_options_reach_the_executor_and_the_scheduler(on_cpu: type[OnCpu], tmp_path: Path) -> None:
    engine = build(tmp_path, device="cuda:2", kv_memory_bytes=1 << 24, max_context_tokens=512)
    (keywords,) = BUILT
    assert keywords == {
        "dtype": "float32",
        "kv_dtype": "auto",
        "kv_memory_bytes": 1 << 24,
        "max_batch": 256,
        "max_batch_tokens": 8192,
        "max_context_tokens": 512,
        "device_index": 2,
    }
    assert engine.scheduler.limits.max_batch_tokens == 8192
    assert isinstance(engine.executor, on_cpu)


def test_an_estimate_is_said_to_be_one(
    on_cpu: type[OnCpu], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    build(tmp_path, device="cuda", max_batch=2)
    assert "peaks" not in caplog.text
    monkeypatch.setattr(on_cpu, "hardware", replace(HARDWARE["h200"], name="NVIDIA Abacus"))
    build(tmp_path, device="cuda", max_batch=2)
    assert "NVIDIA Abacus is not in the catalogue" in caplog.text


def test_what_is_no_device_is_refused_before_the_model_is_opened(tmp_path: Path) -> None:
    missing = ModelSpec(str(tmp_path / "absent"))
    with pytest.raises(ModelError, match="device 'tpu' is unknown; there are cpu, cuda"):
        build_engines([missing], EngineOptions(device="tpu"), lambda name, geometry: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(ModelError, match="--device cuda:99: "):
        build_engines([missing], EngineOptions(device="cuda:99"), lambda name, geometry: None)  # type: ignore[arg-type,return-value]
