"""The CPU's kernels against the plain ones."""

import numpy as np
import pytest
import torch
from paged_batches import BLOCK_SIZE, Sequences, attend_both, attention_spec

from ridgeline.kernels import cpu_attention
from ridgeline.kernels.cpu import CpuKernels, packs_weights
from ridgeline.kernels.cpu_attention import group_bounds
from ridgeline.kernels.interface import KVShape
from ridgeline.kernels.reference import ReferenceKernels, rope

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    torch.manual_seed(0)
    return request.param


@pytest.fixture(params=["packed", "plain"])
def cpu(request: pytest.FixtureRequest, dtype: torch.dtype) -> CpuKernels:
    return CpuKernels(packed=request.param == "packed" and packs_weights(dtype))


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.dtype == wanted.dtype
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("tokens", [1, 3, 17])
@pytest.mark.parametrize("biased", [False, True])
def test_linear(cpu: CpuKernels, dtype: torch.dtype, tokens: int, biased: bool) -> None:
    weight, x = torch.randn(48, 40).to(dtype) / 6, torch.randn(tokens, 40).to(dtype)
    bias = torch.randn(48).to(dtype) if biased else None
    with torch.inference_mode():
        close(cpu.linear(weight, bias)(x), ReferenceKernels().linear(weight, bias)(x))


def test_rms_norm_over_rows_and_heads(cpu: CpuKernels, dtype: torch.dtype) -> None:
    for shape in [(5, 64), (5, 3, 64)]:
        x, weight = torch.randn(shape).to(dtype) * 7, torch.randn(64).to(dtype)
        close(cpu.rms_norm(x, weight, 1e-5), ReferenceKernels().rms_norm(x, weight, 1e-5))


def test_add_rms_norm_changes_the_residual(cpu: CpuKernels, dtype: torch.dtype) -> None:
    residual, x, weight = (torch.randn(5, 64).to(dtype) for _ in range(3))
    sums = residual + x
    close(cpu.add_rms_norm(residual, x, weight[0], 1e-5), ReferenceKernels().rms_norm(sums, weight[0], 1e-5))
    assert torch.equal(residual, sums)


def test_head_gives_float32(cpu: CpuKernels, dtype: torch.dtype) -> None:
    weight, x = torch.randn(48, 40).to(dtype) / 6, torch.randn(3, 40).to(dtype)
    with torch.inference_mode():
        got = cpu.head(weight)(x)
    assert got.dtype == torch.float32
    close(got.to(dtype), ReferenceKernels().head(weight)(x).to(dtype))


def test_plain_rope_turns_halves_by_the_angle() -> None:
    x, positions, frequencies = torch.randn(4, 3, 8), torch.tensor([0, 1, 7, 500]), (1.0, 0.3, 0.1, 0.01)
    angle = positions[:, None, None] * torch.tensor(frequencies)
    pairs = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones(4, 1, 4), angle)
    close(rope(x, positions, frequencies), torch.cat((pairs.real, pairs.imag), -1))


@pytest.mark.parametrize("biased", [False, True])
def test_gated_linear(cpu: CpuKernels, dtype: torch.dtype, biased: bool) -> None:
    x, weight = torch.randn(6, 24).to(dtype), torch.randn(32, 24).to(dtype) * 0.4
    bias = torch.randn(32).to(dtype) if biased else None
    wanted = ReferenceKernels().gated_linear(weight, bias)(x)
    with torch.inference_mode():
        got = cpu.gated_linear(weight.clone(), bias)(x)
    close(got, wanted)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 4), (4, 1)])
def test_attention_over_a_mixed_batch(
    cpu: CpuKernels, dtype: torch.dtype, heads: int, kv_heads: int, normed: bool
) -> None:
    sequences = Sequences([50, 16, 33, 90], blocks=64)
    steps = [
        sequences.batch({}, {0: (0, 40), 1: (0, 15), 3: (0, 2)}),
        sequences.batch({0: 40, 1: 15, 2: 0}, {3: (2, 60)}),
        sequences.batch({0: 41, 2: 1}, {3: (62, 20)}),
        sequences.batch({0: 42, 2: 2, 3: 82}, {}),
    ]
    for got, wanted in attend_both(cpu, attention_spec(heads, kv_heads, 8, dtype), steps, normed=normed):
        close(got, wanted)


