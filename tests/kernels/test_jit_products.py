"""Products of int8 activations with weights of few bits, against plain numbers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jit_calls import Activations, multiplied, quantised
from llvmlite import binding
from numba import njit

from ridgeline.kernels.jit import products
from ridgeline.kernels.jit.blocks import BlockMatrix
from ridgeline.kernels.jit.packing import pack
from ridgeline.kernels.jit.products import FORM_4, FORM_4_MINIMUM, FORM_8, MAX_ROWS
from ridgeline.kernels.jit.target import AVX2, AVX512, AVX_VNNI, instruction_set

Floats = npt.NDArray[np.float32]

FORMS = pytest.mark.parametrize("form", [FORM_4_MINIMUM, FORM_4, FORM_8])

NAMED = {"haswell": ("avx2", AVX2), "alderlake": ("avxvnni", AVX_VNNI)}
"""Processors to compile for: what this one must have to run that, and the set of instructions."""


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
    # Compiled once more, because of what was kept from earlier only the machine's own form is there.
    compiled = njit("(" + "i8," * 13 + ")")(products._entry)
    code = "".join(compiled.inspect_asm().values())
    kind = instruction_set()
    assert ("zmm" in code) == (kind == AVX512)
    assert ("vpdpbusd" in code) == (kind in (AVX512, AVX_VNNI))
    assert ("vpmaddubsw" in code) == (kind == AVX2)


def runnable() -> list[str]:
    if os.environ.get("NUMBA_CPU_NAME"):
        return []
    features = binding.get_host_cpu_features()
    return [name for name, (needs, _) in NAMED.items() if features.get(needs)]


@pytest.mark.slow
@pytest.mark.parametrize("name", runnable())
def test_processors_without_wide_vectors(name: str) -> None:
    """This file, its neighbour and whole models, where all is compiled for one: a process chooses once."""
    environment = os.environ | {"NUMBA_CPU_NAME": name}
    asked = subprocess.run(
        [sys.executable, "-c", "from ridgeline.kernels.jit.target import *; print(instruction_set())"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.stdout == f"{NAMED[name][1]}\n", asked.stderr
    folder = Path(__file__).parent
    files = [str(folder / f"test_jit_{part}.py") for part in ("products", "activations")]
    if name == "haswell":
        files.append(str(folder.parent / "models" / "test_block_transformer.py"))
    own = f"{__file__}::{test_processors_without_wide_vectors.__name__}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--deselect", own, *files],
        env=environment,
        cwd=folder.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
