"""Products of int8 activations and what stands between them, against plain numbers."""

import os
import subprocess
import sys
from pathlib import Path

import jit_calls
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jit_calls import Activations, exponential, multiplied, quantised
from llvmlite import binding

from ridgeline.kernels.jit.blocks import BlockMatrix
from ridgeline.kernels.jit.packing import pack
from ridgeline.kernels.jit.products import FORM_4, FORM_4_MINIMUM, FORM_8, MAX_ROWS
from ridgeline.kernels.jit.target import AVX2, AVX512, AVX_VNNI, instruction_set

Floats = npt.NDArray[np.float32]

FORMS = pytest.mark.parametrize("form", [FORM_4_MINIMUM, FORM_4, FORM_8])

NAMED = {"haswell": "avx2", "alderlake": "avxvnni"}
"""Processors that kernels may be compiled for, and what this one must have to run that."""


def matrix(form: int, rows: int, blocks: int, seed: int = 0) -> BlockMatrix:
    generator = np.random.default_rng(seed)
    bits = 8 if form == FORM_8 else 4
    values = generator.integers(0, 1 << bits, (rows, 32 * blocks)).astype(np.uint8)
    scales = generator.uniform(-1, 1, (rows, blocks)).astype(np.float16)
    minimums = generator.standard_normal((rows, blocks)).astype(np.float16)
    return BlockMatrix(values, bits, scales, minimums if form == FORM_4_MINIMUM else None)


def constant_matrix(form: int, quant: int, rows: int, blocks: int) -> BlockMatrix:
    """All weights have the same quant, with scale 1 and minimum 0."""
    ones = np.ones((rows, blocks), np.float16)
    values = np.full((rows, 32 * blocks), quant, np.uint8)
    minimums = np.zeros_like(ones) if form == FORM_4_MINIMUM else None
    return BlockMatrix(values, 8 if form == FORM_8 else 4, ones, minimums)


def activations(values: npt.NDArray[np.int8], scales: Floats) -> Activations:
    counts = values.reshape(*scales.shape, 32).sum(axis=-1, dtype=np.int32)
    return Activations(values, scales, counts, counts.astype(np.float32) * scales)


def random_activations(rows: int, blocks: int, seed: int = 1) -> Activations:
    generator = np.random.default_rng(seed)
    values = generator.integers(-127, 128, (rows, 32 * blocks)).astype(np.int8)
    return activations(values, generator.uniform(0, 1, (rows, blocks)).astype(np.float32))


def nothing(rows: int, columns: int) -> Floats:
    return np.full((rows, columns), np.nan, np.float32)


