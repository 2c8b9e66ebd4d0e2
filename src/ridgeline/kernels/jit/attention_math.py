"""What the inner loops of attention share, in LLVM's own language. Vectors are of 16 lanes of float32."""

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir
from numba.core import cgutils

from ridgeline.kernels.jit.ir import FLOATS, I32, I64, INTS, Body, Value, constant

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
_BFLOAT16_POWER = (0.05500893, 0.242211, 0.69328293, 1.0)
"""Polynomials for 2 to the power of -0.5 to 0.5 that are exact at 0 and otherwise as little off, relatively,
as any of their degree: 9.2e-8 and 1.1e-4. Found by Lawson's iteration."""


def power_of_two(body: Body, x: Value, for_bfloat16: bool = False) -> Value:
    """2 to the power of each lane, none above 126: 0 below -126, and nan of nan.

    Within 2e-7 of it, or within 1.1e-4 where what comes of it is rounded to 8 bits.
    """
    b = body.b
    # Added and taken away again, this rounds to an integer, and leaves it in the lowest bits, where
    # 127 more make it the exponent of a float.
    rounder = constant(FLOATS, 1.5 * 2**23 + 127)
    shifted = b.fadd(x, rounder)
    fraction = b.fsub(x, b.fsub(shifted, rounder))
    first, *others = _BFLOAT16_POWER if for_bfloat16 else _FLOAT32_POWER
    power = constant(FLOATS, first)
    for coefficient in others:
        power = body.fma(power, fraction, constant(FLOATS, coefficient))
    whole = b.bitcast(b.shl(b.bitcast(shifted, INTS), constant(INTS, 23)), FLOATS)
    is_less = b.fcmp_ordered("<", x, constant(FLOATS, -126.0))
    return b.select(is_less, constant(FLOATS, 0.0), b.fmul(power, whole))
