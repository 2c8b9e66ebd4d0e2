"""The inner loops of attention, in LLVM's own language.

All arguments are int64: addresses, counts, and strides in bytes. Vectors are of 16 lanes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from ridgeline.kernels.jit.ir import (
    F32,
    FLOATS,
    HALVES,
    I8,
    I16,
    I32,
    I64,
    INTS,
    LANES,
    VOID,
    Body,
    Value,
    constant,
    emitted,
    external,
    provided,
)
from ridgeline.kernels.jit.target import AVX512, instruction_set

ROWS = 6
VECTORS = 4 if instruction_set() == AVX512 else 1
"""Of a tile of sums: with a row of inputs they fill most registers, 32 of 64 bytes or 16 of 32."""

GROUP_ROWS = 4
"""Most query heads that share one load of what is stored as float16."""

LINE_BYTES = 64
"""Of the processor's caches, and of a vector of float32."""

LOWEST = -3e38
"""Where a running maximum begins: finite, so that a hidden score minus it is -inf and not nan."""

_HIDDEN = float("-inf")
_LARGEST_HALF = 65504.0
_SHORTS = ir.VectorType(I16, LANES)


@contextmanager
def _counted(body: Body, count: Value) -> Iterator[Value]:
    with cgutils.for_range(body.b, count, intp=I64) as loop:
        yield loop.index


class _Sums:
    """Vectors that a loop adds to; LLVM keeps them in registers."""

    def __init__(self, body: Body, rows: int, vectors: int) -> None:
        self._body = body
        self._places = [[cgutils.alloca_once(body.b, FLOATS) for _ in range(vectors)] for _ in range(rows)]
        for row in self._places:
            for place in row:
                body.b.store(constant(FLOATS, 0.0), place)

    def add_products(self, factors: list[Value], inputs: list[Value]) -> None:
        """Row m, vector n gets `factors[m] * inputs[n]`."""
        for row, factor in zip(self._places, factors, strict=True):
            for place, vector in zip(row, inputs, strict=True):
                self._body.b.store(self._body.fma(factor, vector, self._body.b.load(place)), place)

    def value(self, row: int, vector: int) -> Value:
        """What one of them is now."""
        return self._body.b.load(self._places[row][vector])


class _Product:
    """Writes one tile of `multiply`.

    Args:
        rows, vectors: of the tile.
        chains: sums per element, each over every so many-th input: a few sums alone would wait for
            themselves.
        kind: of vectors of inputs.
    """

    def __init__(self, rows: int, vectors: int, chains: int, kind: Any) -> None:
        self._rows, self._vectors, self._chains = range(rows), range(vectors), chains
        self._kind, self._element_bytes = kind, 2 if kind is HALVES else 4

    def write(self, body: Body, arguments: dict[str, Value]) -> None:
        b, given = body.b, arguments
        factors = [body.address(given["factors"], b.mul(given["factor_stride"], I64(m))) for m in self._rows]
        chains = [_Sums(body, len(self._rows), len(self._vectors)) for _ in range(self._chains)]
        turns = b.udiv(given["depth"], I64(self._chains))
        with _counted(body, turns) as index:
            for i, sums in enumerate(chains):
                self._step(body, given, factors, b.add(b.mul(index, I64(self._chains)), I64(i)), sums)
        if self._chains > 1:
            done = b.mul(turns, I64(self._chains))
            with _counted(body, b.sub(given["depth"], done)) as index:
                self._step(body, given, factors, b.add(done, index), chains[0])
        fresh = b.icmp_signed("==", given["accumulate"], I64(0))
        for m in self._rows:
            out = body.address(given["out"], b.mul(given["out_stride"], I64(m)))
            for n in self._vectors:
                place = body.address(out, 4 * LANES * n)
                total = b.select(fresh, constant(FLOATS, 0.0), body.load(FLOATS, place, 4))
                for sums in chains:
                    total = b.fadd(total, sums.value(m, n))
                body.store(total, place, 4)

    def _step(
        self, body: Body, given: dict[str, Value], factors: list[Value], index: Value, sums: _Sums
    ) -> None:
        b = body.b
        row = body.address(given["inputs"], b.mul(index, given["input_stride"]))
        width = self._element_bytes * LANES
        inputs = [
            body.load(self._kind, body.address(row, width * n), self._element_bytes) for n in self._vectors
        ]
        if self._kind is HALVES:
            inputs = [b.fpext(vector, FLOATS) for vector in inputs]
        at = b.mul(index, I64(4))
        scalars = [body.load(F32, body.address(factor, at), 4) for factor in factors]
        sums.add_products([body.splat(scalar, FLOATS) for scalar in scalars], inputs)


