"""Scores of 16 rows to weights of softmaxes under way, in LLVM's own language: for `attention_wide`.

All arguments are int64: addresses, counts, and strides in bytes. Vectors are of 16 lanes.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from ridgeline.kernels.jit.attention_math import LINE_BYTES, PER_LN2, counted, larger, power_of_two
from ridgeline.kernels.jit.attention_rows import largest_of_each
from ridgeline.kernels.jit.ir import (
    F32,
    FLOATS,
    I16,
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
from ridgeline.kernels.jit.wide import brain_floats, guarded

ROWS = 16

_NAMES = (
    "scores score_stride vectors hides lows highs largest sums values value_vectors weights weight_stride"
).split()


def _hidden(body: Body, given: dict[str, Value], row: Value, index: Value, scores: Value) -> Value:
    """Scores of a vector with those that the row must not see at minus infinity."""
    b = body.b
    lanes = ir.Constant(INTS, [I32(i) for i in range(LANES)])
    at = b.add(body.splat(b.trunc(b.mul(index, I64(LANES)), I32), INTS), lanes)
    bounds = []
    for name in ("lows", "highs"):
        bound = body.load(I64, body.address(given[name], b.mul(row, I64(8))), 8)
        bounds.append(body.splat(b.trunc(bound, I32), INTS))
    is_seen = b.and_(b.icmp_signed(">=", at, bounds[0]), b.icmp_signed("<", at, bounds[1]))
    return b.select(is_seen, scores, constant(FLOATS, float("-inf")))


def _find_largest(body: Body, given: dict[str, Value], tops: Value, hides: bool) -> None:
    """The largest score of each lane of each row."""
    b = body.b
    with counted(body, I64(ROWS)) as row:
        start = body.address(given["scores"], b.mul(row, given["score_stride"]))
        running = cgutils.alloca_once(b, FLOATS)
        b.store(constant(FLOATS, float("-inf")), running)
        with counted(body, given["vectors"]) as index:
            place = body.address(start, b.mul(index, I64(LINE_BYTES)))
            scores = body.load(FLOATS, place, 4)
            if hides:
                scores = _hidden(body, given, row, index, scores)
                body.store(scores, place, 4)
            b.store(larger(body, b.load(running), scores), running)
        b.store(b.load(running), b.gep(tops, [row]))


def _lane(body: Body, array: Value, row: Value) -> Value:
    """A vector of one of the float32 of an array."""
    return body.splat(
        body.load(F32, body.address(body.b.ptrtoint(array, I64), body.b.mul(row, I64(4))), 4), FLOATS
    )


def _weigh_row(body: Body, given: dict[str, Value], row: Value, negatives: Value, factors: Value) -> None:
    b = body.b
    negative = _lane(body, negatives, row)
    start = body.address(given["scores"], b.mul(row, given["score_stride"]))
    target = body.address(given["weights"], b.mul(row, given["weight_stride"]))
    totals = [cgutils.alloca_once(b, FLOATS) for _ in range(2)]
    for total in totals:
        b.store(constant(FLOATS, 0.0), total)
    with counted(body, b.lshr(given["vectors"], I64(1))) as index:
        place, weights = body.address(start, b.mul(index, I64(2 * LINE_BYTES))), []
        for i, total in enumerate(totals):
            scores = body.load(FLOATS, body.address(place, LINE_BYTES * i), 4)
            power = body.fma(scores, constant(FLOATS, PER_LN2), negative)
            weights.append(power_of_two(body, power, for_bfloat16=True))
            b.store(b.fadd(b.load(total), weights[-1]), total)
        both = b.bitcast(brain_floats(body, *weights), SHORT_PAIRS)
        body.store(both, body.address(target, b.mul(index, I64(4 * LANES))), 2)
    place = body.address(given["sums"], b.mul(row, I64(LINE_BYTES)))
    total = b.fadd(b.load(totals[0]), b.load(totals[1]))
    body.store(body.fma(body.load(FLOATS, place, 4), _lane(body, factors, row), total), place, 4)


def _scale_values(body: Body, given: dict[str, Value], factors: Value) -> None:
    b = body.b
    with counted(body, I64(ROWS)) as row:
        factor = _lane(body, factors, row)
        values = body.address(given["values"], b.mul(row, b.mul(given["value_vectors"], I64(LINE_BYTES))))
        with counted(body, given["value_vectors"]) as index:
            place = body.address(values, b.mul(index, I64(LINE_BYTES)))
            body.store(b.fmul(body.load(FLOATS, place, 4), factor), place, 4)


def _weigh(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    given = dict(zip(_NAMES, function.args, strict=True))
    tops = cgutils.alloca_once(b, FLOATS, size=I64(ROWS))
    with b.if_else(b.icmp_signed("==", given["hides"], I64(0))) as (all_seen, some_hidden):
        with all_seen:
            _find_largest(body, given, tops, False)
        with some_hidden:
            _find_largest(body, given, tops, True)
    found = largest_of_each(body, [b.load(b.gep(tops, [I64(row)])) for row in range(ROWS)])
    before = body.load(FLOATS, given["largest"], 4)
    after = larger(body, before, found)
    body.store(after, given["largest"], 4)
    per_ln2 = constant(FLOATS, PER_LN2)
    top = b.fmul(after, per_ln2)
    negatives, factors = cgutils.alloca_once(b, FLOATS), cgutils.alloca_once(b, FLOATS)
    b.store(b.fneg(top), negatives)
    b.store(power_of_two(body, b.fsub(b.fmul(before, per_ln2), top)), factors)
    with counted(body, I64(ROWS)) as row:
        _weigh_row(body, given, row, negatives, factors)
    # Unordered: with nan too. Later spans seldom bring a larger score.
    is_changed = b.bitcast(b.fcmp_unordered("!=", before, after), I16)
    with b.if_then(b.icmp_unsigned("!=", is_changed, I16(0))):
        _scale_values(body, given, factors)
    b.ret_void()


@intrinsic
def weigh_tile(
    typing,
    scores,
    score_stride,
    vectors,
    hides,
    lows,
    highs,
    largest,
    sums,
    values,
    value_vectors,
    weights,
    weight_stride,
):
    """Turn scores of 16 rows into weights.

    Args:
        scores: float32 [16, vectors * 16], of an even number; those not seen become minus infinity.
        hides: whether some are not to be seen.
        lows, highs: int64 [16]; a row sees scores from its low to before its high.
        largest: float32 [16], of all scores of a row so far; brought up to date.
        sums: float32 [16, 16], which together are the sum of a row's weights so far; brought up to date.
        values: float32 [16, value_vectors * 16], the weighted sums so far; scaled to the new `largest`.
        weights: bfloat16 [16, vectors * 16]; becomes `exp(scores - largest)`.
    """
    return emitted("ridgeline_attention_weigh_tile", len(_NAMES), guarded(_weigh))
