"""Moving keys and values between memory and formats, in LLVM's own language.

All arguments are int64: addresses, counts, and strides in bytes. Vectors are of 16 lanes.
"""

from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from ridgeline.kernels.jit.attention_math import LINE_BYTES, counted
from ridgeline.kernels.jit.ir import (
    FLOATS,
    HALVES,
    I16,
    I32,
    I64,
    INTS,
    LANES,
    Body,
    constant,
    emitted,
)

_LARGEST_HALF = 65504.0
_SHORTS = ir.VectorType(I16, LANES)


def _widen(function: Any) -> None:
    body = Body(function.append_basic_block())
    source, vectors, out, out_stride = function.args
    with counted(body, vectors) as index:
        halves = body.load(HALVES, body.address(source, body.b.mul(index, I64(2 * LANES))), 2)
        body.store(body.b.fpext(halves, FLOATS), body.address(out, body.b.mul(index, out_stride)), 4)
    body.b.ret_void()


@intrinsic
def widen(typing, source, vectors, out, out_stride):
    """Vectors of float16, one after the other, to float32, one every `out_stride` bytes."""
    return emitted("ridgeline_attention_widen", 4, _widen)


def _narrow(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    source, vectors, out, out_stride = function.args
    with counted(body, vectors) as index:
        vector = body.load(FLOATS, body.address(source, b.mul(index, I64(4 * LANES))), 4)
        for sign, limit in ((">", _LARGEST_HALF), ("<", -_LARGEST_HALF)):
            bound = constant(FLOATS, limit)
            vector = b.select(b.fcmp_ordered(sign, vector, bound), bound, vector)
        halves = b.bitcast(b.fptrunc(vector, HALVES), _SHORTS)
        first = body.address(out, b.mul(b.mul(index, I64(LANES)), out_stride))
        for lane in range(LANES):
            place = body.address(first, b.mul(out_stride, I64(lane)))
            body.store(b.extract_element(halves, I32(lane)), place, 2)
    b.ret_void()


@intrinsic
def narrow(typing, source, vectors, out, out_stride):
    """Vectors of float32 to float16, one element every `out_stride` bytes.

    Rounds to the nearest, to even where two are as near; what is beyond the largest float16 becomes that.
    """
    return emitted("ridgeline_attention_narrow", 4, _narrow)


def _fetch(function: Any) -> None:
    body = Body(function.append_basic_block())
    source, lines = function.args
    with counted(body, lines) as index:
        body.fetch(body.address(source, body.b.mul(index, I64(LINE_BYTES))))
    body.b.ret_void()


@intrinsic
def fetch(typing, source, lines):
    """Ask for lines of the cache that are soon to be in the second one."""
    return emitted("ridgeline_attention_fetch", 2, _fetch)


def _pair_rows(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    source, row_bytes, pairs, out = function.args
    with counted(body, pairs) as index:
        even = body.address(source, b.mul(b.mul(index, row_bytes), I64(2)))
        bits = []
        for place in (even, body.address(even, row_bytes)):
            vector = b.fpext(body.load(HALVES, place, 2), FLOATS)
            bits.append(b.add(b.bitcast(vector, INTS), constant(INTS, 0x8000)))
        lower = b.lshr(bits[0], constant(INTS, 16))
        upper = b.and_(bits[1], constant(INTS, 0xFFFF0000))
        body.store(b.or_(lower, upper), body.address(out, b.mul(index, I64(4 * LANES))), 4)
    b.ret_void()


@intrinsic
def pair_rows(typing, source, row_bytes, pairs, out):
    """Rows of 16 float16, `row_bytes` apart, two by two to bfloat16: those of a pair stand in turn.

    Rounds to the nearest. Not a number may become another, and stays none but for bits that no
    computation gives.
    """
    return emitted("ridgeline_attention_pair_rows", 4, _pair_rows)
