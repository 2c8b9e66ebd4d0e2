"""The inner loops of attention over K and V in int8, in LLVM's own language.

Queries and weights are int16, each row with a scale of its own: against 8 bits of the stored that loses
nothing, and processors multiply pairs of 16 bits and add them up in 32 bits, AVX2 too. See `kv_pool` for
how K and V lie. All arguments are int64: addresses, counts, and strides in bytes.
"""

from functools import partial
from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from ridgeline.kernels.jit.attention_ir import GROUP_ROWS, VECTORS, fold
from ridgeline.kernels.jit.attention_math import LINE_BYTES, counted, larger
from ridgeline.kernels.jit.ir import (
    F32,
    FLOATS,
    I8,
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
    external,
    provided,
)
from ridgeline.kernels.jit.kv_pool import BLOCK_TOKENS
from ridgeline.kernels.jit.target import AVX512, instruction_set

_BYTE_PAIRS = ir.VectorType(I8, 2 * LANES)
_PAIR_BYTES = 2 * LANES
_LARGEST_SHORT = 32767.0


def _add_pairs(body: Body, total: Value, x: Value, y: Value) -> Value:
    """To each of 16 sums the two products of a pair of int16: one instruction where there is one."""
    b = body.b
    if instruction_set() == AVX512:
        return b.add(total, body.call("llvm.x86.avx512.pmaddw.d.512", INTS, x, y))
    halves = []
    for upper in (False, True):
        parts = [body.half(vector, upper) for vector in (x, y)]
        halves.append(body.call("llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), *parts))
    return b.add(total, body.join(*halves))


class _Sums:
    """Rows by vectors of int32 that a loop adds to; LLVM keeps them in registers."""

    def __init__(self, body: Body, rows: int, vectors: int) -> None:
        self._body, self._rows, self._vectors = body, range(rows), range(vectors)
        self._places = {key: cgutils.alloca_once(body.b, INTS) for key in product(self._rows, self._vectors)}
        self.clear()

    def clear(self) -> None:
        for place in self._places.values():
            self._body.b.store(constant(INTS, 0), place)

    def add(self, inputs: Value, factors: list[Value]) -> None:
        """Pairs of 16-bit factors, one a row, with pairs of bytes from an address on."""
        body = self._body
        pairs = [body.load(_BYTE_PAIRS, body.address(inputs, _PAIR_BYTES * n), 2) for n in self._vectors]
        shorts = [body.b.sext(pair, SHORT_PAIRS) for pair in pairs]
        for m in self._rows:
            factor = body.splat(body.load(I32, factors[m], 4), INTS)
            for n in self._vectors:
                place = self._places[m, n]
                both = body.b.bitcast(factor, SHORT_PAIRS)
                body.b.store(_add_pairs(body, body.b.load(place), shorts[n], both), place)

    def value(self, row: int, vector: int) -> Value:
        """As float32."""
        return self._body.b.sitofp(self._body.b.load(self._places[row, vector]), FLOATS)


def _place(body: Body, places: Value, index: Value) -> Value:
    return body.load(I64, body.address(places, body.b.mul(index, I64(8))), 8)


def _row_scales(body: Body, given: dict[str, Value], rows: int) -> list[Value]:
    return [
        body.splat(body.load(F32, body.address(given["row_scales"], 4 * m), 4), FLOATS) for m in range(rows)
    ]


def _score(body: Body, given: dict[str, Value], rows: int) -> None:
    b = body.b
    queries = [body.address(given["queries"], b.mul(given["query_stride"], I64(m))) for m in range(rows)]
    scales = _row_scales(body, given, rows)
    # A few sums alone would wait for themselves. Two rows of pairs are a line.
    chains = [_Sums(body, rows, 1) for _ in range(2 if rows > 1 else 4)]
    with counted(body, given["blocks"]) as block:
        keys = _place(body, given["places"], block)
        ahead = _place(body, given["places"], b.add(block, given["ahead"]))
        for sums in chains:
            sums.clear()
        with counted(body, b.udiv(given["pairs"], I64(len(chains)))) as turn:
            first = b.mul(turn, I64(len(chains)))
            for i, sums in enumerate(chains):
                pair = b.add(first, I64(i))
                at = b.mul(pair, I64(_PAIR_BYTES))
                sums.add(body.address(keys, at), [body.address(q, b.mul(pair, I64(4))) for q in queries])
                if i % 2 == 0:
                    body.fetch(body.address(ahead, at))
        end = b.mul(given["pairs"], I64(_PAIR_BYTES))
        body.fetch(body.address(ahead, end))
        column = body.load(FLOATS, body.address(keys, end), 4)
        for m in range(rows):
            total = chains[0].value(m, 0)
            for sums in chains[1:]:
                total = b.fadd(total, sums.value(m, 0))
            out = body.address(given["out"], b.mul(given["out_stride"], I64(m)))
            place = body.address(out, b.mul(block, I64(LINE_BYTES)))
            body.store(b.fmul(total, b.fmul(column, scales[m])), place, 4)


_SCORE = "rows queries query_stride row_scales places blocks ahead pairs out out_stride".split()


def _write_score(function: Any) -> None:
    body = Body(function.append_basic_block())
    given = dict(zip(_SCORE, function.args, strict=True))
    for rows in range(1, GROUP_ROWS + 1):
        with body.b.if_then(body.b.icmp_signed("==", given["rows"], I64(rows))):
            _score(body, given, rows)
    body.b.ret_void()


def _add(body: Body, given: dict[str, Value], rows: int, vectors: int) -> None:
    b = body.b
    weights = [body.address(given["weights"], b.mul(given["weight_stride"], I64(m))) for m in range(rows)]
    scales, sums = _row_scales(body, given, rows), _Sums(body, rows, vectors)
    with counted(body, given["blocks"]) as block:
        values = body.address(_place(body, given["places"], block), given["column_bytes"])
        ahead = _place(body, given["places"], b.add(block, given["ahead"]))
        ahead = body.address(ahead, given["column_bytes"])
        own = [body.address(row, b.mul(block, I64(2 * BLOCK_TOKENS))) for row in weights]
        with counted(body, I64(BLOCK_TOKENS // 2)) as pair:
            at = b.mul(pair, given["pair_stride"])
            sums.add(body.address(values, at), [body.address(row, b.mul(pair, I64(4))) for row in own])
            for line in range(0, _PAIR_BYTES * vectors, LINE_BYTES):
                body.fetch(body.address(body.address(ahead, at), line))
        body.fetch(body.address(ahead, b.mul(given["pair_stride"], I64(BLOCK_TOKENS // 2))))
    for m, n in product(range(rows), range(vectors)):
        out = body.address(given["out"], b.mul(given["out_stride"], I64(m)))
        place = body.address(out, LINE_BYTES * n)
        body.store(body.fma(sums.value(m, n), scales[m], body.load(FLOATS, place, 4)), place, 4)


_ADD = (
    "rows vectors weights weight_stride row_scales places blocks ahead "
    "column_bytes pair_stride out out_stride"
).split()


def _write_add(function: Any) -> None:
    body = Body(function.append_basic_block())
    given = dict(zip(_ADD, function.args, strict=True))
    for rows, vectors in product(range(1, GROUP_ROWS + 1), sorted({VECTORS, 1})):
        is_rows = body.b.icmp_signed("==", given["rows"], I64(rows))
        is_vectors = body.b.icmp_signed("==", given["vectors"], I64(vectors))
        with body.b.if_then(body.b.and_(is_rows, is_vectors)):
            _add(body, given, rows, vectors)
    body.b.ret_void()


@intrinsic
def _score_here(
    typing, rows, queries, query_stride, row_scales, places, blocks, ahead, pairs, out, out_stride
):
    return emitted("ridgeline_attention_score_int8_here", len(_SCORE), _write_score)


def _score_entry(rows, queries, query_stride, row_scales, places, blocks, ahead, pairs, out, out_stride):
    _score_here(rows, queries, query_stride, row_scales, places, blocks, ahead, pairs, out, out_stride)


@intrinsic
def _add_here(
    typing, rows, vectors, weights, weight_stride, row_scales, places, blocks, ahead, column_bytes,
    pair_stride, out, out_stride,
):  # fmt: skip
    return emitted("ridgeline_attention_add_int8_here", len(_ADD), _write_add)


def _add_entry(
    rows, vectors, weights, weight_stride, row_scales, places, blocks, ahead, column_bytes, pair_stride, out,
    out_stride,
):  # fmt: skip
    _add_here(
        rows, vectors, weights, weight_stride, row_scales, places, blocks, ahead, column_bytes, pair_stride,
        out, out_stride,
    )  # fmt: skip


def provide_int8() -> None:
    """Compile `score_int8` and `add_int8`, or load what was kept of them."""
    provided("ridgeline_attention_score_int8", _score_entry)
    provided("ridgeline_attention_add_int8", _add_entry)


@intrinsic
def score_int8(
    typing, rows, queries, query_stride, row_scales, places, blocks, ahead, pairs, out, out_stride
):
    """Scores of some query heads with the keys of some blocks.

    Args:
        rows: 1 to `GROUP_ROWS`.
        queries: int16 [rows, 2 * pairs], a multiple of 32.
        row_scales: float32 [rows], what a quant of 1 of a query stands for.
        places: int64 [blocks + ahead], addresses of pieces in the order in which they are read.
        blocks: how many, one piece each.
        ahead: how many places further is what to ask for meanwhile.
        out: float32 [rows, 16 * blocks].
    """
    return external("ridgeline_attention_score_int8", len(_SCORE), provide_int8)


@intrinsic
def add_int8(
    typing, rows, vectors, weights, weight_stride, row_scales, places, blocks, ahead, column_bytes,
    pair_stride, out, out_stride,
):  # fmt: skip
    """`out += weights @ values` over some blocks, for 16 times `vectors` elements of a head.

    Args:
        rows, places, blocks, ahead: as for `score_int8`.
        vectors: `VECTORS` or 1.
        weights: int16 [rows, 16 * blocks], of which no row may sum up to more than 2^24.
        row_scales: float32 [rows], what a quant of 1 of a weight stands for.
        column_bytes: where the elements begin within a pair of positions.
        pair_stride: from a pair to the next.
        out: float32 [rows, vectors * 16].
    """
    return external("ridgeline_attention_add_int8", len(_ADD), provide_int8)


def _fold_scales(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    weights, places, blocks, scales_after = function.args
    with counted(body, blocks) as block:
        at = body.address(weights, b.mul(block, I64(LINE_BYTES)))
        scales = body.load(FLOATS, body.address(_place(body, places, block), scales_after), 4)
        weight, zero = body.load(FLOATS, at, 4), constant(FLOATS, 0.0)
        # What was never written may have any scale.
        product = b.select(b.fcmp_unordered("!=", weight, zero), b.fmul(weight, scales), zero)
        body.store(product, at, 4)
    b.ret_void()


@intrinsic
def fold_scales(typing, weights, places, blocks, scales_after):
    """Multiply weights, float32 [16 * blocks], by the scales of the pieces at `places`; 0 stays 0."""
    return emitted("ridgeline_attention_fold_scales", 4, _fold_scales)


def _to_shorts(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    source, vectors, out, scale_place = function.args
    zero = constant(FLOATS, 0.0)
    largest, traces = (cgutils.alloca_once_value(b, zero) for _ in range(2))
    with counted(body, vectors) as index:
        x = body.load(FLOATS, body.address(source, b.mul(index, I64(LINE_BYTES))), 4)
        b.store(larger(body, body.call("llvm.fabs.v16f32", FLOATS, x), b.load(largest)), largest)
        b.store(body.fma(x, zero, b.load(traces)), traces)
    most = fold(body, b.load(largest), partial(larger, body))
    is_zero = b.fcmp_ordered("==", most, zero)
    factor = b.select(is_zero, zero, b.fdiv(constant(FLOATS, _LARGEST_SHORT), most))
    scale = b.fmul(most, constant(FLOATS, 1 / _LARGEST_SHORT))
    # What is not a number makes the scale none, for quants cannot tell it.
    scale = b.fadd(scale, fold(body, b.load(traces), b.fadd))
    body.store(b.extract_element(scale, I32(0)), scale_place, 4)
    with counted(body, vectors) as index:
        x = body.load(FLOATS, body.address(source, b.mul(index, I64(LINE_BYTES))), 4)
        rounded = body.call("llvm.roundeven.v16f32", FLOATS, b.fmul(x, factor))
        quants = b.trunc(b.fptosi(rounded, INTS), ir.VectorType(I16, LANES))
        body.store(quants, body.address(out, b.mul(index, I64(2 * LANES))), 2)
    b.ret_void()


@intrinsic
def to_shorts(typing, source, vectors, out, scale_place):
    """A row of 16 times `vectors` float32 as int16, which may take its place; and its scale, a float32."""
    return emitted("ridgeline_attention_to_shorts", 4, _to_shorts)
