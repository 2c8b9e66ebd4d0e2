"""The largest logit of a row, and whether all are numbers, in LLVM's own language."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils
from numba.extending import intrinsic

from ridgeline.kernels.jit.activations import floats_at
from ridgeline.kernels.jit.attention_math import LINE_BYTES, counted
from ridgeline.kernels.jit.ir import FLOATS, I32, I64, INTS, LANES, Body, constant, emitted

SCRATCH_BYTES = 3 * LINE_BYTES


def _find(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    row, vectors, out = function.args
    lanes = ir.Constant(INTS, [I32(i) for i in range(LANES)])
    largest = cgutils.alloca_once_value(b, constant(FLOATS, float("-inf")))
    places = cgutils.alloca_once_value(b, lanes)
    zeros = cgutils.alloca_once_value(b, constant(FLOATS, 0.0))
    with counted(body, vectors) as index:
        logits = body.load(FLOATS, body.address(row, b.mul(index, I64(LINE_BYTES))), 4)
        is_larger = b.fcmp_ordered(">", logits, b.load(largest))
        at = b.add(body.splat(b.trunc(b.mul(index, I64(LANES)), I32), INTS), lanes)
        b.store(b.select(is_larger, logits, b.load(largest)), largest)
        b.store(b.select(is_larger, at, b.load(places)), places)
        # 0 of every number, and nan of nan and infinity.
        b.store(b.fadd(b.load(zeros), b.fmul(logits, constant(FLOATS, 0.0))), zeros)
    for offset, value in enumerate((b.load(largest), b.bitcast(b.load(places), FLOATS), b.load(zeros))):
        body.store(value, body.address(out, LINE_BYTES * offset), 4)
    b.ret_void()


@intrinsic
def _find_in_lanes(typing, row, vectors, out):
    return emitted("ridgeline_peaks", 3, _find)


@njit(error_model="numpy")
def find_peak(row, size, scratch):
    """The first place of the largest of `size` float32 at an address; -1 if any is nan or infinite.

    Args:
        row: address.
        size: at least 1.
        scratch: address of `SCRATCH_BYTES`, the calling thread's own.
    """
    _find_in_lanes(row, size // LANES, scratch)
    largest, zeros = floats_at(scratch, LANES), floats_at(scratch + 2 * LINE_BYTES, LANES)
    places = floats_at(scratch + LINE_BYTES, LANES).view(np.int32)
    best, place, spoilt = np.float32(-np.inf), np.int64(-1), np.float32(0)
    for lane in range(LANES):
        is_first = largest[lane] == best and places[lane] < place
        if largest[lane] > best or is_first:
            best, place = largest[lane], np.int64(places[lane])
        spoilt += zeros[lane]
    logits = floats_at(row, size)
    for i in range(size // LANES * LANES, size):
        if logits[i] > best:
            best, place = logits[i], np.int64(i)
        spoilt += logits[i] * np.float32(0)
    return place if spoilt == 0 else np.int64(-1)