_PRODUCT = "rows vectors factors factor_stride inputs input_stride depth out out_stride accumulate".split()


def _products(kind: Any, shapes: list[tuple[int, int]]) -> Callable[[Any], None]:
    def write(function: Any) -> None:
        body = Body(function.append_basic_block())
        given = dict(zip(_PRODUCT, function.args, strict=True))
        for rows, vectors in shapes:
            is_rows = body.b.icmp_signed("==", given["rows"], I64(rows))
            is_vectors = body.b.icmp_signed("==", given["vectors"], I64(vectors))
            with body.b.if_then(body.b.and_(is_rows, is_vectors)):
                _Product(rows, vectors, max(1, 4 // (rows * vectors)), kind).write(body, given)
        body.b.ret_void()

    return write


@intrinsic
def _multiply_here(
    typing, rows, vectors, factors, factor_stride, inputs, input_stride, depth, out, out_stride, accumulate
):
    shapes = [(ROWS, n) for n in sorted({VECTORS, 1})]
    return emitted("ridgeline_attention_multiply_here", len(_PRODUCT), _products(FLOATS, shapes))


@intrinsic
def _multiply_halves_here(
    typing, rows, vectors, factors, factor_stride, inputs, input_stride, depth, out, out_stride, accumulate
):
    shapes = [(m, n) for m in range(1, GROUP_ROWS + 1) for n in sorted({VECTORS, 1})]
    return emitted("ridgeline_attention_multiply_halves_here", len(_PRODUCT), _products(HALVES, shapes))


def _multiply_entry(
    rows, vectors, factors, factor_stride, inputs, input_stride, depth, out, out_stride, accumulate
):
    _multiply_here(
        rows, vectors, factors, factor_stride, inputs, input_stride, depth, out, out_stride, accumulate
    )


def _multiply_halves_entry(
    rows, vectors, factors, factor_stride, inputs, input_stride, depth, out, out_stride, accumulate
):
    _multiply_halves_here(
        rows, vectors, factors, factor_stride, inputs, input_stride, depth, out, out_stride, accumulate
    )


def provide_attention() -> None:
    """Compile `multiply` and `multiply_halves`, or load what was kept of them."""
    provided("ridgeline_attention_multiply", _multiply_entry)
    provided("ridgeline_attention_multiply_halves", _multiply_halves_entry)


@intrinsic
def multiply(
    typing, rows, vectors, factors, factor_stride, inputs, input_stride, depth, out, out_stride, accumulate
):
    """`out = factors @ inputs`, all float32, or `out += ...`.

    Args:
        rows: `ROWS`.
        vectors: `VECTORS` or 1, columns of `inputs` and `out`.
        factors: [rows, depth].
        inputs: [depth, vectors * 16].
        out: [rows, vectors * 16].
        accumulate: 1 to add to what is in `out`, 0 to replace it.
    """
    return external("ridgeline_attention_multiply", len(_PRODUCT), provide_attention)


@intrinsic
def multiply_halves(
    typing, rows, vectors, factors, factor_stride, inputs, input_stride, depth, out, out_stride, accumulate
):
    """The same with float16 `inputs`, and 1 to `GROUP_ROWS` rows."""
    return external("ridgeline_attention_multiply_halves", len(_PRODUCT), provide_attention)


def _prefetch(function: Any) -> None:
    body = Body(function.append_basic_block())
    address, lines = function.args
    with _counted(body, lines) as index:
        line = body.address(address, body.b.mul(index, I64(LINE_BYTES)))
        place = body.b.inttoptr(line, I8.as_pointer())
        # To be read, wanted in all caches, of data.
        body.call("llvm.prefetch.p0i8", VOID, place, I32(0), I32(3), I32(1))
    body.b.ret_void()


@intrinsic
def prefetch(typing, address, lines):  # type: ignore[no-untyped-def]
    """Have so many lines of 64 bytes brought to the first cache."""
    return emitted("ridgeline_attention_prefetch", 2, _prefetch)


_POWER_OF_TWO = (0.0013264727, 0.009671513, 0.055507337, 0.24022242, 0.693147, 1.0)
"""2^f for f from -0.5 to 0.5: the polynomial of degree 5 that is exact at 0 and at most 9.2e-8 off,
relatively, found by Lawson's iteration."""


def _exp_of_negative(body: Body, x: Value) -> Value:
    """e to the power of each lane, none above 0: within 5e-7 of it from -20 on, else 2e-6; 0 below -87.

    It is nan of nan. 2^n by the exponent's bits, n the nearest integer to x / ln 2, times the polynomial.
    """
    b = body.b
    per_ln2 = constant(FLOATS, 1.4426950408889634)
    # Added and taken away again, this rounds to an integer, and leaves it in the lowest bits, where 127
    # more make it the exponent of a float.
    rounder = constant(FLOATS, 1.5 * 2**23 + 127)
    shifted = body.fma(x, per_ln2, rounder)
    fraction = body.fma(x, per_ln2, b.fsub(rounder, shifted))
    power = constant(FLOATS, _POWER_OF_TWO[0])
    for coefficient in _POWER_OF_TWO[1:]:
        power = body.fma(power, fraction, constant(FLOATS, coefficient))
    whole = b.bitcast(b.shl(b.bitcast(shifted, INTS), constant(INTS, 23)), FLOATS)
    # Multiplied as floats, because adding to the exponent's bits could make a number of nan.
    result = b.fmul(power, whole)
    return b.select(b.fcmp_ordered("<", x, constant(FLOATS, -87.0)), constant(FLOATS, 0.0), result)


def _larger(body: Body, x: Value, y: Value) -> Value:
    """Lane by lane; `y` where one is nan."""
    return body.b.select(body.b.fcmp_ordered(">", x, y), x, y)


def _fold(body: Body, vector: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """All lanes combined, in every lane."""
    for distance in (8, 4, 2, 1):
        lanes = ir.Constant(ir.VectorType(I32, LANES), [I32(i ^ distance) for i in range(LANES)])
        vector = combine(vector, body.b.shuffle_vector(vector, vector, lanes))
    return vector


_ABSORB = "scores vectors low high largest sums values value_vectors".split()


def _absorb(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    given = dict(zip(_ABSORB, function.args, strict=True))
    lanes = ir.Constant(INTS, [I32(i) for i in range(LANES)])
    low, high = (body.splat(b.trunc(given[name], I32), INTS) for name in ("low", "high"))
    before = body.load(F32, given["largest"], 4)
    running = cgutils.alloca_once_value(b, body.splat(before, FLOATS))
    with _counted(body, given["vectors"]) as index:
        place = body.address(given["scores"], b.mul(index, I64(4 * LANES)))
        at = b.add(body.splat(b.trunc(b.mul(index, I64(LANES)), I32), INTS), lanes)
        is_seen = b.and_(b.icmp_signed(">=", at, low), b.icmp_signed("<", at, high))
        scores = b.select(is_seen, body.load(FLOATS, place, 4), constant(FLOATS, _HIDDEN))
        body.store(scores, place, 4)
        b.store(_larger(body, b.load(running), scores), running)
    largest = _fold(body, b.load(running), lambda x, y: _larger(body, x, y))
    after = b.extract_element(largest, I32(0))
    with b.if_then(b.fcmp_unordered("!=", after, before)):
        factor = _exp_of_negative(body, b.fsub(body.splat(before, FLOATS), largest))
        body.store(after, given["largest"], 4)
        body.store(b.fmul(body.load(FLOATS, given["sums"], 4), factor), given["sums"], 4)
        with _counted(body, given["value_vectors"]) as index:
            place = body.address(given["values"], b.mul(index, I64(4 * LANES)))
            body.store(b.fmul(body.load(FLOATS, place, 4), factor), place, 4)
    total = cgutils.alloca_once_value(b, body.load(FLOATS, given["sums"], 4))
    with _counted(body, given["vectors"]) as index:
        place = body.address(given["scores"], b.mul(index, I64(4 * LANES)))
        weights = _exp_of_negative(body, b.fsub(body.load(FLOATS, place, 4), largest))
        body.store(weights, place, 4)
        b.store(b.fadd(b.load(total), weights), total)
    body.store(b.load(total), given["sums"], 4)
    b.ret_void()


@intrinsic
def absorb(typing, scores, vectors, low, high, largest, sums, values, value_vectors):  # type: ignore[no-untyped-def]
    """Turn a row of scores into weights of a softmax whose end is not known yet.

    Args:
        scores: float32 [vectors * 16]; becomes `exp(scores - largest)`.
        low, high: scores from `low` to before `high` count, the others become 0.
        largest: float32, of all scores so far; brought up to date.
        sums: float32 [16], which together are the sum of all weights so far; brought up to date.
        values: float32 [value_vectors * 16], the weighted sum so far; scaled to the new `largest`.
    """
    return emitted("ridgeline_attention_absorb", len(_ABSORB), _absorb)


def _divide(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    values, vectors, sums, out = function.args
    total = _fold(body, body.load(FLOATS, sums, 4), b.fadd)
    inverse = b.fdiv(constant(FLOATS, 1.0), total)
    with _counted(body, vectors) as index:
        at = b.mul(index, I64(4 * LANES))
        value = body.load(FLOATS, body.address(values, at), 4)
        body.store(b.fmul(value, inverse), body.address(out, at), 4)
    b.ret_void()


@intrinsic
def divide(typing, values, vectors, sums, out):  # type: ignore[no-untyped-def]
    """`out = values / sum(sums)`, see `absorb`; `out` is float32 [vectors * 16]."""
    return emitted("ridgeline_attention_divide", 4, _divide)


def _widen(function: Any) -> None:
    body = Body(function.append_basic_block())
    source, vectors, out, out_stride = function.args
    with _counted(body, vectors) as index:
        halves = body.load(HALVES, body.address(source, body.b.mul(index, I64(2 * LANES))), 2)
        body.store(body.b.fpext(halves, FLOATS), body.address(out, body.b.mul(index, out_stride)), 4)
    body.b.ret_void()


@intrinsic
def widen(typing, source, vectors, out, out_stride):  # type: ignore[no-untyped-def]
    """Vectors of float16, one after the other, to float32, one every `out_stride` bytes."""
    return emitted("ridgeline_attention_widen", 4, _widen)


def _narrow(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    source, vectors, out, out_stride = function.args
    with _counted(body, vectors) as index:
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
def narrow(typing, source, vectors, out, out_stride):  # type: ignore[no-untyped-def]
    """Vectors of float32 to float16, one element every `out_stride` bytes.

    Rounds to the nearest, to even where two are as near; what is beyond the largest float16 becomes that.
    """
    return emitted("ridgeline_attention_narrow", 4, _narrow)
