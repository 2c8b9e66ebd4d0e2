"""What the CPU executor takes of the machine: memory, dtypes, threads. Its answers: `test_executors.py`."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import make_model
from step_driver import StepDriver

from ridgeline.engine.core.plan import Row, StepPlan
from ridgeline.engine.executors.cpu import CpuExecutor
from ridgeline.engine.executors.cpu_models import resolve_dtype, resolve_kv_dtype
from ridgeline.engine.executors.memory import available_bytes
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles
from ridgeline.protocol import Sampling

NEAR_TIE = 1e-3


def prompt(length: int, salt: int = 0) -> list[int]:
    return [(i * i * 7 + 3 * i + 101 * salt) % 320 for i in range(length)]


PROMPTS = [prompt(n, salt) for salt, n in enumerate((33, 1, 16, 7, 120, 17))]
DRAWN = Sampling(temperature=0.9, top_p=0.95, seed=11)


def make_executor(files: ModelFiles, **changes: Any) -> CpuExecutor:
    settings: dict[str, Any] = {
        "dtype": "float32",
        "kv_memory_bytes": 2**20,
        "max_batch": 8,
        "max_context_tokens": None,
        "threads": 1,
    }
    return CpuExecutor(files, **{**settings, **changes})


@pytest.fixture(scope="module")
def files() -> ModelFiles:
    return make_model("llama3-rope")[1]


@pytest.fixture
def driver(files: ModelFiles) -> StepDriver:
    return StepDriver(make_executor(files))


def alone(files: ModelFiles, token_ids: list[int], sampling: Sampling, new_tokens: int) -> list[int]:
    driver = StepDriver(make_executor(files))
    return driver.generate([driver.admit(token_ids, sampling)], new_tokens)[0]


def test_device_seconds_and_fingerprint(files: ModelFiles) -> None:
    driver = StepDriver(make_executor(files))
    driver.admit([1, 2])
    plan = StepPlan(0, (Row(0, 0, (1, 2), (0,), sample=True),), (driver.admissions[0],))
    assert 0 < driver.executor.collect(driver.executor.launch(plan)).device_seconds < 10
    fingerprints = {
        make_executor(files).fingerprint,
        make_executor(files, dtype="bfloat16").fingerprint,
        make_executor(make_model("llama3-rope", seed=5)[1]).fingerprint,
    }
    assert len(fingerprints) == 3
    assert make_executor(files).fingerprint in fingerprints
    driver.executor.close()


def test_bfloat16_runs_in_half_the_memory(files: ModelFiles) -> None:
    driver = StepDriver(make_executor(files, dtype="bfloat16"))
    driver.generate([driver.admit(ids, DRAWN) for ids in PROMPTS], 8)
    assert driver.executor.geometry.block_bytes * 2 == make_executor(files).geometry.block_bytes


def test_dtypes(files: ModelFiles) -> None:
    fitting = make_model("llama", hidden_size=96, intermediate_size=160, head_dim=32)[1].config
    for dtype in ("float32", "bfloat16", "int8"):
        assert resolve_dtype(dtype, fitting) == dtype
    assert resolve_dtype("auto", fitting) == "int8"
    with pytest.raises(ModelError, match="--dtype float16 is not supported on the CPU; choose auto, float32"):
        resolve_dtype("float16", fitting)


def test_keys_and_values_in_int8_take_half_the_memory_and_tell_it() -> None:
    fitting = make_model("llama", hidden_size=96, intermediate_size=160, head_dim=32)[1]
    usual, wide = (make_executor(fitting, dtype="int8", kv_dtype=kv) for kv in ("auto", "float16"))
    assert (usual.kv_dtype, wide.kv_dtype) == ("int8", "float16")
    # 32 values of a head, and a scale of 4 bytes for them.
    assert usual.geometry.block_bytes * 64 == wide.geometry.block_bytes * (32 + 4)
    assert usual.geometry.blocks > wide.geometry.blocks * 1.7
    assert wide.fingerprint == f"{usual.fingerprint}-kv-float16"
    for executor in (usual, wide):
        driver = StepDriver(executor)
        answers = driver.generate([driver.admit(ids, DRAWN) for ids in PROMPTS], 8)
        assert [len(answer) for answer in answers] == [8] * len(PROMPTS)
        blocks = np.array([1, 0])
        contents = executor.model.read_blocks(blocks)
        assert contents.shape == (2, executor.geometry.block_bytes)
        executor.model.write_blocks(blocks[::-1], contents)
        assert np.array_equal(executor.model.read_blocks(blocks[::-1]), contents)
        executor.close()


def test_what_keys_and_values_can_be_stored_in() -> None:
    assert resolve_kv_dtype("auto", "bfloat16") == resolve_kv_dtype("bfloat16", "bfloat16") == "bfloat16"
    assert resolve_kv_dtype("int8", "int8") == resolve_kv_dtype("auto", "int8") == "int8"
    assert resolve_kv_dtype("float16", "int8") == "float16"
    with pytest.raises(
        ModelError, match=r"--kv-dtype int8 .* where it computes in float32; choose auto, float32"
    ):
        resolve_kv_dtype("int8", "float32")
    with pytest.raises(
        ModelError, match=r"--kv-dtype float8 .* computes in int8; choose auto, int8, float16"
    ):
        resolve_kv_dtype("float8", "int8")


def test_models_and_processors_without_int8(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    found = torch.cpu.get_capabilities()
    in_hardware = found.get("avx512_bf16") or found.get("amx_bf16")
    assert resolve_dtype("auto", files.config) == ("bfloat16" if in_hardware else "float32")
    with pytest.raises(ModelError, match="does not fit the kernels, for its hidden size, 48, is no multiple"):
        resolve_dtype("int8", files.config)
    monkeypatch.setattr("ridgeline.kernels.jit.target.instruction_set", lambda: None)
    with pytest.raises(ModelError, match="kernels for x86 processors with AVX2 only; choose --dtype auto"):
        resolve_dtype("int8", files.config)


def test_kv_memory_sets_the_blocks_and_the_context(
    files: ModelFiles, caplog: pytest.LogCaptureFixture
) -> None:
    block_bytes = 2 * 3 * 2 * 8 * 4 * 16  # K and V, layers, heads, width, float32, positions
    with caplog.at_level(logging.WARNING):
        small = make_executor(files, kv_memory_bytes=10 * block_bytes + 5)
    assert small.geometry.block_bytes == block_bytes
    assert (small.geometry.blocks, small.geometry.max_context_tokens) == (10, 160)
    assert "160 tokens" in caplog.text
    by_default = make_executor(files, kv_memory_bytes=None, max_context_tokens=100)
    assert (by_default.geometry.blocks, by_default.geometry.max_context_tokens) == (8 * 7, 100)


def test_too_little_memory_names_the_knob_and_the_number(files: ModelFiles) -> None:
    needed = 8 * make_executor(files).geometry.block_bytes
    with pytest.raises(ModelError, match=f"--kv-memory must be at least {needed} bytes"):
        make_executor(files, kv_memory_bytes=needed - 1)
    assert make_executor(files, kv_memory_bytes=needed).geometry.blocks == 8
    with pytest.raises(ModelError, match="--kv-memory asks for"):
        make_executor(files, kv_memory_bytes=2**60)


def test_memory_promised_to_another_model_is_not_given_twice(files: ModelFiles) -> None:
    """The first one's blocks are not touched yet, so the system still calls them available."""
    most = available_bytes() * 3 // 5
    first = make_executor(files, kv_memory_bytes=most)
    with pytest.raises(ModelError, match="--kv-memory asks for"):
        make_executor(files, kv_memory_bytes=most)
    first.close()
    make_executor(files, kv_memory_bytes=most).close()


@pytest.mark.parametrize(
    ("limit", "expected"), [("5000000", 1500000), ("max", None), ("1000", 0)], ids=["limit", "none", "over"]
)
def test_available_memory_heeds_the_container(tmp_path: Path, limit: str, expected: int | None) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 3500000\ninactive_file 500000\n")
    found = available_bytes(tmp_path)
    if expected is None:
        assert found > 5_000_000
    else:
        assert found == expected
    assert available_bytes(tmp_path / "nothing") > 5_000_000


def test_weights_that_do_not_fit_are_refused_before_they_are_read(files: ModelFiles) -> None:
    config = replace(files.config, layers=10**7)
    huge = ModelFiles.__new__(ModelFiles)
    huge.name, huge.config = "huge", config
    with pytest.raises(ModelError, match=r"huge needs .* GiB for its weights in float32.*smaller model"):
        make_executor(huge)
