"""Attention of a compiled step over K and V in int8, against plain float64 over what is stored."""

import os
import subprocess
import sys

import numpy as np
import pytest
from attention_cases import INT8_BOUND, Case, check, computed
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.kernels.jit import attention
from ridgeline.kernels.jit.attention_single import single_scratch_bytes
from ridgeline.kernels.jit.kv_pool import FLOAT16, INT8, piece_bytes


def case_of(*arguments: object, **named: object) -> Case:
    return Case(*arguments, form=INT8, **named)  # type: ignore[arg-type]


@pytest.mark.parametrize("context", [1, 15, 16, 17, 160, 1056])
@pytest.mark.parametrize("parts", [1, 3])
def test_single_tokens_attend_to_their_context(context: int, parts: int) -> None:
    case = case_of(9, 3, 64, [context, max(1, context - 5)], [1, 1])
    check(case, parts, by_group=True, bound=INT8_BOUND)


@pytest.mark.parametrize("parts", [1, 2])
def test_single_tokens_keep_to_their_own_scratch(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is smaller than that of chunks, so that other tests would not notice."""
    monkeypatch.setattr(attention, "scratch_bytes", single_scratch_bytes)
    check(case_of(16, 1, 32, [300], [1]), parts, bound=INT8_BOUND)


@pytest.mark.parametrize("tokens", [2, 33, 100])
@pytest.mark.parametrize("start", [0, 7, 90])
def test_chunks_attend_to_what_is_before_them_and_to_themselves(tokens: int, start: int) -> None:
    check(case_of(9, 3, 64, [start + tokens, start + 2], [tokens, 2]), 0)


@pytest.mark.parametrize("parts", [0, 1, 4])
@pytest.mark.parametrize("window", [1, 16, 40, 500])
def test_a_window_hides_what_is_before_it(window: int, parts: int) -> None:
    check(case_of(6, 2, 32, [130, 3, 90], [40, 3, 1], window=window), parts, bound=INT8_BOUND)


@given(
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 16),
    head_dim=st.sampled_from([32, 64, 96, 128, 256]),
    sequences=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 70)), min_size=1, max_size=3),
    window=st.one_of(st.just(0), st.integers(1, 100)),
    parts=st.integers(0, 5),
    seed=st.integers(0, 2**20),
)
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
    case = case_of(kv_heads * group, kv_heads, head_dim, contexts, tokens, window=window, seed=seed)
    check(case, parts, bound=INT8_BOUND)


@pytest.mark.parametrize("parts", [0, 1, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [4, 6])
def test_what_is_not_finite_reaches_the_output_of_its_own_heads_alone(
    parts: int, value: float, place: int
) -> None:
    """In a key of the first KV head, and in a value of it."""
    case = case_of(4, 2, 64, [70, 40], [20, 1])
    case.qkv[3, place * 64 + 9] = value
    out = computed(case, parts).reshape(21, 4, 64)
    assert np.isnan(out[3:20, :2]).all()
    out[3:20, :2] = 0
    assert np.isfinite(out).all()


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_zeros_stay_zeros(parts: int) -> None:
    case = case_of(2, 1, 32, [5], [5])
    case.qkv[:] = 0
    assert not computed(case, parts).any()


@pytest.mark.parametrize("parts", [1, 3])
def test_scores_that_are_far_apart_do_not_overflow(parts: int) -> None:
    case = case_of(2, 1, 32, [100], [5])
    case.qkv[:, :64] *= 300  # scores of some 1000, of which 16 bits of a query leave 0.03
    check(case, parts, bound=0.05)


def test_a_piece_takes_little_more_than_half() -> None:
    for head_dim in (32, 64, 128):
        assert piece_bytes(INT8, head_dim) == piece_bytes(FLOAT16, head_dim) // 2 + 64


@pytest.mark.slow
def test_processors_without_wide_vectors() -> None:
    """In a process that compiles for one, as this machine's own choice is made once."""
    environment = os.environ | {"NUMBA_CPU_NAME": "haswell", "PYTHONPATH": os.pathsep.join(sys.path)}
    program = """
from attention_cases import INT8_BOUND, Case, check
for parts in (1, 2):
    check(Case(9, 3, 64, [161, 17, 1], [1, 1, 1], form=1), parts, bound=INT8_BOUND)
for parts in (0, 1):
    check(Case(6, 2, 96, [130, 17], [50, 2], window=30, form=1), parts, bound=INT8_BOUND)
    check(Case(5, 1, 128, [67], [67], form=1), parts, bound=INT8_BOUND)
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
