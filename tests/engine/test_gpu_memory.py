"""How a GPU's memory is divided: by hand for known models, and in sentences where it is too little."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.engine.executors.gpu_memory import (
    MARGIN,
    GpuMemory,
    StepLimits,
    check_model_fits,
    plan_gpu_geometry,
    step_bytes,
)
from ridgeline.models.config import ModelConfig
from ridgeline.models.errors import ModelError

GIB = 1 << 30
LLAMA_8B = ModelConfig("llama", 4096, 32, 32, 8, 128, 14336, 128256, 131072)
LLAMA_1B = ModelConfig("llama", 2048, 16, 32, 8, 64, 8192, 128256, 131072, tied_head=True)
LIMITS = StepLimits(max_batch=256, max_batch_tokens=8192, max_context_tokens=131072)
H200 = GpuMemory(143_771 << 20, 139 * GIB, 132)
WITH_24_GB = GpuMemory(24_564 << 20, 23 * GIB, 128)
WITH_16_GB = GpuMemory(16_376 << 20, int(15.7 * GIB), 66)
BF16 = torch.bfloat16


def beside_weights(memory: GpuMemory, config: ModelConfig, dtype: torch.dtype = BF16) -> GpuMemory:
    return replace(memory, free_bytes=memory.free_bytes - config.shape().parameters() * dtype.itemsize)


def test_a_step_by_hand() -> None:
    """Three tokens of two sequences, on one multiprocessor."""
    tiny = ModelConfig("llama", 8, 2, 2, 1, 4, 16, 100, 64)
    # per token: residual, 2 norms, 2 products of width 8; q, k, v 16; heads 8; gate, up, product 3 * 16
    activations = 3 * (5 * 8 + 16 + 8 + 48) * 2
    logits = 21 * 100 * 4  # 2 rows, 10.5 times
    partials = (2 + 4) * 2 * (4 + 2) * 4
    rotary, tables = 64 * 4 * 4, 2 * 4 * 4
    limits = StepLimits(2, 3, 64)
    assert step_bytes(tiny, BF16, limits, 1) == activations + logits + partials + rotary + tables


def test_8b_on_141_gb() -> None:
    check_model_fits("8b", LLAMA_8B, BF16, LIMITS, H200)
    memory = beside_weights(H200, LLAMA_8B)
    geometry = plan_gpu_geometry(LLAMA_8B, BF16, LIMITS, memory, None)
    assert geometry.block_bytes == 2 * 32 * 8 * 128 * 2 * 16
    step = step_bytes(LLAMA_8B, BF16, LIMITS, 132)
    assert 2 * GIB < step < 4 * GIB
    left = memory.free_bytes - step - int(MARGIN * memory.total_bytes)
    assert 0 <= left - geometry.blocks * geometry.block_bytes < geometry.block_bytes
    assert 105 * GIB < geometry.blocks * geometry.block_bytes < 112 * GIB
    assert geometry.max_context_tokens == 131072
    assert geometry.max_batch == 256


def test_float8_holds_twice_the_tokens() -> None:
    memory = beside_weights(H200, LLAMA_8B)
    usual, narrow = (
        plan_gpu_geometry(LLAMA_8B, BF16, LIMITS, memory, None, kv_dtype=kv) for kv in (None, "float8")
    )
    assert narrow.block_bytes == 2 * 32 * 8 * 128 * 16
    assert narrow.blocks in (2 * usual.blocks, 2 * usual.blocks + 1)
    # Room for a block per sequence that there is in float8 alone.
    needed = LLAMA_1B.shape().parameters() * 2 + step_bytes(LLAMA_1B, BF16, LIMITS, 66)
    edge = replace(WITH_16_GB, free_bytes=needed + 256 * 2 * 16 * 8 * 64 * 16 + WITH_16_GB.margin_bytes)
    check_model_fits("1b", LLAMA_1B, BF16, LIMITS, edge, kv_dtype="float8")
    with pytest.raises(ModelError, match="1b needs"):
        check_model_fits("1b", LLAMA_1B, BF16, LIMITS, edge)


def test_1b_on_24_gb() -> None:
    check_model_fits("1b", LLAMA_1B, BF16, LIMITS, WITH_24_GB)
    geometry = plan_gpu_geometry(LLAMA_1B, BF16, LIMITS, beside_weights(WITH_24_GB, LLAMA_1B), None)
    assert 15 * GIB < geometry.blocks * geometry.block_bytes < 18 * GIB


def test_all_that_is_left_is_taken_however_small_the_batch() -> None:
    """On the CPU the cache stops where the batch could use no more; here it keeps conversations."""
    few = replace(LIMITS, max_batch=1, max_context_tokens=64)
    geometry = plan_gpu_geometry(LLAMA_8B, BF16, few, beside_weights(H200, LLAMA_8B), None)
    assert geometry.blocks * 16 > 100 * 64
    assert geometry.max_context_tokens == 64


def test_8b_on_16_gb_is_refused_before_it_is_read() -> None:
    with pytest.raises(ModelError) as refused:
        check_model_fits("llama-8b", LLAMA_8B, BF16, LIMITS, WITH_16_GB)
    said = str(refused.value)
    assert said.startswith("llama-8b needs 14.96 GiB for its weights in bfloat16, ")
    assert "14.42 GiB of GPU memory can be used (15.70 GiB are free, 1.28 GiB of them kept" in said
    assert "smaller model, lower --max-batch-tokens or --max-batch" in said
    assert said.count(". ") == 0
    smaller = StepLimits(max_batch=8, max_batch_tokens=512, max_context_tokens=4096)
    with pytest.raises(ModelError):
        check_model_fits("llama-8b", LLAMA_8B, BF16, smaller, WITH_16_GB)
    check_model_fits("llama-1b", LLAMA_1B, BF16, LIMITS, WITH_16_GB)


def test_float32_is_told_that_there_is_half_of_it() -> None:
    with pytest.raises(ModelError, match=r"in float32, .* model or --dtype bfloat16, lower"):
        check_model_fits("8b", LLAMA_8B, torch.float32, LIMITS, WITH_24_GB)


def test_what_passes_before_loading_has_a_block_per_sequence_after_it() -> None:
    """The same sum twice: at the edge where the check passes the plan passes too, with none to spare."""
    needed = LLAMA_1B.shape().parameters() * 2 + step_bytes(LLAMA_1B, BF16, LIMITS, 66)
    blocks = 256 * 2 * 16 * 8 * 64 * 2 * 16
    edge = replace(WITH_16_GB, free_bytes=needed + blocks + WITH_16_GB.margin_bytes)
    check_model_fits("1b", LLAMA_1B, BF16, LIMITS, edge)
    assert plan_gpu_geometry(LLAMA_1B, BF16, LIMITS, beside_weights(edge, LLAMA_1B), None).blocks == 256
    below = replace(edge, free_bytes=edge.free_bytes - 1)
    with pytest.raises(ModelError, match="1b needs"):
        check_model_fits("1b", LLAMA_1B, BF16, LIMITS, below)
    with pytest.raises(ModelError, match=r"255 blocks .* fewer than the 256 sequences.*--max-batch smaller"):
        plan_gpu_geometry(LLAMA_1B, BF16, LIMITS, beside_weights(below, LLAMA_1B), None)


def test_a_size_asked_for_is_taken_up_to_the_margin_and_no_further() -> None:
    memory = beside_weights(H200, LLAMA_8B)
    geometry = plan_gpu_geometry(LLAMA_8B, BF16, LIMITS, memory, 10 * GIB)
    assert geometry.blocks == 10 * GIB // geometry.block_bytes
    all_but_steps = memory.free_bytes - step_bytes(LLAMA_8B, BF16, LIMITS, 132)
    assert plan_gpu_geometry(LLAMA_8B, BF16, LIMITS, memory, all_but_steps).blocks > 55_000
    with pytest.raises(ModelError, match=r"--kv-memory asks for .* of GPU memory are available; give less"):
        plan_gpu_geometry(LLAMA_8B, BF16, LIMITS, memory, all_but_steps + 1)


def test_nothing_left_is_said_and_not_negative() -> None:
    nothing = replace(WITH_16_GB, free_bytes=1)
    with pytest.raises(ModelError, match=r"^0\.00 GiB for the KV cache hold 0 blocks"):
        plan_gpu_geometry(LLAMA_8B, BF16, LIMITS, nothing, None)


@given(
    free=st.integers(0, 200 * GIB),
    max_batch=st.integers(1, 1024),
    tokens=st.integers(1, 32768),
    asked=st.none() | st.integers(1, 200 * GIB),
)
def test_never_more_than_there_is(free: int, max_batch: int, tokens: int, asked: int | None) -> None:
    limits, memory = StepLimits(max_batch, max(tokens, max_batch), 8192), GpuMemory(200 * GIB, free, 132)
    try:
        geometry = plan_gpu_geometry(LLAMA_8B, BF16, limits, memory, asked)
    except ModelError:
        return
    kv = geometry.blocks * geometry.block_bytes
    assert kv + step_bytes(LLAMA_8B, BF16, limits, 132) <= free
    assert geometry.blocks >= max_batch
    if asked is None:
        assert kv + step_bytes(LLAMA_8B, BF16, limits, 132) + memory.margin_bytes <= free