def exactly(weights: BlockMatrix) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The weights, and the magnitudes of the terms that they are sums of."""
    scales, minimums = (
        np.repeat(part.astype(np.float64), 32, axis=1)
        for part in (
            weights.scales,
            np.zeros_like(weights.scales) if weights.minimums is None else weights.minimums,
        )
    )
    offset = 0 if weights.minimums is not None else 1 << (weights.bits - 1)
    scaled = scales * (weights.values.astype(np.float64) - offset)
    return scaled + minimums, np.abs(scaled) + np.abs(minimums)


def check(weights: BlockMatrix, x: Activations, accumulate: bool = False) -> None:
    """Compare with float64, within what float32 rounds of the sum of all magnitudes."""
    packed = pack(weights)
    rows, outputs = len(x.values), len(weights.values)
    before = np.random.default_rng(2).standard_normal((rows, packed.padded_rows)).astype(np.float32) * 100
    if not accumulate:
        before[:] = np.nan
    out = multiplied(packed, x, before.copy(), accumulate)
    inputs = x.values * np.repeat(x.scales.astype(np.float64), 32, axis=1)
    plain, magnitudes = exactly(weights)
    wanted, magnitude = inputs @ plain.T, np.abs(inputs) @ magnitudes.T
    if accumulate:
        wanted += before[:, :outputs]
        magnitude += np.abs(before[:, :outputs])
    assert np.all(np.abs(out[:, :outputs] - wanted) <= (2 * x.scales.shape[1] + 3) * 2.0**-24 * magnitude)
    beyond = out[:, outputs:]
    assert np.array_equal(beyond, before[:, outputs:] if accumulate else np.zeros_like(beyond))


@FORMS
@pytest.mark.parametrize("blocks", [1, 2, 3, 18, 49])
@pytest.mark.parametrize("rows", range(1, MAX_ROWS + 1))
def test_products_of_all_forms_and_counts_of_rows(form: int, blocks: int, rows: int) -> None:
    check(matrix(form, 64, blocks), random_activations(rows, blocks))


@given(
    form=st.sampled_from([FORM_4_MINIMUM, FORM_4, FORM_8]),
    outputs=st.integers(1, 100),
    rows=st.integers(1, 2 * MAX_ROWS + 1),
    blocks=st.integers(1, 12),
    accumulate=st.booleans(),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=60, deadline=None)
def test_any_product(form: int, outputs: int, rows: int, blocks: int, accumulate: bool, seed: int) -> None:
    check(matrix(form, outputs, blocks, seed), random_activations(rows, blocks, seed + 1), accumulate)


@FORMS
def test_only_the_tile_asked_for_is_written(form: int) -> None:
    packed = pack(matrix(form, 32, 3))
    whole = nothing(MAX_ROWS + 3, 32 + 24)
    multiplied(packed, random_activations(MAX_ROWS, 3), whole[1:-2, 16:48])
    assert np.isfinite(whole[1:-2, 16:48]).all()
    whole[1:-2, 16:48] = np.nan
    assert np.isnan(whole).all()


@FORMS
@pytest.mark.parametrize("value", [-128, -127, 127])
@pytest.mark.parametrize("largest", [False, True])
def test_sums_of_extreme_numbers_are_exact(form: int, value: int, largest: bool) -> None:
    quant = (255 if form == FORM_8 else 15) * largest
    offset = {FORM_4_MINIMUM: 0, FORM_4: 8, FORM_8: 128}[form]
    values = np.full((MAX_ROWS, 64), value, np.int8)
    x = activations(values, np.ones((MAX_ROWS, 2), np.float32))
    out = multiplied(pack(constant_matrix(form, quant, 32, 2)), x, nothing(MAX_ROWS, 32))
    assert np.all(out == 64 * (quant - offset) * value)


@FORMS
def test_every_quant_is_multiplied_as_what_it_is(form: int) -> None:
    """With one activation at a time, so that no error hides among others."""
    count = 256 if form == FORM_8 else 16
    weights = constant_matrix(form, 0, count, 1)
    weights.values[:] = np.arange(count)[:, None]
    values = np.zeros((32, 32), np.int8)
    np.fill_diagonal(values, np.arange(-16, 16) * 7 + 3)
    out = multiplied(
        pack(weights), activations(values, np.ones((32, 1), np.float32)), nothing(32, max(count, 32))
    )
    assert np.array_equal(out[:, :count], values.diagonal()[:, None] * weights.to_floats()[:, 0])


@FORMS
@pytest.mark.parametrize("spoiler", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_spoils_its_own_row_and_all_of_it(form: int, spoiler: float) -> None:
    weights = matrix(form, 64, 4)
    weights.values[5] = 8  # an output whose weights are 0
    weights.scales[7] = 0
    x = np.random.default_rng(3).standard_normal((MAX_ROWS, 128)).astype(np.float32)
    whole = multiplied(pack(weights), quantised(x), nothing(MAX_ROWS, 64))
    for row in range(MAX_ROWS):
        for column in (0, 40, 127):
            spoilt = x.copy()
            spoilt[row, column] = spoiler
            out = multiplied(pack(weights), quantised(spoilt), nothing(MAX_ROWS, 64))
            assert not np.isfinite(out[row]).any()
            assert np.array_equal(np.delete(out, row, 0), np.delete(whole, row, 0))


@FORMS
def test_nothing_times_anything_is_nothing(form: int) -> None:
    x = quantised(np.zeros((MAX_ROWS, 96), np.float32))
    out = multiplied(pack(matrix(form, 32, 3)), x, nothing(MAX_ROWS, 32))
    assert not out.any()


def test_weights_that_are_nothing_leave_a_sum_as_it_is() -> None:
    weights = matrix(FORM_4_MINIMUM, 32, 3)
    assert weights.minimums is not None
    weights.scales[:], weights.minimums[:] = 0, 0
    before = np.random.default_rng(4).standard_normal((1, 32)).astype(np.float32)
    out = multiplied(pack(weights), random_activations(1, 3), before.copy(), accumulate=True)
    assert np.array_equal(out, before)


def test_products_are_made_of_the_instructions_of_their_processor() -> None:
    check(matrix(FORM_8, 32, 1), random_activations(1, 1))
    code = "".join(jit_calls.multiply.inspect_asm().values())
    kind = instruction_set()
    assert ("zmm" in code) == (kind == AVX512)
    assert ("vpdpbusd" in code) == (kind in (AVX512, AVX_VNNI))
    assert ("vpmaddubsw" in code) == (kind == AVX2)


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
    assert np.all(np.abs(silu_mul(gate, up) - wanted) <= 5e-7 * np.abs(wanted) + 1e-35)


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


def runnable() -> list[str]:
    if os.environ.get("NUMBA_CPU_NAME"):
        return []
    features = binding.get_host_cpu_features()
    return [name for name, needs in NAMED.items() if features.get(needs)]


@pytest.mark.parametrize("name", runnable())
def test_processors_without_wide_vectors(name: str) -> None:
    """All of this file in a process that compiles for one, as this machine's own choice is made once."""
    kinds = {"haswell": AVX2, "alderlake": AVX_VNNI}
    environment = os.environ | {"NUMBA_CPU_NAME": name}
    asked = subprocess.run(
        [sys.executable, "-c", "from ridgeline.kernels.jit.target import *; print(instruction_set())"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.stdout == f"{kinds[name]}\n", asked.stderr
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--deselect",
        f"{__file__}::{test_processors_without_wide_vectors.__name__}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, __file__],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
