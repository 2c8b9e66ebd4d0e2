"""Weights in blocks, and in the order of the kernels, against plain numbers."""

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.kernels.jit import packing
from ridgeline.kernels.jit.blocks import (
    BlockMatrix,
    from_floats,
    from_gguf,
    quantise_activations,
    reference_product,
)
from ridgeline.kernels.jit.products import BLOCK_BYTES, FORM_4, FORM_4_MINIMUM, FORM_8

Floats = npt.NDArray[np.float32]

STORED = ("Q4_0", "Q4_1", "Q8_0")
FORMS = {"Q4_0": FORM_4, "Q4_1": FORM_4_MINIMUM, "Q8_0": FORM_8}


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def stored(name: str, weights: Floats) -> npt.NDArray[np.uint8]:
    return gguf.quants.quantize(weights, gguf.GGMLQuantizationType[name])


def matrix(name: str, rows: int, columns: int, seed: int = 0) -> BlockMatrix:
    found = from_gguf(name, stored(name, normal(rows, columns, seed=seed)))
    assert found is not None
    return found


def same(one: BlockMatrix, other: BlockMatrix) -> bool:
    pairs = [(one.values, other.values), (one.scales, other.scales), (one.minimums, other.minimums)]
    return one.bits == other.bits and all(
        a is b if a is None or b is None else a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs
    )


@pytest.mark.parametrize("name", STORED)
def test_blocks_of_a_file_keep_their_numbers(name: str) -> None:
    raw = stored(name, normal(5, 96))
    found = from_gguf(name, raw)
    assert found is not None
    assert found.values.max() < 2**found.bits
    assert (found.minimums is None) == (name != "Q4_1")
    assert np.array_equal(found.to_floats(), gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name]))


def test_blocks_of_other_kinds_are_left_to_others() -> None:
    raw = stored("Q5_0", normal(2, 64))
    assert from_gguf("Q5_0", raw) is None
    assert packing.gguf_form("Q5_0") is None


@pytest.mark.parametrize("scale", [1e-30, 3e-6, 1e-4, 0.02, 1.0, 4e5])
def test_eight_bits_are_as_near_as_their_scale_allows(scale: float) -> None:
    weights = normal(7, 160) * np.float32(scale)
    found = from_floats(weights, 8)
    step = np.repeat(found.scales.astype(np.float32), 32, axis=1)
    # Where a scale would be nothing among float16, so is the weight.
    assert np.all(np.abs(found.to_floats() - weights) <= np.where(step > 0, 0.5001 * step, 127 * 2.0**-25))
    largest = np.abs(weights).reshape(7, -1, 32).max(axis=-1)
    assert np.all(found.scales.astype(np.float32) <= largest / 127 * (1 + 2**-10) + 2.0**-24)


def test_four_bits_are_nearer_than_those_that_span_the_range() -> None:
    weights = normal(64, 320)
    weights[::3, 5] *= 6  # outliers
    plain = gguf.quants.dequantize(stored("Q4_1", weights), gguf.GGMLQuantizationType.Q4_1)
    found = from_floats(weights, 4)
    assert found.minimums is not None
    assert found.values.max() == 15

    def error(approximation: Floats) -> float:
        return float(np.square(approximation - weights).mean())

    assert error(found.to_floats()) < 0.9 * error(plain)


def test_four_bits_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = normal(9, 64)
    whole = from_floats(weights, 4)
    monkeypatch.setattr("ridgeline.kernels.jit.blocks._WEIGHTS_AT_ONCE", 130)
    assert same(from_floats(weights, 4), whole)


def test_what_can_be_exact_is() -> None:
    few = np.repeat(np.array([[0.0], [-2.5], [2.0**-14]], np.float32), 64, axis=1)
    few[0, ::2] = 0.9375
    assert np.array_equal(from_floats(few, 4).to_floats(), few)
    steps = np.repeat(np.arange(-127, 128, 2, dtype=np.float32)[None, ::4], 2, axis=0) / 64
    assert steps.shape == (2, 32)
    steps[1] = 0
    assert np.array_equal(from_floats(steps, 8).to_floats(), steps)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e7])
def test_what_no_scale_fits_is_refused(bits: int, bad: float) -> None:
    weights = normal(3, 64)
    weights[1, 40] = bad
    with pytest.raises(ValueError, match="not finite, or too large"):
        from_floats(weights, bits)  # type: ignore[arg-type]


def test_columns_must_be_whole_blocks() -> None:
    with pytest.raises(ValueError, match="48 columns are no whole number of blocks of 32"):
        from_floats(normal(2, 48), 8)
    with pytest.raises(ValueError, match="33 columns"):
        packing.zeros(FORM_8, 2, 33)
    with pytest.raises(ValueError, match="40 columns"):
        packing.interleave_gate_up(40)


@pytest.mark.parametrize("name", STORED)
def test_the_order_is_the_one_that_products_read(name: str) -> None:
    """Each number looked for at the place that the layout names."""
    weights = matrix(name, 21, 96)
    packed = packing.pack(weights)
    assert packed.form == FORMS[name]
    assert (packed.rows, packed.padded_rows, packed.columns) == (21, 32, 96)
    assert packed.address % 64 == 0
    assert packed.tile_bytes == 3 * BLOCK_BYTES[packed.form]
    assert packed.data.nbytes == 2 * packed.tile_bytes
    header = 32 if weights.minimums is None else 64
    for row in range(21):
        for column in range(96):
            block, inside = divmod(column, 32)
            at = row // 16 * packed.tile_bytes + block * BLOCK_BYTES[packed.form]
            lane = row % 16
            vector, byte = divmod(inside, 4)
            if weights.bits == 8:
                found = packed.data[at + header + 64 * vector + 4 * lane + byte]
            else:
                both = packed.data[at + header + 64 * (vector % 4) + 4 * lane + byte]
                found = both >> 4 if vector >= 4 else both & 15
            assert found == weights.values[row, column]
            halves = packed.data[at : at + header].view(np.float16)
            assert halves[lane] == weights.scales[row, block]
            if weights.minimums is not None:
                assert halves[16 + lane] == weights.minimums[row, block]


