"""Attention of a compiled step: all shapes against plain float64, and what is not a number."""

import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from attention_cases import Case, Floats, check, computed, store_all
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ridgeline.kernels.jit import attention
from ridgeline.kernels.jit.attention_single import single_scratch_bytes


@pytest.mark.parametrize("context", [1, 15, 16, 17, 160, 1056])
@pytest.mark.parametrize("parts", [1, 3])
def test_single_tokens_attend_to_their_context(context: int, parts: int) -> None:
    check(Case(9, 3, 64, [context, max(1, context - 5)], [1, 1]), parts, by_group=True)


@pytest.mark.parametrize("parts", [1, 2])
def test_single_tokens_keep_to_their_own_scratch(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is smaller than that of chunks, so that other tests would not notice."""
    monkeypatch.setattr(attention, "scratch_bytes", single_scratch_bytes)
    check(Case(16, 1, 32, [300], [1]), parts)


@pytest.mark.parametrize("tokens", [2, 16, 33, 100])
@pytest.mark.parametrize("start", [0, 7, 16, 90])
def test_chunks_attend_to_what_is_before_them_and_to_themselves(tokens: int, start: int) -> None:
    check(Case(9, 3, 64, [start + tokens, start + 2], [tokens, 2]), 0)


@pytest.mark.parametrize("parts", [0, 1, 4])
@pytest.mark.parametrize("window", [1, 5, 16, 40, 500])
def test_a_window_hides_what_is_before_it(window: int, parts: int) -> None:
    check(Case(6, 2, 32, [130, 3, 90], [40, 3, 1], window=window), parts)


@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (8, 8), (16, 8), (32, 8), (5, 1), (16, 1)])
def test_groups_of_all_sizes(heads: int, kv_heads: int) -> None:
    for parts in (0, 1, 2):
        check(Case(heads, kv_heads, 64, [75, 20], [30, 1]), parts)


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 160, 192, 256])
def test_heads_of_all_sizes(head_dim: int) -> None:
    for parts in (0, 1, 2):
        check(Case(4, 2, head_dim, [75, 20], [20, 1]), parts)


@pytest.mark.parametrize("by_group", [False, True])
def test_norms_of_heads_come_before_rotation(by_group: bool) -> None:
    norms = np.random.default_rng(5).uniform(0.5, 2, (2, 64)).astype(np.float32)
    check(Case(4, 2, 64, [40], [9], norms=norms), 0, by_group)


@given(
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 16),
    head_dim=st.sampled_from([32, 64, 96, 128]),
    sequences=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 70)), min_size=1, max_size=3),
    window=st.one_of(st.just(0), st.integers(1, 100)),
    parts=st.integers(0, 5),
    seed=st.integers(0, 2**20),
)
@example(1, 7, 64, [(64, 64), (0, 1)], 64, 0, 0)
@settings(max_examples=30, deadline=None)
def test_any_shape(
    kv_heads: int,
    group: int,
    head_dim: int,
    sequences: list[tuple[int, int]],
    window: int,
    parts: int,
    seed: int,
) -> None:
    contexts, tokens = [a + b for a, b in sequences], [b for _, b in sequences]
    check(Case(kv_heads * group, kv_heads, head_dim, contexts, tokens, window=window, seed=seed), parts)


def stored_bits(values: Floats) -> npt.NDArray[np.uint16]:
    """What V of one token of 64 elements is stored as."""
    case = Case(1, 1, 64, [18], [1])
    case.qkv[0, 128:] = values
    store_all(
        (case.qkv, case.positions, case.write_blocks, case.rotations, case.kv_pool), 0, 1, (1, 1, 64), True
    )
    return case.pool[case.tables[0][1], 1, 1, 0].reshape(16, 64)[1]


def test_values_are_rounded_to_the_nearest_float16() -> None:
    generator = np.random.default_rng(1)
    # Halfway between two float16, a bit beside that, and where float16 is denormal or nothing.
    halves = generator.integers(0, 0x7BFF, 16).astype(np.uint16).view(np.float16).astype(np.float32)
    nexts = (halves.astype(np.float16).view(np.uint16) + 1).view(np.float16).astype(np.float32)
    between = (halves + nexts) / 2
    values = np.concatenate(
        (
            between,
            -np.nextafter(between, np.float32(9e9)),
            np.nextafter(between, np.float32(0)),
            halves * 2**-14,
        )
    ).astype(np.float32)
    assert np.array_equal(stored_bits(values), values.astype(np.float16).view(np.uint16))


def test_what_float16_cannot_hold_becomes_its_largest_and_nan_stays() -> None:
    values = np.zeros(64, np.float32)
    values[:6] = [65504, 65519, 65520, 1e9, np.inf, np.nan]
    values[6:12] = -values[:6]
    found = stored_bits(values).view(np.float16)
    assert found[:5].tolist() == [65504] * 5
    assert found[6:11].tolist() == [-65504] * 5
    assert np.isnan(found[5])
    assert np.isnan(found[11])
    assert not found[12:].any()


@pytest.mark.parametrize("parts", [0, 1, 3])
@pytest.mark.parametrize("payload", [0x7FC00000, 0x7FC00001, 0xFFFFFFFF])
def test_nan_reaches_the_output_of_its_own_heads_alone(parts: int, payload: int) -> None:
    case = Case(4, 2, 64, [70, 40], [20, 1])
    case.qkv.view(np.uint32)[:20, 2 * 64 + 9] = payload
    out = computed(case, parts).reshape(21, 4, 64)
    assert np.isnan(out[:20, 2]).all()
    out[:20, 2] = 0
    assert np.isfinite(out).all()


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_scores_that_are_far_apart_do_not_overflow(parts: int) -> None:
    case = Case(2, 1, 32, [100], [5])
    case.qkv[:, :64] *= 300  # scores of some 1000, which float32 holds to 1e-4
    check(case, parts, bound=2e-4)


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_equal_scores_weigh_alike(parts: int) -> None:
    case = Case(2, 1, 32, [100], [5])
    case.qkv[:, :64] = 0
    check(case, parts)


def test_positions_are_cut_where_threads_would_wait() -> None:
    assert attention.count_parts(3, 160, 2) == 1
    assert attention.count_parts(64, 100_000, 2) == 1
    assert attention.count_parts(3, 2048, 2) == 2
    assert attention.count_parts(1, 100_000, 8) == 8
    for tasks in range(1, 20):
        for threads in range(1, 9):
            for context in (1, 255, 1056, 8192):
                parts = attention.count_parts(tasks, context, threads)
                assert 1 <= parts <= max(1, min(threads, context // 256))


def test_tiles_cover_a_chunk() -> None:
    for group in range(1, 17):
        size = attention.tile_tokens(group)
        for tokens in (1, size - 1, size, size + 1, 2048):
            tiles = attention.query_tiles(tokens, group)
            assert (tiles - 1) * size < tokens <= tiles * size


@pytest.mark.slow
def test_processors_without_wide_vectors() -> None:
    """In a process that compiles for one, as this machine's own choice is made once."""
    environment = os.environ | {"NUMBA_CPU_NAME": "haswell", "PYTHONPATH": os.pathsep.join(sys.path)}
    program = """
from attention_cases import Case, check
for parts in (1, 2):
    check(Case(9, 3, 64, [161, 17, 1], [1, 1, 1]), parts)
for parts in (0, 1):
    check(Case(6, 2, 96, [130, 17], [50, 2], window=30), parts)
    check(Case(5, 1, 128, [67], [67]), parts)
print("checked")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "checked\n", done.stderr
