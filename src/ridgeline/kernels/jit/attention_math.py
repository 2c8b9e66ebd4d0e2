"""What the inner loops of attention share, in LLVM's own language. Vectors are of 16 lanes of float32."""

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir
from numba.core import cgutils

from ridgeline.kernels.jit.ir import FLOATS, I16, I32, I64, INTS, Body, Value, constant

LINE_BYTES = 64
"""Of the processor's caches, and of a vector."""

LOWEST = -2e38
"""Where a running maximum begins: finite, so that -inf minus it is -inf, in units of ln 2 too."""

PER_LN2 = 1.4426950408889634


@contextmanager
def counted(body: Body, count: Value) -> Iterator[Value]:
    """A loop that runs so many times; yields the index."""
    with cgutils.for_range(body.b, count, intp=I64) as loop:
        yield loop.index


def larger(body: Body, x: Value, y: Value) -> Value:
    """The larger of two, lane by lane; `y` where one is nan."""
    return body.b.select(body.b.fcmp_ordered(">", x, y), x, y)


def shuffled(body: Body, x: Value, y: Value, lanes: list[int]) -> Value:
    """16 of the 32 lanes of two vectors."""
    return body.b.shuffle_vector(x, y, ir.Constant(INTS, [I32(lane) for lane in lanes]))


_FLOAT32_POWER = (0.0013264727, 0.009671513, 0.055507337, 0.24022242, 0.693147, 1.0)
"""A polynomial for 2 to the power of -0.5 to 0.5 that is exact at 0 and otherwise as little off, relatively,
as any of its degree: 9.2e-8. Found by Lawson's iteration."""

_BFLOAT16_POWER = (0.07706706, 0.22764497, 0.69511679, 1.0)
"""The same for 0 to 1: 8.6e-5."""

_TO_FLOOR, _AS_IS, _ALL = I32(9), I32(4), ir.Constant(I16, -1)
"""How to round, with which exceptions, and which lanes: all."""


def rough_power_of_two(body: Body, x: Value) -> Value:
    """2 to the power of each lane within 1e-4, for what is rounded to 8 bits; AVX-512 alone can.

    Infinite above 128, next to 0 below -126, and nan of nan.
    """
    fraction = body.call("llvm.x86.avx512.mask.reduce.ps.512", FLOATS, x, _TO_FLOOR, x, _ALL, _AS_IS)
    first, *others = _BFLOAT16_POWER
    power = constant(FLOATS, first)
    for coefficient in others:
        power = body.fma(power, fraction, constant(FLOATS, coefficient))
    return body.call("llvm.x86.avx512.mask.scalef.ps.512", FLOATS, power, x, x, _ALL, _AS_IS)


def power_of_two(body: Body, x: Value) -> Value:
    """2 to the power of each lane, none above 126, within 2e-7 of it: 0 below -126, and nan of nan."""
    b = body.b
    # Added and taken away again, this rounds to an integer, and leaves it in the lowest bits, where
    # 127 more make it the exponent of a float.
    rounder = constant(FLOATS, 1.5 * 2**23 + 127)
    shifted = b.fadd(x, rounder)
    fraction = b.fsub(x, b.fsub(shifted, rounder))
    first, *others = _FLOAT32_POWER
    power = constant(FLOATS, first)
    for coefficient in others:
        power = body.fma(power, fraction, constant(FLOATS, coefficient))
    whole = b.bitcast(b.shl(b.bitcast(shifted, INTS), constant(INTS, 23)), FLOATS)
    is_less = b.fcmp_ordered("<", x, constant(FLOATS, -126.0))
    return b.select(is_less, constant(FLOATS, 0.0), b.fmul(power, whole))