@pytest.mark.parametrize("name", STORED)
def test_rows_that_fill_up_a_tile_weigh_nothing(name: str) -> None:
    packed = packing.pack(matrix(name, 17, 64))
    whole = packing.unpack(packing.PackedMatrix(packed.data, packed.form, packed.padded_rows, 64))
    assert whole.values.shape == (32, 64)
    assert not whole.to_floats()[17:].any()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(STORED), st.integers(1, 70), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_packing_loses_nothing(name: str, rows: int, blocks: int, seed: int) -> None:
    weights = matrix(name, rows, 32 * blocks, seed)
    order = np.random.default_rng(seed).permutation(rows)
    found = packing.unpack(packing.pack(weights, order))
    assert np.array_equal(found.to_floats(), weights.to_floats()[order])
    assert same(packing.unpack(packing.pack(weights)), weights)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(STORED), st.integers(1, 70), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_stored_blocks_are_brought_to_the_same_places(name: str, rows: int, blocks: int, seed: int) -> None:
    raw = stored(name, normal(rows, 32 * blocks, seed=seed))
    order = np.random.default_rng(seed).permutation(rows)
    places, cut = packing.inverse(order), rows // 3
    out = packing.zeros(FORMS[name], rows, 32 * blocks)
    packing.pack_gguf(raw[cut:], out, places[cut:])
    packing.pack_gguf(raw[:cut], out, places[:cut])
    plain = from_gguf(name, raw)
    assert plain is not None
    assert np.array_equal(out.data, packing.pack(plain, order).data)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 5), st.integers(-40, 18), st.integers(0, 2**32 - 1))
def test_floats_are_rounded_as_plainly(rows: int, blocks: int, exponent: int, seed: int) -> None:
    weights = normal(rows, 32 * blocks, seed=seed) * np.float32(2.0**exponent)
    weights[seed % rows, :32] = 0
    order = np.random.default_rng(seed).permutation(rows)
    out = packing.zeros(FORM_8, rows, 32 * blocks)
    packing.pack_floats(weights, out, packing.inverse(order))
    assert np.array_equal(out.data, packing.pack(from_floats(weights, 8), order).data)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e7])
def test_floats_that_no_scale_fits_are_refused(bad: float) -> None:
    weights = normal(3, 64)
    weights[2, 63] = bad
    with pytest.raises(ValueError, match="not finite, or too large"):
        packing.pack_floats(weights, packing.zeros(FORM_8, 3, 64), np.arange(3))


def test_gates_lie_beside_their_ups() -> None:
    order = packing.interleave_gate_up(96)
    assert sorted(order) == list(range(192))
    for group in range(3):
        gates = list(range(32 * group, 32 * group + 32))
        assert list(order[64 * group : 64 * group + 32]) == gates
        assert list(order[64 * group + 32 : 64 * group + 64]) == [96 + gate for gate in gates]
    assert np.array_equal(packing.inverse(order)[order], np.arange(192))


@pytest.mark.parametrize("name", STORED)
def test_a_row_is_looked_up_exactly(name: str) -> None:
    weights = matrix(name, 35, 96)
    packed, plain = packing.pack(weights), weights.to_floats()
    row = np.empty(98, np.float32)
    for index in (0, 15, 16, 34):
        row[:] = 7
        packing.embedding_row(packed.data, packed.form, 96, index, row[1:97])
        assert np.array_equal(row[1:97], plain[index])
        assert row[0] == row[97] == 7


def test_all_float16_are_widened_exactly() -> None:
    """Subnormal scales and scales that are not finite come through as they are."""
    scales = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 1)
    weights = BlockMatrix(np.full((1 << 16, 32), 9, np.uint8), 4, scales)
    packed, row = packing.pack(weights), np.empty((1 << 16, 32), np.float32)
    for index in range(0, 1 << 16, 37):
        packing.embedding_row(packed.data, packed.form, 32, index, row[index])
    with np.errstate(invalid="ignore"):
        assert np.array_equal(row[::37], weights.to_floats()[::37], equal_nan=True)


def test_activations_are_rounded_to_the_nearest_of_127_steps() -> None:
    x = normal(3, 64)
    x[1, :32] = 0
    x[2, :32] = np.linspace(-127, 127, 32)
    quants, scales = quantise_activations(x)
    assert quants.dtype == np.int8
    assert np.array_equal(np.abs(quants.reshape(3, 2, 32)).max(axis=-1), [[127, 127], [0, 127], [127, 127]])
    steps = np.repeat(scales, 32, axis=1)
    assert np.all(np.abs(quants * steps - x) <= 0.5001 * steps)
    assert np.array_equal(quants[2, :32], np.rint(x[2, :32]))


@pytest.mark.parametrize("name", STORED)
def test_the_plain_product_is_that_of_rounded_activations(name: str) -> None:
    weights, x = matrix(name, 9, 160), normal(4, 160, seed=1)
    quants, scales = quantise_activations(x)
    rounded = quants.astype(np.float64) * np.repeat(scales, 32, axis=1)
    exact = rounded @ weights.to_floats().astype(np.float64).T
    found = reference_product(weights, x)
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()
    assert np.abs(found - exact).max() < 0.01 * np.abs(x @ weights.to_floats().T - exact).max()
