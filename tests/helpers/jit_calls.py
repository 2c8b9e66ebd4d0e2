"""Kernels on addresses, called with arrays."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit
from numba.extending import intrinsic

from ridgeline.kernels.jit.activations import add_16, norm_row, quantise_block, silu_mul_16
from ridgeline.kernels.jit.ir import FLOATS, Body, emitted
from ridgeline.kernels.jit.packing import PackedMatrix
from ridgeline.kernels.jit.products import BLOCK, FORM_4_MINIMUM, MAX_ROWS, TILES, product

Floats = npt.NDArray[np.float32]


class Activations(NamedTuple):
    """Int8 [tokens, columns], and of each block [tokens, columns / 32] scale, sum, and sum times scale."""

    values: npt.NDArray[np.int8]
    scales: Floats
    counts: npt.NDArray[np.int32]
    totals: Floats


@njit
def _quantise(x, values, scales, counts, totals):  # type: ignore[no-untyped-def]
    for row in range(x.shape[0]):
        for block in range(scales.shape[1]):
            at = row * scales.shape[1] + block
            quantise_block(
                x.ctypes.data + 4 * BLOCK * at,
                values.ctypes.data + BLOCK * at,
                scales.ctypes.data + 4 * at,
                counts.ctypes.data + 4 * at,
                totals.ctypes.data + 4 * at,
            )


def quantised(x: Floats) -> Activations:
    """What `quantise_block` makes of float32 [tokens, columns]."""
    shape = (x.shape[0], x.shape[1] // BLOCK)
    found = Activations(
        np.full(x.shape, 99, np.int8),
        np.full(shape, 9, np.float32),
        np.full(shape, 9, np.int32),
        np.full(shape, 9, np.float32),
    )
    _quantise(np.ascontiguousarray(x, np.float32), *found)
    return found


@njit("(" + "i8," * 13 + ")")
def multiply(  # type: ignore[no-untyped-def]
    form,
    rows,
    x,
    x_stride,
    scales,
    sums,
    block_stride,
    weights,
    tile_stride,
    blocks,
    out,
    out_stride,
    accumulate,
):
    """`product`, which only compiled functions can call; compiled once."""
    product(
        form,
        rows,
        x,
        x_stride,
        scales,
        sums,
        block_stride,
        weights,
        tile_stride,
        blocks,
        out,
        out_stride,
        accumulate,
    )


def multiplied(packed: PackedMatrix, x: Activations, out: Floats, accumulate: bool = False) -> Floats:
    """Put the product of all rows of `x` with a matrix into `out` [tokens, padded rows]; returns it."""
    sums = x.totals if packed.form == FORM_4_MINIMUM else x.counts
    for tile in range(0, packed.padded_rows // 16, TILES):
        for first in range(0, len(out), MAX_ROWS):
            multiply(
                packed.form,
                min(MAX_ROWS, len(out) - first),
                x.values[first:].ctypes.data,
                x.values.strides[0],
                x.scales[first:].ctypes.data,
                sums[first:].ctypes.data,
                x.scales.strides[0],
                packed.address + tile * packed.tile_bytes,
                packed.tile_bytes,
                x.scales.shape[1],
                out[first:, 16 * tile :].ctypes.data,
                out.strides[0],
                int(accumulate),
            )
    return out


def _write_exp(function) -> None:  # type: ignore[no-untyped-def]
    body = Body(function.append_basic_block())
    body.store(body.exp(body.load(FLOATS, function.args[0], 4)), function.args[1], 4)
    body.b.ret_void()


@intrinsic
def _exp_16(typing, source, target):  # type: ignore[no-untyped-def]
    return emitted("test_exp", 2, _write_exp)


@njit
def _exp(x, out):  # type: ignore[no-untyped-def]
    for at in range(0, x.shape[0], 16):
        _exp_16(x.ctypes.data + 4 * at, out.ctypes.data + 4 * at)


def exponential(x: Floats) -> Floats:
    """`Body.exp` of as many numbers as one likes."""
    padded = np.zeros(-(-len(x) // 16) * 16, np.float32)
    padded[: len(x)] = x
    out = np.empty_like(padded)
    _exp(padded, out)
    return out[: len(x)]


@njit
def silu_mul(gate, up, out):  # type: ignore[no-untyped-def]
    """`silu_mul_16` of arrays whose size is a multiple of 16."""
    for at in range(0, gate.shape[0], 16):
        silu_mul_16(gate.ctypes.data + 4 * at, up.ctypes.data + 4 * at, out.ctypes.data + 4 * at)


@njit
def add(source, target):  # type: ignore[no-untyped-def]
    """`add_16` of two arrays of 16."""
    add_16(source.ctypes.data, target.ctypes.data)


@njit
def norm(x, weight, eps, out):  # type: ignore[no-untyped-def]
    """`norm_row` of an array."""
    norm_row(x.ctypes.data, weight.ctypes.data, x.shape[0], eps, out.ctypes.data)
