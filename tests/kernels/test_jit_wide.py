"""Products and attention in AMX tiles, against plain numbers; collected where there are tiles only."""

from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from attention_cases import Case, check, computed
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from test_jit_products import FORMS, matrix

from ridgeline.kernels.jit.kv_pool import FLOAT16, INT8
from ridgeline.kernels.jit.memory import aligned_zeros
from ridgeline.kernels.jit.packing import pack
from ridgeline.kernels.jit.wide import (
    BLOCK_PANEL_BYTES,
    ORDER,
    ROWS,
    activate_rows,
    norm_blocks,
    round_blocks,
    tile_configuration,
    wide_product,
)

Floats = npt.NDArray[np.float32]


@njit
def _round_blocks(x, out):  # type: ignore[no-untyped-def]
    for block in range(x.shape[0]):
        round_blocks(x.ctypes.data + 128 * block, 1, out.ctypes.data + 64 * block)


def bfloat16(x: Floats) -> Floats:
    """The nearest, to even where two are as near."""
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32)


def laid_out(x: Floats) -> npt.NDArray[np.uint8]:
    """Rows as wide products take them."""
    rows, columns = x.shape
    blocks = np.ascontiguousarray(x.reshape(rows * columns // 32, 32))
    out = np.zeros((len(blocks), 32), np.uint16)
    _round_blocks(blocks, out)
    tiles = out.reshape(rows // 16, 16, columns // 32, 32).swapaxes(1, 2)
    memory = aligned_zeros(tiles.nbytes)
    memory[:] = np.ascontiguousarray(tiles).view(np.uint8).reshape(-1)
    return memory


def test_activations_are_rounded_to_the_nearest_and_nan_stays() -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 1 << 32, (400, 32), dtype=np.uint64).astype(np.uint32).view(np.float32)
    x[0, :6] = [np.inf, -np.inf, 0.0, -0.0, 1e-40, 1.00390625]
    out = np.zeros(x.shape, np.uint16)
    _round_blocks(x, out)
    found = (out.astype(np.uint32) << 16).view(np.float32)
    wanted = x[:, ORDER]
    nan = np.isnan(wanted)
    assert np.array_equal(np.isnan(found), nan)
    assert np.array_equal(found[~nan].view(np.uint32), bfloat16(wanted[~nan]).view(np.uint32))


@njit
def _norm_blocks(x, weight, factor, out):  # type: ignore[no-untyped-def]
    norm_blocks(x.ctypes.data, weight.ctypes.data, factor.ctypes.data, x.size // 32, out.ctypes.data)


def test_a_normed_row_in_place_of_its_blocks() -> None:
    x, weight = np.random.default_rng(4).standard_normal((2, 96)).astype(np.float32)
    x[70], weight[5] = np.nan, np.inf
    factor = np.array([0.37], np.float32)
    out = np.zeros((3, 16, 32), np.uint16)
    _norm_blocks(x, weight, factor, out)
    assert not out[:, 1:].any()
    found = (out[:, 0].astype(np.uint32) << 16).view(np.float32)
    wanted = bfloat16(x * factor * weight).reshape(3, 32)[:, ORDER]
    assert np.array_equal(found, wanted, equal_nan=True)


@FORMS
@pytest.mark.parametrize("blocks", [1, 3, 18])
@pytest.mark.parametrize("tiles", [1, 2])
def test_wide_products(form: int, blocks: int, tiles: int) -> None:
    weights = matrix(form, 32, blocks)
    packed = pack(weights)
    x = np.random.default_rng(3).standard_normal((16 * tiles, 32 * blocks)).astype(np.float32)
    given = laid_out(x)
    panel = aligned_zeros(BLOCK_PANEL_BYTES * blocks)
    out = np.full((ROWS, 32), np.nan, np.float32)
    configuration = tile_configuration()
    wide_product()(
        form, packed.address, packed.tile_bytes, blocks, panel.ctypes.data, tiles, given.ctypes.data,
        out.ctypes.data, configuration.ctypes.data,
    )  # fmt: skip
    exact = weights.to_floats().astype(np.float64)
    kept = bfloat16(exact.astype(np.float32)).astype(np.float64)
    # Half a unit in the last of 8 bits is what a weight may be off; most of them are the nearest.
    bound = np.abs(x).astype(np.float64) @ np.abs(exact).T * 2**-8
    assert np.all(np.abs(out[: 16 * tiles] - bfloat16(x).astype(np.float64) @ kept.T) <= bound * 1.01 + 1e-4)
    assert np.abs(out[: 16 * tiles] - x @ exact.T).max() < 0.02 * np.abs(x @ exact.T).max()
    assert np.isnan(out[16 * tiles :]).all()


wide_check = partial(check, parts=0, wide=True, bound=0.03)


@pytest.mark.parametrize("tokens", [2, 16, 33, 100])
@pytest.mark.parametrize("start", [0, 7, 16, 250, 500])
def test_wide_chunks_attend_to_what_is_before_them_and_to_themselves(tokens: int, start: int) -> None:
    wide_check(Case(9, 3, 64, [start + tokens, start + 2], [tokens, 2]))


@pytest.mark.parametrize("window", [1, 5, 16, 40, 300, 900])
def test_wide_windows(window: int) -> None:
    wide_check(Case(6, 2, 32, [630, 3, 90], [40, 3, 1], window=window))


@given(
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 16),
    head_dim=st.sampled_from([32, 64, 96, 128, 256]),
    sequences=st.lists(st.tuples(st.integers(0, 600), st.integers(1, 70)), min_size=1, max_size=2),
    window=st.one_of(st.just(0), st.integers(1, 400)),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=20, deadline=None)
def test_wide_attention_of_any_shape(
    kv_heads: int, group: int, head_dim: int, sequences: list[tuple[int, int]], window: int, seed: int
) -> None:
    contexts, tokens = [a + b for a, b in sequences], [b for _, b in sequences]
    case = Case(kv_heads * group, kv_heads, head_dim, contexts, tokens, window=window, seed=seed)
    check(case, 0, bound=0.03, wide=True)


def test_nan_reaches_the_output_of_its_own_heads_alone() -> None:
    case = Case(4, 2, 64, [70, 40], [20, 1])
    case.qkv.view(np.uint32)[:20, 2 * 64 + 9] = 0x7FC00001
    out = computed(case, 0, wide=True).reshape(21, 4, 64)
    assert np.isnan(out[:20, 2]).all()
    out[:20, 2] = 0
    assert np.isfinite(out).all()


@njit
def _activate(x, out):  # type: ignore[no-untyped-def]
    for half in range(2):
        halves = np.ascontiguousarray(np.hstack((x[:, 16 * half :][:, :16], x[:, 32 + 16 * half :][:, :16])))
        activate_rows(halves.ctypes.data, halves.strides[0], x.shape[0], half, out.ctypes.data)


def test_gated_activations_in_place_of_blocks() -> None:
    x = np.random.default_rng(2).standard_normal((16, 64)).astype(np.float32) * 4
    x[3, 5], x[4, 40] = np.nan, np.inf
    out = np.zeros((16, 32), np.uint16)
    _activate(x, out)
    gates, ups = np.split(x.astype(np.float64), 2, axis=1)
    with np.errstate(invalid="ignore"):
        wanted = (gates / (1 + np.exp(-gates)) * ups)[:, ORDER]
    found = (out.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(np.isnan(found), np.isnan(wanted))
    finite = np.isfinite(wanted)
    assert np.all(np.abs(found[finite] - wanted[finite]) <= 2**-8 * np.abs(wanted[finite]))


@pytest.mark.parametrize("form", [FLOAT16, INT8])
def test_tops_are_raised_where_later_scores_are_far_larger(form: int) -> None:
    """Larger by 88 than those of the first span, then by as much again: weights would overflow."""
    case = Case(2, 1, 32, [600], [40], form=form)
    case.rotations[:, :16], case.rotations[:, 16:] = 1, 0
    case.qkv[:, :96] = 0
    case.qkv[:, [0, 32]] = 1
    for position, key_value in enumerate(case.stored[0][:560]):
        key_value[0] = 0
        key_value[0, :, 0] = {0: 1, 100: 500, 300: 500, 400: 1000, 410: 1000}.get(position, 0)
        case.store(case.tables[0], position, key_value)
    wide_check(case)
