"""Memory as kernels want it: from the beginning of a line of the processor's cache on.

A vector or a row of a tile that lies across two lines is read twice, and takes as long as two. NumPy
aligns to 16 bytes only.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT_BYTES = 64
"""A line of the processor's cache, and the widest vector."""

Array = npt.NDArray[Any]


def aligned_zeros(shape: int | tuple[int, ...], kind: npt.DTypeLike = np.uint8) -> Array:
    """Zeros at an address that is a multiple of 64; memory is taken as it is written."""
    return aligned_arrays({"only": (shape, kind)})["only"]


def aligned_arrays(wanted: Mapping[str, tuple[int | tuple[int, ...], npt.DTypeLike]]) -> dict[str, Array]:
    """Arrays of zeros at multiples of 64, of these shapes and types, in one piece of memory.

    One piece, because the system has large pages for large pieces only.
    """
    sizes = {name: _size_bytes(*array) for name, array in wanted.items()}
    spare = np.zeros(sum(sizes.values()) + ALIGNMENT_BYTES, np.uint8)
    at = -spare.ctypes.data % ALIGNMENT_BYTES
    found = {}
    for name, (shape, kind) in wanted.items():
        used = math.prod(_dimensions(shape)) * np.dtype(kind).itemsize
        found[name] = spare[at : at + used].view(kind).reshape(shape)
        at += sizes[name]
    return found


def _dimensions(shape: int | tuple[int, ...]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else shape


def _size_bytes(shape: int | tuple[int, ...], kind: npt.DTypeLike) -> int:
    """Filled up to a multiple of 64."""
    used = math.prod(_dimensions(shape)) * np.dtype(kind).itemsize
    return -(-used // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
