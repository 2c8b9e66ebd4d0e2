from dataclasses import replace

import pytest

from ridgeline.roofline import (
    HARDWARE,
    PRINTED_PEAKS,
    ModelShape,
    Work,
    decode_ridge,
    find_hardware,
    ridge_point,
    step_cost,
)

LLAMA_8B = ModelShape(32, 4096, 32, 8, 128, 14336, 128256, tied_head=False)
SMOLLM2 = ModelShape(30, 576, 9, 3, 64, 1536, 49152, tied_head=True)
H100 = HARDWARE["h100"]
H100_PRINTED = replace(H100, efficiency=PRINTED_PEAKS)


def test_ridge_point_of_the_article():
    assert round(ridge_point(H100, "float8")) == 591
    assert round(ridge_point(H100, "bfloat16")) == 295


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("a100-80", "bfloat16", 153),
        ("h200", "bfloat16", 206),
        ("l40s", "bfloat16", 419),
        ("mi300x", "bfloat16", 247),
    ],
)
def test_ridge_points_of_other_devices(name, dtype, expected):
    assert round(ridge_point(HARDWARE[name], dtype)) == expected


def test_work_sums_tokens_cache_reads_and_attended_pairs():
    # A decode row on 10 cached tokens attends to 11; a chunk of 3 after 4 attends to 5 + 6 + 7.
    assert Work.of([(1, 10), (3, 4)], logit_rows=1) == Work(4, 14, 29, 1, 2, 1, 10)


def test_decode_step_by_hand():
    # One sequence of Llama-3.1-8B with 999 tokens cached, bfloat16. Block matrices: 32 * 4096 *
    # (2 * 4096 + 2 * 1024 + 3 * 14336) = 6,979,321,856; head 525,336,576; norms 266,240.
    cost = step_cost(LLAMA_8B, H100_PRINTED, "bfloat16", Work.of([(1, 999)], 1))
    attention = 4 * 32 * 32 * 128 * 1000
    assert cost.flops == 2 * 6_979_321_856 + attention + 2 * 525_336_576
    weights = 2 * (6_979_321_856 + 266_240 + 525_336_576 + 4096)
    assert cost.bytes == weights + 1000 * 131_072
    assert cost.memory_seconds == pytest.approx(cost.bytes / 3.35e12)
    assert cost.compute_seconds == pytest.approx(cost.flops / 989e12)
    assert cost.seconds == cost.memory_seconds
    assert cost.bound_by == "memory_bandwidth"
    assert cost.intensity == pytest.approx(1.0, rel=0.05)


def test_prefill_step_by_hand():
    # 2,048 new tokens, logits of the last alone.
    cost = step_cost(LLAMA_8B, H100_PRINTED, "bfloat16", Work.of([(2048, 0)], 1))
    pairs = 2048 * 2049 // 2
    assert cost.flops == 2 * 6_979_321_856 * 2048 + 4 * 32 * 4096 * pairs + 2 * 525_336_576
    assert cost.bound_by == "compute"
    assert cost.seconds == pytest.approx(cost.flops / 989e12)


def test_a_chunk_without_logits_leaves_the_head_alone():
    with_head = step_cost(LLAMA_8B, H100, "bfloat16", Work.of([(512, 0)], 1))
    without = step_cost(LLAMA_8B, H100, "bfloat16", Work.of([(512, 0)], 0))
    assert with_head.bytes - without.bytes == 2 * 525_336_576
    assert with_head.flops - without.flops == 2 * 525_336_576


def test_chunked_prefill_does_the_same_arithmetic_as_a_whole_one():
    whole = step_cost(LLAMA_8B, H100, "bfloat16", Work.of([(1000, 0)], 1))
    first = step_cost(LLAMA_8B, H100, "bfloat16", Work.of([(300, 0)], 0))
    second = step_cost(LLAMA_8B, H100, "bfloat16", Work.of([(700, 300)], 1))
    assert first.flops + second.flops == whole.flops


def test_kv_dtype_changes_the_traffic_of_the_cache_alone():
    work = Work.of([(1, 999)], 1)
    wide = step_cost(LLAMA_8B, H100, "float8", work, kv_dtype="bfloat16")
    narrow = step_cost(LLAMA_8B, H100, "float8", work)
    assert wide.bytes - narrow.bytes == 1000 * 65_536
    assert wide.flops == narrow.flops


