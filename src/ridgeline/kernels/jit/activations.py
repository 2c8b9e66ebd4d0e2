"""What stands between products: quantising, the gated activation."""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from ridgeline.kernels.jit.attention_math import PER_LN2, power_of_two, rough_power_of_two
from ridgeline.kernels.jit.ir import F32, FLOATS, I8, I16, I32, INTS, Body, Value, constant, emitted
from ridgeline.kernels.jit.target import AVX512, instruction_set

_BYTES = ir.VectorType(I8, 16)

_LEAST = 1e-36
"""Of a block's magnitudes: 127 over less than this may be infinite, and the block is taken for zeros."""


def _quantise(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    source, values, scale_place, sum_place, total_place = function.args
    halves = [body.load(FLOATS, body.address(source, offset), 4) for offset in (0, 64)]
    # As integers, magnitudes order like the floats they are, and nan is above infinity: a block
    # with either gets a scale that spoils all that is computed from it, as it must.
    bits = [b.and_(b.bitcast(x, INTS), constant(INTS, 0x7FFFFFFF)) for x in halves]
    largest = b.select(b.icmp_unsigned(">", *bits), *bits)
    top = b.bitcast(body.call("llvm.vector.reduce.umax.v16i32", I32, largest), F32)
    scale = b.fmul(top, F32(1 / 127))
    is_nothing = b.fcmp_ordered("<", top, F32(_LEAST))
    inverse = body.splat(b.select(is_nothing, F32(0.0), b.fdiv(F32(127.0), top)), FLOATS)
    total: Value = None
    for offset, half in zip((0, 16), halves, strict=True):
        rounded = body.call("llvm.roundeven.v16f32", FLOATS, b.fmul(half, inverse))
        # Saturating, because what is not a number must become some int8.
        whole = body.call("llvm.fptosi.sat.v16i32.v16f32", INTS, rounded)
        body.store(b.trunc(whole, _BYTES), body.address(values, offset))
        total = whole if total is None else b.add(total, whole)
    count = body.call("llvm.vector.reduce.add.v16i32", I32, total)
    body.store(scale, scale_place, 4)
    body.store(count, sum_place, 4)
    body.store(b.fmul(scale, b.sitofp(count, F32)), total_place, 4)
    b.ret_void()


@intrinsic
def quantise_block(typing, source, values, scale, sum_, total):
    """Turn 32 float32 at `source` into int8 at `values` and one float32 scale.

    All arguments are addresses. The scale is the largest magnitude over 127. Beside it are stored
    what products need: the sum of the int8 as int32 at `sum_`, times the scale as float32 at `total`.
    """
    return emitted("ridgeline_quantise_block", 5, _quantise)


def _reciprocal(body: Body, x: Value, for_bfloat16: bool) -> Value:
    """1 / x for x from 1 on, within 1e-7 of it, or 6.2e-5 for bfloat16; 0 beyond 2^126."""
    if instruction_set() != AVX512:
        return body.b.fdiv(constant(FLOATS, 1.0), x)
    # A division takes as long as all else that is done here; an estimate and a step of Newton's do not.
    nothing, everywhere = constant(FLOATS, 0.0), ir.Constant(I16, -1)
    first = body.call("llvm.x86.avx512.rcp14.ps.512", FLOATS, x, nothing, everywhere)
    if for_bfloat16:
        return first
    return body.b.fmul(first, body.fma(body.b.fneg(x), first, constant(FLOATS, 2.0)))


def silu_product(body: Body, gate: Value, up: Value, for_bfloat16: bool = False) -> Value:
    """`silu(gate) * up` of vectors, as exact as float32 is or as what comes of it in bfloat16 needs."""
    b = body.b
    power = b.fmul(gate, constant(FLOATS, -PER_LN2))
    largest = constant(FLOATS, 126.0)
    # Unordered: nan goes on.
    bounded = b.select(b.fcmp_unordered("<", power, largest), power, largest)
    exponential = (rough_power_of_two if for_bfloat16 else power_of_two)(body, bounded)
    denominator = b.fadd(constant(FLOATS, 1.0), exponential)
    return b.fmul(b.fmul(gate, _reciprocal(body, denominator, for_bfloat16)), up)


def _silu_mul(function: Any) -> None:
    body = Body(function.append_basic_block())
    gate, up = (body.load(FLOATS, address, 4) for address in function.args[:2])
    body.store(silu_product(body, gate, up), function.args[2], 4)
    body.b.ret_void()


@intrinsic
def silu_mul_16(typing, gate, up, out):
    """`silu(gate) * up` of 16 float32; all arguments are addresses."""
    return emitted("ridgeline_silu_mul", 3, _silu_mul)


def _add(function: Any) -> None:
    body = Body(function.append_basic_block())
    source, target = function.args
    body.store(body.b.fadd(body.load(FLOATS, target, 4), body.load(FLOATS, source, 4)), target, 4)
    body.b.ret_void()


@intrinsic
def add_16(typing, source, target):
    """Add 16 float32 to 16 others; both arguments are addresses."""
    return emitted("ridgeline_add", 2, _add)


def pointer_to(kind: Any) -> Any:
    """Makes pointers to values of a kind of Numba's from addresses."""

    @intrinsic
    def pointer(typing, address):
        def generate(context, builder, signature, values):
            return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.intp), generate

    return pointer


_to_floats = pointer_to(types.float32)
_to_integers = pointer_to(types.int64)


@njit
def floats_at(address, size):
    """The float32 array at an address."""
    return carray(_to_floats(address), size)


@njit
def integers_at(address, size):
    """The int64 array at an address."""
    return carray(_to_integers(address), size)


# Sums in any order; but nan and infinity are what they are, for they must reach the logits.
@njit(fastmath={"reassoc", "contract", "nsz"})
def norm_factor(source, size, eps):
    """`1 / sqrt(mean(x^2) + eps)` of `size` float32 at an address: what an RMS norm multiplies with."""
    x = floats_at(source, size)
    total = np.float32(0)
    for i in range(size):
        total += x[i] * x[i]
    return np.float32(1 / math.sqrt(total / size + eps))


@njit(fastmath={"reassoc", "contract", "nsz"})
def norm_row(source, weight, size, eps, out):
    """RMS norm of `size` float32, `x / sqrt(mean(x^2) + eps) * weight`; the others are addresses."""
    x, w, normed = floats_at(source, size), floats_at(weight, size), floats_at(out, size)
    factor = norm_factor(source, size, eps)
    for i in range(size):
        normed[i] = x[i] * factor * w[i]
