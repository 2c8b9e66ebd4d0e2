"""Moving keys and values between memory and int8, in LLVM's own language; see `kv_pool` for the form.

All arguments are int64: addresses, counts, and strides in bytes. Vectors are of 16 lanes.
"""

from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from ridgeline.kernels.jit.attention_ir import fold
from ridgeline.kernels.jit.attention_math import LINE_BYTES, counted, larger
from ridgeline.kernels.jit.ir import (
    F32,
    FLOATS,
    I8,
    I32,
    I64,
    INTS,
    LANES,
    SHORT_PAIRS,
    Body,
    Value,
    constant,
    emitted,
)
from ridgeline.kernels.jit.kv_pool import BLOCK_TOKENS
from ridgeline.kernels.jit.wide import brain_floats, guarded

_BYTES = ir.VectorType(I8, LANES)
_BYTE_PAIRS = ir.VectorType(I8, 2 * LANES)
_LARGEST_BYTE = 127.0


def _narrow(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    source, pairs, out, pair_stride, element_stride, scale_place = function.args
    zero, vectors = constant(FLOATS, 0.0), b.udiv(pairs, I64(LANES // 2))
    largest, traces = (cgutils.alloca_once_value(b, zero) for _ in range(2))
    with counted(body, vectors) as index:
        x = body.load(FLOATS, body.address(source, b.mul(index, I64(LINE_BYTES))), 4)
        b.store(larger(body, body.call("llvm.fabs.v16f32", FLOATS, x), b.load(largest)), largest)
        b.store(body.fma(x, zero, b.load(traces)), traces)
    most = fold(body, b.load(largest), partial(larger, body))
    is_zero = b.fcmp_ordered("==", most, zero)
    factor = b.select(is_zero, zero, b.fdiv(constant(FLOATS, _LARGEST_BYTE), most))
    # What is not finite makes the scale none, for quants cannot tell it.
    trace = fold(body, b.load(traces), b.fadd)
    scale = b.fadd(b.fmul(most, constant(FLOATS, 1 / _LARGEST_BYTE)), trace)
    body.store(b.extract_element(scale, I32(0)), scale_place, 4)
    with counted(body, vectors) as index:
        x = body.load(FLOATS, body.address(source, b.mul(index, I64(LINE_BYTES))), 4)
        rounded = body.call("llvm.roundeven.v16f32", FLOATS, b.fmul(x, factor))
        quants = b.trunc(b.fptosi(rounded, INTS), _BYTES)
        first = body.address(out, b.mul(b.mul(index, I64(LANES // 2)), pair_stride))
        for lane in range(LANES):
            at = b.add(b.mul(pair_stride, I64(lane // 2)), b.mul(element_stride, I64(lane % 2)))
            body.store(b.extract_element(quants, I32(lane)), body.address(first, at), 1)
    b.ret_void()


@intrinsic
def narrow_int8(typing, source, pairs, out, pair_stride, element_stride, scale_place):
    """A row of pairs of float32 to int8, rounded to the nearest, and what a quant of 1 stands for, float32.

    The largest becomes 127 or -127. What is not finite makes the scale nan.
    """
    return emitted("ridgeline_attention_narrow_int8", 6, _narrow)


def _halves(body: Body, place: Value) -> tuple[Value, Value]:
    """16 pairs of bytes as float32, those of the first 8 and of the last 8."""
    pairs = body.load(_BYTE_PAIRS, place, 2)
    lower, upper = (body.b.sitofp(body.b.sext(body.half(pairs, i), INTS), FLOATS) for i in (False, True))
    return lower, upper


def _apart(body: Body, place: Value) -> tuple[Value, Value]:
    """The first and the second of each of 16 pairs of bytes as float32."""
    pairs = body.load(_BYTE_PAIRS, place, 2)
    found = []
    for odd in (0, 1):
        lanes = ir.Constant(INTS, [I32(2 * lane + odd) for lane in range(LANES)])
        single = body.b.shuffle_vector(pairs, ir.Constant(_BYTE_PAIRS, ir.Undefined), lanes)
        found.append(body.b.sitofp(body.b.sext(single, INTS), FLOATS))
    return found[0], found[1]


def _widen_keys(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    piece, head_dim, out, out_stride = function.args
    scales = body.load(FLOATS, body.address(piece, b.mul(head_dim, I64(BLOCK_TOKENS))), 4)
    with counted(body, b.lshr(head_dim, I64(1))) as pair:
        both = _apart(body, body.address(piece, b.mul(pair, I64(2 * LANES))))
        for odd, vector in enumerate(both):
            row = b.add(b.mul(pair, I64(2)), I64(odd))
            body.store(b.fmul(vector, scales), body.address(out, b.mul(row, out_stride)), 4)
    b.ret_void()


@intrinsic
def widen_int8_keys(typing, piece, head_dim, out, out_stride):
    """A piece of K to float32 [head_dim, 16], a row every `out_stride` bytes."""
    return emitted("ridgeline_attention_widen_int8_keys", 4, _widen_keys)


def _widen_values(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    piece, head_dim, out = function.args
    scales = body.address(piece, b.mul(head_dim, I64(BLOCK_TOKENS)))
    with counted(body, I64(BLOCK_TOKENS // 2)) as pair:
        row = body.address(piece, b.mul(pair, b.mul(head_dim, I64(2))))
        place = body.address(scales, b.mul(pair, I64(8)))
        both = [body.splat(body.load(F32, body.address(place, 4 * i), 4), FLOATS) for i in range(2)]
        target = body.address(out, b.mul(pair, b.mul(head_dim, I64(8))))
        with counted(body, b.lshr(head_dim, I64(4))) as index:
            at = body.address(target, b.mul(index, I64(LINE_BYTES)))
            vectors = _apart(body, body.address(row, b.mul(index, I64(2 * LANES))))
            body.store(b.fmul(vectors[0], both[0]), at, 4)
            body.store(b.fmul(vectors[1], both[1]), body.address(at, b.mul(head_dim, I64(4))), 4)
    b.ret_void()


@intrinsic
def widen_int8_values(typing, piece, head_dim, out):
    """A piece of V to float32 [16, head_dim]."""
    return emitted("ridgeline_attention_widen_int8_values", 3, _widen_values)


def _pair_keys(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    rows, pairs, scales_place, out = function.args
    scales = body.load(FLOATS, scales_place, 4)
    both = [
        b.shuffle_vector(scales, scales, ir.Constant(INTS, [I32(8 * i + lane // 2) for lane in range(LANES)]))
        for i in range(2)
    ]
    with counted(body, pairs) as index:
        vectors = _halves(body, body.address(rows, b.mul(index, I64(2 * LANES))))
        scaled = [b.fmul(vector, scale) for vector, scale in zip(vectors, both, strict=True)]
        row = b.bitcast(brain_floats(body, *scaled), SHORT_PAIRS)
        body.store(row, body.address(out, b.mul(index, I64(LINE_BYTES))), 2)
    b.ret_void()


@intrinsic
def pair_int8_keys(typing, rows, pairs, scales, out):
    """Pairs of elements of 16 positions to bfloat16, a line each."""
    return emitted("ridgeline_attention_pair_int8_keys", 4, guarded(_pair_keys))


def _pair_values(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    rows, row_bytes, low, high, scales, out = function.args
    lanes = ir.Constant(INTS, [I32(lane % 2) for lane in range(LANES)])
    bounds = [body.splat(b.trunc(bound, I32), INTS) for bound in (low, high)]
    with counted(body, I64(BLOCK_TOKENS // 2)) as pair:
        position = b.add(body.splat(b.trunc(b.mul(pair, I64(2)), I32), INTS), lanes)
        is_seen = b.and_(b.icmp_signed(">=", position, bounds[0]), b.icmp_signed("<", position, bounds[1]))
        two = body.load(I64, body.address(scales, b.mul(pair, I64(8))), 4)
        scale = b.bitcast(body.splat(two, ir.VectorType(I64, LANES // 2)), FLOATS)
        vectors = _halves(body, body.address(rows, b.mul(pair, row_bytes)))
        # Not a number where nothing was written yet, maybe: 0 times it would not do.
        scaled = [b.select(is_seen, b.fmul(x, scale), constant(FLOATS, 0.0)) for x in vectors]
        row = b.bitcast(brain_floats(body, *scaled), SHORT_PAIRS)
        body.store(row, body.address(out, b.mul(pair, I64(LINE_BYTES))), 2)
    b.ret_void()


@intrinsic
def pair_int8_values(typing, rows, row_bytes, low, high, scales, out):
    """16 elements of 8 pairs of positions to bfloat16, a line each; 0 for those not from `low` to `high`."""
    return emitted("ridgeline_attention_pair_int8_values", 6, guarded(_pair_values))
