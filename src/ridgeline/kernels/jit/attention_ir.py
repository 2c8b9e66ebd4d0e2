"""The inner loops of attention, in LLVM's own language.

All arguments are int64: addresses, counts, and strides in bytes. Vectors are of 16 lanes.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils
from numba.extending import intrinsic

from ridgeline.kernels.jit.attention_math import LINE_BYTES, PER_LN2, counted, larger, power_of_two, shuffled
from ridgeline.kernels.jit.attention_span import provide_span
from ridgeline.kernels.jit.ir import (
    F32,
    FLOATS,
    HALVES,
    I32,
    I64,
    INTS,
    LANES,
    Body,
    Value,
    constant,
    emitted,
    external,
    provided,
)
from ridgeline.kernels.jit.target import AVX512, instruction_set

VECTORS = 4 if instruction_set() == AVX512 else 1
"""Columns of a tile of sums, for `GROUP_ROWS` rows of which there are registers."""

GROUP_ROWS = 4
"""Most query heads that share one load of what is stored as float16."""

_HIDDEN = float("-inf")


@njit(error_model="numpy")
def tile_rows(left: int) -> int:
    """Query heads to compute with at once where so many are left: 5 rather as 3 and 2 than as 4 and 1."""
    return -(-left // -(-left // GROUP_ROWS))


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
    """Writes one tile of `multiply_halves`.

    Args:
        rows, vectors: of the tile.
        chains: sums per element, each over every so many-th input: a few sums alone would wait for
            themselves.
    """

    def __init__(self, rows: int, vectors: int, chains: int) -> None:
        self._rows, self._vectors, self._chains = range(rows), range(vectors), chains

    def write(self, body: Body, arguments: dict[str, Value]) -> None:
        b, given = body.b, arguments
        factors = [body.address(given["factors"], b.mul(given["factor_stride"], I64(m))) for m in self._rows]
        chains = [_Sums(body, len(self._rows), len(self._vectors)) for _ in range(self._chains)]
        turns = b.udiv(given["depth"], I64(self._chains))
        with counted(body, turns) as index:
            for i, sums in enumerate(chains):
                self._step(body, given, factors, b.add(b.mul(index, I64(self._chains)), I64(i)), sums)
        if self._chains > 1:
            done = b.mul(turns, I64(self._chains))
            with counted(body, b.sub(given["depth"], done)) as index:
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
        halves = [body.load(HALVES, body.address(row, 2 * LANES * n), 2) for n in self._vectors]
        inputs = [b.fpext(vector, FLOATS) for vector in halves]
        # Not for all at once, since of a burst much is ignored.
        ahead = body.address(given["ahead"], b.mul(index, given["input_stride"]))
        for line in range(0, 2 * LANES * len(self._vectors), LINE_BYTES):
            body.fetch(body.address(ahead, line))
        at = b.mul(index, I64(4))
        scalars = [body.load(F32, body.address(factor, at), 4) for factor in factors]
        sums.add_products([body.splat(scalar, FLOATS) for scalar in scalars], inputs)


_PRODUCT = (
    "rows vectors factors factor_stride inputs input_stride depth out out_stride accumulate ahead".split()
)


def _write_products(function: Any) -> None:
    body = Body(function.append_basic_block())
    given = dict(zip(_PRODUCT, function.args, strict=True))
    for rows, vectors in product(range(1, GROUP_ROWS + 1), sorted({VECTORS, 1})):
        is_rows = body.b.icmp_signed("==", given["rows"], I64(rows))
        is_vectors = body.b.icmp_signed("==", given["vectors"], I64(vectors))
        with body.b.if_then(body.b.and_(is_rows, is_vectors)):
            _Product(rows, vectors, max(1, 8 // (rows * vectors))).write(body, given)
    body.b.ret_void()


@intrinsic
def _multiply_halves_here(
    typing,
    rows,
    vectors,
    factors,
    factor_stride,
    inputs,
    input_stride,
    depth,
    out,
    out_stride,
    accumulate,
    ahead,
):
    return emitted("ridgeline_attention_multiply_halves_here", len(_PRODUCT), _write_products)


def _multiply_halves_entry(
    rows, vectors, factors, factor_stride, inputs, input_stride, depth, out, out_stride, accumulate, ahead
):
    _multiply_halves_here(
        rows, vectors, factors, factor_stride, inputs, input_stride, depth, out, out_stride, accumulate, ahead
    )


def provide_attention() -> None:
    """Compile `multiply_halves` and `attend_span`, or load what was kept of them."""
    provided("ridgeline_attention_multiply_halves", _multiply_halves_entry)
    provide_span()


@intrinsic
def multiply_halves(
    typing,
    rows,
    vectors,
    factors,
    factor_stride,
    inputs,
    input_stride,
    depth,
    out,
    out_stride,
    accumulate,
    ahead,
):
    """`out = factors @ inputs`, or `out += ...`.

    Args:
        rows: 1 to `GROUP_ROWS`.
        vectors: `VECTORS` or 1, columns of `inputs` and `out`.
        factors: float32 [rows, depth].
        inputs: float16 [depth, vectors * 16].
        out: float32 [rows, vectors * 16].
        accumulate: 1 to add to what is in `out`, 0 to replace it.
        ahead: where inputs begin, with the same strides, that are soon to be in the second cache.
    """
    return external("ridgeline_attention_multiply_halves", len(_PRODUCT), provide_attention)


def fold(body: Body, vector: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """All lanes combined, in every lane."""
    for distance in (8, 4, 2, 1):
        swapped = shuffled(body, vector, vector, [lane ^ distance for lane in range(LANES)])
        vector = combine(vector, swapped)
    return vector


_ABSORB = "scores vectors low high largest sums values value_vectors".split()


def _absorb(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    given = dict(zip(_ABSORB, function.args, strict=True))
    lanes = ir.Constant(INTS, [I32(i) for i in range(LANES)])
    low, high = (body.splat(b.trunc(given[name], I32), INTS) for name in ("low", "high"))
    per_ln2 = constant(FLOATS, PER_LN2)
    before = body.load(F32, given["largest"], 4)
    running = cgutils.alloca_once_value(b, body.splat(before, FLOATS))

    def look(index: Value, hides: bool) -> None:
        place = body.address(given["scores"], b.mul(index, I64(4 * LANES)))
        scores = body.load(FLOATS, place, 4)
        if hides:
            at = b.add(body.splat(b.trunc(b.mul(index, I64(LANES)), I32), INTS), lanes)
            is_seen = b.and_(b.icmp_signed(">=", at, low), b.icmp_signed("<", at, high))
            scores = b.select(is_seen, scores, constant(FLOATS, _HIDDEN))
            body.store(scores, place, 4)
        b.store(larger(body, b.load(running), scores), running)

    is_first = b.icmp_signed("<=", given["low"], I64(0))
    is_last = b.icmp_signed(">=", given["high"], b.mul(given["vectors"], I64(LANES)))
    with b.if_else(b.and_(is_first, is_last)) as (all_seen, some_hidden):
        with all_seen, counted(body, given["vectors"]) as index:
            look(index, False)
        with some_hidden, counted(body, given["vectors"]) as index:
            look(index, True)
    largest = fold(body, b.load(running), partial(larger, body))
    after = b.extract_element(largest, I32(0))
    top = b.fmul(largest, per_ln2)
    with b.if_then(b.fcmp_unordered("!=", after, before)):
        factor = power_of_two(body, b.fsub(b.fmul(body.splat(before, FLOATS), per_ln2), top))
        body.store(after, given["largest"], 4)
        body.store(b.fmul(body.load(FLOATS, given["sums"], 4), factor), given["sums"], 4)
        with counted(body, given["value_vectors"]) as index:
            place = body.address(given["values"], b.mul(index, I64(4 * LANES)))
            body.store(b.fmul(body.load(FLOATS, place, 4), factor), place, 4)
    total = cgutils.alloca_once_value(b, body.load(FLOATS, given["sums"], 4))
    negative = b.fneg(top)
    with counted(body, given["vectors"]) as index:
        place = body.address(given["scores"], b.mul(index, I64(4 * LANES)))
        weights = power_of_two(body, body.fma(body.load(FLOATS, place, 4), per_ln2, negative))
        body.store(weights, place, 4)
        b.store(b.fadd(b.load(total), weights), total)
    body.store(b.load(total), given["sums"], 4)
    b.ret_void()


@intrinsic
def absorb(typing, scores, vectors, low, high, largest, sums, values, value_vectors):
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
    total = fold(body, body.load(FLOATS, sums, 4), b.fadd)
    inverse = b.fdiv(constant(FLOATS, 1.0), total)
    with counted(body, vectors) as index:
        at = b.mul(index, I64(4 * LANES))
        value = body.load(FLOATS, body.address(values, at), 4)
        body.store(b.fmul(value, inverse), body.address(out, at), 4)
    b.ret_void()


@intrinsic
def divide(typing, values, vectors, sums, out):
    """`out = values / sum(sums)`, see `absorb`; `out` is float32 [vectors * 16]."""
    return emitted("ridgeline_attention_divide", 4, _divide)
