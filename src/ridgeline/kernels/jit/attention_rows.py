"""The inner loops of a query tile in LLVM's own language: `ROWS` query heads with `SPAN` positions.

All arguments are int64: addresses, counts, and strides in bytes. Vectors are of 16 lanes.
"""

from collections.abc import Callable
from typing import Any

from numba.core import cgutils
from numba.extending import intrinsic

from ridgeline.kernels.jit.attention_math import LINE_BYTES, PER_LN2, counted, larger, power_of_two, shuffled
from ridgeline.kernels.jit.ir import F32, FLOATS, I64, LANES, Body, Value, constant, emitted
from ridgeline.kernels.jit.target import AVX512, instruction_set

ROWS = 6
WIDTHS = (4, 2, 1) if instruction_set() == AVX512 else (1, 1, 1)
"""Vectors in a row of a product's tile. The widest fills most registers, 32 of 64 bytes or 16 of 32."""

SPAN_VECTORS = 4
SPAN = LANES * SPAN_VECTORS

_SPAN_BYTES = 4 * SPAN


def _product(body: Body, width: int, given: dict[str, Value]) -> None:
    """`out = scales * out + factors @ inputs` for one tile; without `scales`, the product alone."""
    b = body.b
    places = [[cgutils.alloca_once(b, FLOATS) for _ in range(width)] for _ in range(ROWS)]
    for row in places:
        for place in row:
            b.store(constant(FLOATS, 0.0), place)
    stride = given["factor_stride"]
    factors = [body.address(given["factors"], b.mul(stride, I64(m))) for m in range(ROWS)]
    with counted(body, given["depth"]) as index:
        start = body.address(given["inputs"], b.mul(index, given["input_stride"]))
        inputs = [body.load(FLOATS, body.address(start, LINE_BYTES * n), 4) for n in range(width)]
        for m in range(ROWS):
            factor = body.load(F32, body.address(factors[m], b.mul(index, I64(4))), 4)
            for n in range(width):
                total = body.fma(body.splat(factor, FLOATS), inputs[n], b.load(places[m][n]))
                b.store(total, places[m][n])
    for m in range(ROWS):
        out = body.address(given["out"], b.mul(given["out_stride"], I64(m)))
        if "scales" in given:
            scale = body.splat(body.load(F32, body.address(given["scales"], 4 * m), 4), FLOATS)
        for n in range(width):
            place, total = body.address(out, LINE_BYTES * n), b.load(places[m][n])
            if "scales" in given:
                total = body.fma(body.load(FLOATS, place, 4), scale, total)
            body.store(total, place, 4)


def _products(names: list[str]) -> Callable[[Any], None]:
    def write(function: Any) -> None:
        body = Body(function.append_basic_block())
        given = dict(zip(names, function.args, strict=True))
        for width in sorted(set(WIDTHS)):
            with body.b.if_then(body.b.icmp_signed("==", given["width"], I64(width))):
                _product(body, width, given)
        body.b.ret_void()

    return write


_SCORE = "width factors factor_stride inputs input_stride depth out out_stride".split()
_ADD = [*_SCORE, "scales"]


@intrinsic
def score_rows(typing, width, factors, factor_stride, inputs, input_stride, depth, out, out_stride):
    """`out = factors @ inputs`, all float32.

    Args:
        width: one of `WIDTHS`, vectors in a row of `inputs` and `out`.
        factors: [ROWS, depth].
        inputs: [depth, width * 16].
        out: [ROWS, width * 16].
    """
    return emitted("ridgeline_attention_score_rows", len(_SCORE), _products(_SCORE))


@intrinsic
def add_rows(typing, width, factors, factor_stride, inputs, input_stride, depth, out, out_stride, scales):
    """`out = scales * out + factors @ inputs`, see `score_rows`; `scales` is float32 [ROWS]."""
    return emitted("ridgeline_attention_add_rows", len(_ADD), _products(_ADD))


def largest_of_each(body: Body, vectors: list[Value]) -> Value:
    """The largest lane of each of up to eight vectors, or of sixteen, in the lanes of one."""
    vectors = vectors + vectors[-1:] * (8 - len(vectors))  # nothing where there are more
    run = LANES
    while run > 1:
        # Of two vectors with runs of lanes that belong together, one with runs of half the length.
        lower = [lane for lane in range(2 * LANES) if lane % run < run // 2]
        upper = [lane for lane in range(2 * LANES) if lane % run >= run // 2]
        vectors = [
            larger(body, shuffled(body, x, y, lower), shuffled(body, x, y, upper))
            for x, y in zip(vectors[::2], vectors[1::2] or vectors, strict=True)
        ]
        run //= 2
    return vectors[0]


def _weigh(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    scores, largest, sums, scales = function.args
    per_ln2 = constant(FLOATS, PER_LN2)
    places = [
        [body.address(scores, _SPAN_BYTES * m + LINE_BYTES * n) for n in range(SPAN_VECTORS)]
        for m in range(ROWS)
    ]
    tops = []
    for row in places:
        first, second, third, fourth = (body.load(FLOATS, place, 4) for place in row)
        tops.append(larger(body, larger(body, first, second), larger(body, third, fourth)))
    before = body.load(FLOATS, largest, 4)
    after = larger(body, before, largest_of_each(body, tops))
    body.store(after, largest, 4)
    after = b.fmul(after, per_ln2)
    scale = power_of_two(body, b.fsub(b.fmul(before, per_ln2), after))
    body.store(scale, scales, 4)
    negative = b.fneg(after)
    for m, row in enumerate(places):
        top = shuffled(body, negative, negative, [m] * LANES)
        total = None
        for place in row:
            x = body.fma(body.load(FLOATS, place, 4), per_ln2, top)
            weights = power_of_two(body, x)
            body.store(weights, place, 4)
            total = weights if total is None else b.fadd(total, weights)
        at = body.address(sums, LINE_BYTES * m)
        factor = shuffled(body, scale, scale, [m] * LANES)
        body.store(body.fma(body.load(FLOATS, at, 4), factor, total), at, 4)
    b.ret_void()


@intrinsic
def weigh_rows(typing, scores, largest, sums, scales):
    """Turn scores into weights of softmaxes whose ends are not known yet.

    Args:
        scores: float32 [ROWS, SPAN], -inf for what is not to be seen; becomes `exp(scores - largest)`.
        largest: float32 [16], per row the largest score so far; brought up to date.
        sums: float32 [ROWS, 16], which together are the sum of all weights so far; brought up to date.
        scales: float32 [16]; becomes what weights so far must be multiplied by.
    """
    return emitted("ridgeline_attention_weigh_rows", 4, _weigh)
