"""Scores of 32 rows with 32 positions to weights of softmaxes under way, in LLVM's own language.

For `attention_wide`. Weights are `exp(score - top)` with a top of each row that need not be its largest
score: one of the first scores will do, as long as no weight becomes too large for a float. Only where one
does are tops looked for again.

All arguments are int64: addresses, counts, and strides in bytes. Vectors are of 16 lanes.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ridgeline.kernels.jit.attention_ir import fold
from ridgeline.kernels.jit.attention_math import LINE_BYTES, PER_LN2, counted, larger, rough_power_of_two
from ridgeline.kernels.jit.attention_rows import largest_of_each
from ridgeline.kernels.jit.ir import (
    F32,
    FLOATS,
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
from ridgeline.kernels.jit.wide import ROWS, brain_floats, guarded

PANEL = 2 * LANES
"""Positions of a panel."""

PANEL_ROW_BYTES = 2 * LINE_BYTES
"""Of its scores, which lie row after row."""

_MOST = 1e30
"""That a row's weights of a span may sum up to: what they are multiplied with must not overflow either."""

_SEEN = "hides first lows highs".split()


def _seen_scores(body: Body, given: dict[str, Value], row: Value, part: int, hides: bool) -> Value:
    """Half of a row's scores, those that it must not see at minus infinity."""
    b = body.b
    place = body.address(given["scores"], b.mul(row, I64(PANEL_ROW_BYTES)))
    scores = body.load(FLOATS, body.address(place, LINE_BYTES * part), 4)
    if not hides:
        return scores
    lanes = ir.Constant(INTS, [I32(LANES * part + i) for i in range(LANES)])
    at = b.add(body.splat(b.trunc(given["first"], I32), INTS), lanes)
    bounds = []
    for name in ("lows", "highs"):
        bound = body.load(I64, body.address(given[name], b.mul(row, I64(8))), 8)
        bounds.append(body.splat(b.trunc(bound, I32), INTS))
    is_seen = b.and_(b.icmp_signed(">=", at, bounds[0]), b.icmp_signed("<", at, bounds[1]))
    return b.select(is_seen, scores, constant(FLOATS, float("-inf")))


def _weigh_rows(body: Body, given: dict[str, Value], hides: bool) -> None:
    b = body.b
    with counted(body, I64(ROWS)) as row:
        negative = body.splat(body.load(F32, body.address(given["negatives"], b.mul(row, I64(4))), 4), FLOATS)
        weights = []
        for part in range(2):
            scores = _seen_scores(body, given, row, part, hides)
            power = body.fma(scores, constant(FLOATS, PER_LN2), negative)
            weights.append(rough_power_of_two(body, power))
        both = b.bitcast(brain_floats(body, *weights), SHORT_PAIRS)
        body.store(both, body.address(given["weights"], b.mul(row, given["weight_stride"])), 2)
        place = body.address(given["sums"], b.mul(row, I64(LINE_BYTES)))
        body.store(b.fadd(body.load(FLOATS, place, 4), b.fadd(*weights)), place, 4)


_WEIGH = ["scores", *_SEEN, "negatives", "sums", "weights", "weight_stride"]


def _weigh(function: Any) -> None:
    body = Body(function.append_basic_block())
    given = dict(zip(_WEIGH, function.args, strict=True))
    with body.b.if_else(body.b.icmp_signed("==", given["hides"], I64(0))) as (all_seen, some_hidden):
        for branch, hides in ((all_seen, False), (some_hidden, True)):
            with branch:
                _weigh_rows(body, given, hides)
    body.b.ret_void()


@intrinsic
def weigh_panel(typing, scores, hides, first, lows, highs, negatives, sums, weights, weight_stride):
    """Turn a panel's scores into weights.

    Args:
        scores: float32 [32, 32].
        hides: whether some are not to be seen.
        first: of the panel's positions, within the span.
        lows, highs: int64 [32]; a row sees positions of the span from its low to before its high.
        negatives: float32 [32], `-top / ln 2` of each row.
        sums: float32 [32, 16], which together are sums of each row's weights; the new ones are added.
        weights: bfloat16 [32, 32].
    """
    return emitted("ridgeline_attention_weigh_panel", len(_WEIGH), guarded(_weigh))


_LARGEST = ["scores", *_SEEN, "largest"]


def _find_largest(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    given = dict(zip(_LARGEST, function.args, strict=True))
    tops = cgutils.alloca_once(b, FLOATS, size=I64(ROWS))
    with b.if_else(b.icmp_signed("==", given["hides"], I64(0))) as (all_seen, some_hidden):
        for branch, hides in ((all_seen, False), (some_hidden, True)):
            with branch, counted(body, I64(ROWS)) as row:
                halves = [_seen_scores(body, given, row, part, hides) for part in range(2)]
                b.store(larger(body, *halves), b.gep(tops, [row]))
    for half in range(ROWS // LANES):
        rows = [b.load(b.gep(tops, [I64(LANES * half + i)])) for i in range(LANES)]
        place = body.address(given["largest"], LINE_BYTES * half)
        body.store(larger(body, largest_of_each(body, rows), body.load(FLOATS, place, 4)), place, 4)
    b.ret_void()


@intrinsic
def find_largest(typing, scores, hides, first, lows, highs, largest):
    """Bring the largest score of each row up to date, float32 [32]; see `weigh_panel`."""
    return emitted("ridgeline_attention_find_largest", len(_LARGEST), guarded(_find_largest))


def _take_sums(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    new, sums = function.args
    most = cgutils.alloca_once_value(b, constant(FLOATS, 0.0))
    with counted(body, I64(ROWS)) as row:
        x = body.load(FLOATS, body.address(new, b.mul(row, I64(LINE_BYTES))), 4)
        b.store(b.fadd(x, b.load(most)), most)  # a sum, in which nan stays
    total = b.extract_element(fold(body, b.load(most), b.fadd), I32(0))
    is_good = b.fcmp_ordered("<", total, F32(_MOST))
    with b.if_then(is_good), counted(body, I64(ROWS)) as row:
        at = b.mul(row, I64(LINE_BYTES))
        place = body.address(sums, at)
        x = b.fadd(body.load(FLOATS, place, 4), body.load(FLOATS, body.address(new, at), 4))
        body.store(x, place, 4)
    b.ret(b.zext(is_good, I64))


@intrinsic
def take_sums(typing, new, sums):
    """Add a span's sums of weights to those so far, both float32 [32, 16], unless they are too large.

    Returns:
        1 if it has, 0 if tops must be raised first.
    """
    return emitted("ridgeline_attention_take_sums", 2, _take_sums, types.intp)