@pytest.mark.parametrize("window", [1, 16, 19, 500])
def test_a_sliding_window_hides_what_lies_before_it(cpu: CpuKernels, dtype: torch.dtype, window: int) -> None:
    sequences = Sequences([50, 33, 90], blocks=64)
    steps = [
        sequences.batch({}, {0: (0, 40), 2: (0, 60)}),
        sequences.batch({0: 40, 1: 0}, {2: (60, 29)}),
        sequences.batch({0: 41, 1: 1, 2: 89}, {}),
    ]
    spec = attention_spec(4, 2, 8, dtype, windows=(None, window))
    for got, wanted in attend_both(cpu, spec, steps):
        close(got, wanted)


def test_sequences_of_very_different_length_share_a_step(cpu: CpuKernels, dtype: torch.dtype) -> None:
    lengths = [700, 3, 20, 1, 9, 15, 31, 2]
    sequences = Sequences(lengths, blocks=64)
    fill = [sequences.batch({}, {i: (0, n) for i, n in enumerate(lengths) if n > 1})]
    last = sequences.batch({i: n - 1 for i, n in enumerate(lengths)}, {})
    assert len(group_bounds(-(-last.contexts // BLOCK_SIZE), 10**6)) == 2
    for got, wanted in attend_both(cpu, attention_spec(6, 2, 8, dtype), [*fill, last]):
        close(got, wanted)


def test_long_contexts_are_gathered_in_parts(
    cpu: CpuKernels, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "_GATHER_BYTES", 2 * 2 * BLOCK_SIZE * 8 * dtype.itemsize * 6)
    sequences = Sequences([50, 40, 33, 16, 90], blocks=64)
    fill = sequences.batch({}, {i: (0, n - 1) for i, n in enumerate([50, 40, 33, 16, 90])})
    last = sequences.batch(dict(enumerate([49, 39, 32, 15, 89])), {})
    spec = attention_spec(6, 2, 8, dtype)
    plan = cpu.paged_attention(spec).plan(last)
    assert [group.count for group in plan.groups] == [1, 1, 2, 1]
    for got, wanted in attend_both(cpu, spec, [fill, last]):
        close(got, wanted)


def test_sequences_may_share_blocks(cpu: CpuKernels) -> None:
    sequences = Sequences([40, 40], blocks=64)
    sequences.tables[1, :2] = sequences.tables[0, :2]
    first = sequences.batch({}, {0: (0, 34)})
    second = sequences.batch({0: 34}, {1: (32, 5)})
    for got, wanted in attend_both(cpu, attention_spec(4, 2, 8, torch.float32), [first, second]):
        close(got, wanted)


def test_cleaned_blocks_do_not_harm_their_next_owner(cpu: CpuKernels) -> None:
    cache = cpu.paged_attention(attention_spec(1, 1, 8, torch.float32, blocks=4, windows=(None,)))
    sequences = Sequences([20], blocks=4)
    broken = sequences.batch({}, {0: (0, 20)})
    assert cache.attend(0, torch.full((20, 24), float("nan")), None, cache.plan(broken)).isnan().all()
    cache.clean(sequences.tables[0])
    decode = sequences.batch({0: 0}, {})
    assert cache.attend(0, torch.randn(1, 24), None, cache.plan(decode)).isfinite().all()


def test_groups_cover_the_batch_and_bound_the_padding() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        blocks = np.sort(rng.integers(1, 200, rng.integers(1, 40)))[::-1]
        most = int(rng.integers(1, 2000))
        bounds = group_bounds(blocks, most)
        assert [i for first, end in bounds for i in range(first, end)] == list(range(len(blocks)))
        for first, end in bounds:
            # Each sequence kept with a longer one carries less padding than the limit by itself.
            assert all(blocks[first] - blocks[i] <= 64 for i in range(first, end))
            assert (end - first) * blocks[first] <= most or end == first + 1


def test_equal_lengths_are_one_group() -> None:
    assert group_bounds(np.full(32, 10), 320) == [(0, 32)]
    assert group_bounds(np.full(32, 10), 319) == [(0, 31), (31, 32)]
    assert group_bounds(np.array([], dtype=np.int64), 320) == []


def test_block_bytes_count_all_layers_keys_and_values() -> None:
    assert KVShape(30, 3, 64, 1, 16, torch.bfloat16).block_bytes == 23_040 * 16
