"""What stands between products: quantising, norms, the gated activation, against plain numbers."""

import jit_calls
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jit_calls import exponential, quantised

Floats = npt.NDArray[np.float32]


def blocks_of_floats() -> st.SearchStrategy[Floats]:
    """32 numbers whose largest is anything from float32's smallest to its largest."""
    numbers = st.lists(st.floats(-1, 1, width=32), min_size=32, max_size=32)
    return st.builds(
        lambda block, power: np.ldexp(np.array([block], np.float32), power), numbers, st.integers(-149, 127)
    )


def half_to_even() -> Floats:
    """Numbers between two steps, the step being 1."""
    block = np.arange(32, dtype=np.float32)[None] - 16.5
    block[0, 0] = 127
    return block


@given(blocks_of_floats())
@example(half_to_even())
@example(np.zeros((1, 32), np.float32))
@example(np.full((1, 32), -0.0, np.float32))
@example(np.full((1, 32), 1e-45, np.float32))
@example(np.full((1, 32), -3e-37, np.float32))
@example(np.full((1, 32), np.finfo(np.float32).max, np.float32))
@settings(max_examples=200, deadline=None)
def test_a_block_is_rounded_to_127_steps_of_its_largest(block: Floats) -> None:
    found = quantised(block)
    largest = np.abs(block).max()
    assert found.scales[0, 0] == largest * np.float32(1 / 127)
    if largest >= 1e-36:
        steps = np.rint(block * (np.float32(127) / largest))
        assert np.array_equal(found.values, steps)
        assert np.abs(found.values).max() == 127
        assert np.all(np.abs(found.values * found.scales - block) <= 0.50001 * found.scales)
    else:
        assert not found.values.any()
    assert found.counts[0, 0] == found.values.sum(dtype=np.int64)
    with np.errstate(over="ignore"):
        assert found.totals[0, 0] == found.scales[0, 0] * np.float32(found.counts[0, 0])


def test_halves_are_rounded_to_even() -> None:
    assert quantised(half_to_even()).values[0, 1:7].tolist() == [-16, -14, -14, -12, -12, -10]


@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000])
def test_a_block_that_is_no_number_has_a_scale_that_is_none(bits: int) -> None:
    for place in range(32):
        block = np.ones((1, 32), np.float32)
        block.view(np.uint32)[0, place] = bits
        found = quantised(block)
        assert not np.isfinite(found.scales[0, 0])
        assert np.isnan(found.totals[0, 0])


def test_exponentials_are_within_their_error() -> None:
    x = np.concatenate((np.linspace(-87.33, 88.37, 400_000), np.linspace(-1e-3, 1e-3, 2001))).astype(
        np.float32
    )
    wanted = np.exp(x.astype(np.float64))
    assert np.all(np.abs(exponential(x) - wanted) <= 2e-7 * wanted)
    assert exponential(np.zeros(1, np.float32)) == 1


def test_exponentials_beyond_their_range() -> None:
    found = exponential(np.array([-88, -1e9, -np.inf, 89, 1e9, np.inf, np.nan, -np.nan], np.float32))
    assert np.all(found[:3] < 2e-38)
    assert np.all(found[:3] >= 0)
    assert np.all(found[3:6] > 2e38)
    assert np.isnan(found[6:]).all()


def silu_mul(gate: Floats, up: Floats) -> Floats:
    out = np.empty_like(gate)
    jit_calls.silu_mul(gate, up, out)
    return out


def test_the_gated_activation() -> None:
    gate = np.linspace(-100, 100, 16_000, dtype=np.float32)
    up = np.random.default_rng(5).standard_normal(len(gate)).astype(np.float32)
    wide = gate.astype(np.float64)
    wanted = wide / (1 + np.exp(-wide)) * up
    # The exponent is rounded to float32, so that the power is off by that many times more.
    bound = 2e-7 * (2 + np.abs(wide)) * np.abs(wanted)
    assert np.all(np.abs(silu_mul(gate, up) - wanted) <= bound + 1e-35)


def test_the_gated_activation_of_what_is_no_number() -> None:
    odd = [np.nan, np.inf, -np.inf, 1, 1, -1e30, 1e30]
    gate, up = np.zeros(16, np.float32), np.ones(16, np.float32)
    gate[: len(odd)] = odd
    up[3:5] = np.nan, np.inf
    found = silu_mul(gate, up)
    assert not np.isfinite(found[:5]).any()
    assert abs(found[5]) < 1e-7
    assert found[6] == np.float32(1e30)
    assert not found[7:].any()


@pytest.mark.parametrize("size", [1, 31, 32, 33, 576, 2048])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_norms(size: int, scale: float) -> None:
    generator = np.random.default_rng(size)
    x = (generator.standard_normal(size) * scale).astype(np.float32)
    weight = generator.standard_normal(size).astype(np.float32)
    whole = np.full(size + 2, np.nan, np.float32)
    jit_calls.norm(x, weight, 1e-5, whole[1:-1])
    wide = x.astype(np.float64)
    wanted = wide / np.sqrt(np.mean(wide**2) + 1e-5) * weight
    assert np.all(np.abs(whole[1:-1] - wanted) <= 1e-6 * np.abs(wanted))
    assert np.isnan(whole[[0, -1]]).all()


@pytest.mark.parametrize("spoiler", [np.nan, np.inf, -np.inf])
def test_norms_of_what_is_no_number_are_none(spoiler: float) -> None:
    x, out = np.ones(64, np.float32), np.zeros(64, np.float32)
    x[37] = spoiler
    jit_calls.norm(x, np.ones(64, np.float32), 1e-5, out)
    assert np.isnan(out[37])


def test_sums() -> None:
    source = np.arange(16, dtype=np.float32)
    whole = np.full(18, 7, np.float32)
    jit_calls.add(source, whole[1:17])
    assert whole.tolist() == [7, *(7 + source), 7]
