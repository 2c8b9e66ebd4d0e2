"""The CPU's kernels against the plain ones."""

import numpy as np
import pytest
import torch

from ridgeline.kernels import cpu_attention
from ridgeline.kernels.cpu import CpuKernels, packs_weights
from ridgeline.kernels.cpu_attention import group_bounds
from ridgeline.kernels.interface import Batch, Chunk, Kernels, KVShape, PagedAttention
from ridgeline.kernels.reference import ReferenceKernels

BLOCK_SIZE = 16
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


def test_rope_turns_halves_by_the_angle(cpu: CpuKernels, dtype: torch.dtype) -> None:
    x, angle = torch.randn(4, 3, 8).to(dtype), torch.rand(4, 1, 4)
    cos = torch.cat((angle.cos(), angle.cos()), -1).to(dtype)
    sin = torch.cat((-angle.sin(), angle.sin()), -1).to(dtype)
    turned = cpu.rope(x, cos, sin)
    close(turned, ReferenceKernels().rope(x, cos, sin))
    pairs = torch.complex(x.float()[..., :4], x.float()[..., 4:]) * torch.polar(torch.ones(4, 1, 4), angle)
    close(turned, torch.cat((pairs.real, pairs.imag), -1).to(dtype))


def test_silu_mul(cpu: CpuKernels, dtype: torch.dtype) -> None:
    gate_up = torch.randn(6, 32).to(dtype) * 3
    close(cpu.silu_mul(gate_up), ReferenceKernels().silu_mul(gate_up))


class Sequences:
    """Sequences with blocks scattered over a pool, of which every step computes some tokens."""

    def __init__(self, contexts: list[int], blocks: int) -> None:
        order = np.random.default_rng(0).permutation(blocks).astype(np.int64)
        width = max(-(-context // BLOCK_SIZE) for context in contexts)
        self.tables = np.zeros((len(contexts), width), dtype=np.int64)
        for i, context in enumerate(contexts):
            used = -(-context // BLOCK_SIZE)
            self.tables[i, :used], order = order[:used], order[used:]

    def batch(self, singles: dict[int, int], chunks: dict[int, tuple[int, int]]) -> Batch:
        """singles: position by sequence; chunks: (start, tokens) by sequence."""
        ordered = sorted(singles.items(), key=lambda item: -item[1])
        rows = [(sequence, position) for sequence, position in ordered]
        parts = []
        for sequence, (start, tokens) in chunks.items():
            parts.append(Chunk(len(rows), tokens, start, self.tables[sequence]))
            rows += [(sequence, position) for position in range(start, start + tokens)]
        sequences, positions = np.array(rows, dtype=np.int64).T
        return Batch(
            np.zeros_like(positions),
            positions,
            self.tables[sequences, positions // BLOCK_SIZE],
            self.tables[[sequence for sequence, _ in ordered]],
            np.array([position + 1 for _, position in ordered], dtype=np.int64),
            tuple(parts),
        )


def attend_both(
    cpu: Kernels, dtype: torch.dtype, steps: list[Batch], heads: int, kv_heads: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    shape = KVShape(2, kv_heads, 8, 64, BLOCK_SIZE, dtype)
    caches: list[PagedAttention] = [k.paged_attention(shape) for k in (cpu, ReferenceKernels())]
    pairs = []
    for batch in steps:
        query = torch.randn(len(batch.positions), heads, 8).to(dtype)
        key_value = torch.randn(len(batch.positions), 2 * kv_heads, 8).to(dtype)
        for layer in range(2):
            got, wanted = (c.attend(layer, query, key_value, c.plan(batch)) for c in caches)
            pairs.append((got, wanted))
    return pairs


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 4), (4, 1)])
def test_attention_over_a_mixed_batch(cpu: CpuKernels, dtype: torch.dtype, heads: int, kv_heads: int) -> None:
    sequences = Sequences([50, 16, 33, 90], blocks=64)
    steps = [
        sequences.batch({}, {0: (0, 40), 1: (0, 15), 3: (0, 2)}),
        sequences.batch({0: 40, 1: 15, 2: 0}, {3: (2, 60)}),
        sequences.batch({0: 41, 2: 1}, {3: (62, 20)}),
        sequences.batch({0: 42, 2: 2, 3: 82}, {}),
    ]
    for got, wanted in attend_both(cpu, dtype, steps, heads, kv_heads):
        close(got, wanted)


def test_sequences_of_very_different_length_share_a_step(cpu: CpuKernels, dtype: torch.dtype) -> None:
    lengths = [700, 3, 20, 1, 9, 15, 31, 2]
    sequences = Sequences(lengths, blocks=64)
    fill = [sequences.batch({}, {i: (0, n) for i, n in enumerate(lengths) if n > 1})]
    last = sequences.batch({i: n - 1 for i, n in enumerate(lengths)}, {})
    assert len(group_bounds(-(-last.contexts // BLOCK_SIZE), 10**6)) == 2
    for got, wanted in attend_both(cpu, dtype, [*fill, last], 6, 2):
        close(got, wanted)


def test_long_contexts_are_gathered_in_parts(
    cpu: CpuKernels, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "_GATHER_BYTES", 2 * 2 * BLOCK_SIZE * 8 * dtype.itemsize * 6)
    sequences = Sequences([50, 40, 33, 16, 90], blocks=64)
    fill = sequences.batch({}, {i: (0, n - 1) for i, n in enumerate([50, 40, 33, 16, 90])})
    last = sequences.batch(dict(enumerate([49, 39, 32, 15, 89])), {})
    plan = cpu.paged_attention(KVShape(2, 2, 8, 64, BLOCK_SIZE, dtype)).plan(last)
    assert [group.count for group in plan.groups] == [1, 1, 2, 1]
    for got, wanted in attend_both(cpu, dtype, [fill, last], 6, 2):
        close(got, wanted)


def test_sequences_may_share_blocks(cpu: CpuKernels) -> None:
    sequences = Sequences([40, 40], blocks=64)
    sequences.tables[1, :2] = sequences.tables[0, :2]
    first = sequences.batch({}, {0: (0, 34)})
    second = sequences.batch({0: 34}, {1: (32, 5)})
    for got, wanted in attend_both(cpu, torch.float32, [first, second], 4, 2):
        close(got, wanted)


def test_cleaned_blocks_do_not_harm_their_next_owner(cpu: CpuKernels) -> None:
    cache = cpu.paged_attention(KVShape(1, 1, 8, 4, BLOCK_SIZE, torch.float32))
    sequences = Sequences([20], blocks=4)
    broken = sequences.batch({}, {0: (0, 20)})
    key_value = torch.full((20, 2, 8), float("nan"))
    assert cache.attend(0, torch.randn(20, 1, 8), key_value, cache.plan(broken)).isnan().all()
    cache.clean(sequences.tables[0])
    decode = sequences.batch({0: 0}, {})
    assert cache.attend(0, torch.randn(1, 1, 8), torch.randn(1, 2, 8), cache.plan(decode)).isfinite().all()


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