def test_a_narrow_cache_is_counted_with_its_scales():
    work = Work.of([(1, 999)], 1)
    half, narrow = (
        step_cost(LLAMA_8B, H100, "bfloat16", work, kv_dtype=dtype).bytes for dtype in ("float16", "int8")
    )
    values = 2 * 32 * 8  # K and V of a token, by layers and heads
    assert half - narrow == 1000 * values * (2 * 128 - 128 - 4)


def test_a_tiny_model_on_a_big_device_is_bound_by_launches():
    cost = step_cost(SMOLLM2, HARDWARE["h200"], "bfloat16", Work.of([(1, 100)], 1))
    assert cost.bound_by == "launch"
    assert cost.seconds > cost.overhead_seconds == pytest.approx(30 * 29e-6 + 1.2e-3)


def test_smollm2_on_the_measured_cores_is_near_what_they_did():
    # Reading 269 MB of weights at 31 GB/s allows at most 115 tokens per second at batch 1.
    cpu = replace(HARDWARE["cpu"], efficiency=PRINTED_PEAKS)
    assert 1 / step_cost(SMOLLM2, cpu, "bfloat16", Work.of([(1, 0)], 1)).seconds == pytest.approx(
        115, rel=0.01
    )


def test_ridge_batch_is_where_compute_takes_over():
    context = 100
    batch = decode_ridge(LLAMA_8B, H100, "bfloat16", context_tokens=context).batch
    assert batch is not None
    below = step_cost(LLAMA_8B, H100, "bfloat16", Work.of([(1, context)] * (batch - 1), batch - 1))
    at = step_cost(LLAMA_8B, H100, "bfloat16", Work.of([(1, context)] * batch, batch))
    assert below.compute_seconds < below.memory_seconds
    assert at.compute_seconds >= at.memory_seconds


def test_without_context_the_ridge_batch_is_half_the_ridge_point_per_byte_of_weight():
    # 2 FLOPs per parameter on 1 or on 2 bytes: about 295 sequences at either width.
    for dtype in ("float8", "bfloat16"):
        batch = decode_ridge(LLAMA_8B, H100_PRINTED, dtype, context_tokens=0).batch
        assert batch == pytest.approx(295, rel=0.02)


def test_long_contexts_keep_the_ridge_out_of_reach():
    # 8B in bfloat16 at 4,000 tokens: whatever the batch, 30 operations per byte against 206 of an H200.
    h200 = replace(HARDWARE["h200"], efficiency=PRINTED_PEAKS)
    ridge = decode_ridge(LLAMA_8B, h200, "bfloat16", context_tokens=4000)
    assert ridge.batch is None
    assert round(ridge.flops_per_byte) == 206
    assert ridge.limit == pytest.approx(33, abs=1)
    huge = step_cost(LLAMA_8B, h200, "bfloat16", Work.decode(100_000, 4000))
    assert huge.intensity == pytest.approx(ridge.limit, rel=0.01)


def test_what_a_device_lacks_is_refused_by_name():
    with pytest.raises(ValueError, match=r"a100-80 does not compute in 'float8'; it has float32"):
        step_cost(LLAMA_8B, HARDWARE["a100-80"], "float8", Work.of([(1, 0)], 1))
    with pytest.raises(ValueError, match="there is a100-80, h100"):
        find_hardware("gtx-280")
    assert find_hardware("H100") is H100


def test_dense_peaks_not_those_with_sparsity():
    for hardware in HARDWARE.values():
        peaks = hardware.flops_per_second
        assert peaks["int8"] == pytest.approx(2 * peaks["bfloat16"], rel=0.03)
        assert peaks["bfloat16"] > peaks["float32"]


def test_nobody_measured_more_than_the_sheet_says():
    for hardware in HARDWARE.values():
        for dtype, measured in hardware.measured_flops_per_second.items():
            assert 0.5 <= measured / hardware.peak_flops(dtype) < 0.95, (hardware.name, dtype)
    # The same chip, but for its memory.
    assert HARDWARE["h100"].measured_flops_per_second["bfloat16"] == 795e12
