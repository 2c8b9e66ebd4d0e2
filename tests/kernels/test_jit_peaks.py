"""The largest logit of a row against numpy's."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from ridgeline.kernels.jit.peaks import SCRATCH_BYTES, find_peak

Floats = npt.NDArray[np.float32]


@njit
def _call(row, scratch):  # type: ignore[no-untyped-def]
    return find_peak(row.ctypes.data, row.shape[0], scratch.ctypes.data)


def peak(row: Floats) -> int:
    return int(_call(row, np.full(SCRATCH_BYTES, 0xFF, np.uint8)))


@given(size=st.integers(1, 100), seed=st.integers(0, 1 << 20), levels=st.integers(1, 50))
@settings(deadline=None)
def test_the_first_of_the_largest(size: int, seed: int, levels: int) -> None:
    row = np.random.default_rng(seed).integers(-levels, 1, size).astype(np.float32)
    assert peak(row) == int(row.argmax())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -np.nan])
@pytest.mark.parametrize("place", [0, 17, 31, 32, 39])
def test_what_is_not_finite_is_told(value: float, place: int) -> None:
    row = np.random.default_rng(0).standard_normal(40).astype(np.float32)
    row[place] = value
    assert peak(row) == -1


def test_very_small_and_very_large() -> None:
    row = np.full(50, -3.4e38, np.float32)
    assert peak(row) == 0
    row[49] = 3.4e38
    assert peak(row) == 49
    row[:] = -1e-45
    row[33] = 0
    assert peak(row) == 33
