"""Products of int8 activations with weights of 4 or 8 bits.

A tile is `rows` activations by `TILES` times 16 outputs, whose sums stay in registers. The weights
lie in the order in which a tile reads them (see `packing`): for each block of 32 inputs the scales
of 16 outputs, their minimums if they have any, then the quants so that four inputs of each of 16
outputs are one vector, which the processor multiplies with four activations, repeated 16 times,
and adds up in int32. Per block, with activations `d * a`:

    sum over 32 of (scale * q + minimum) * (d * a) = scale * d * sum(q * a) + minimum * d * sum(a)

Without minimums the weights are `scale * (q - offset)`: the integer sum begins at
`-offset * sum(a)`.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from ridgeline.kernels.jit.ir import (
    BYTES,
    F32,
    FLOATS,
    HALVES,
    I16,
    I32,
    I64,
    INTS,
    Body,
    Value,
    constant,
    emitted,
    external,
    provided,
)
from ridgeline.kernels.jit.target import AVX512, AVX_VNNI, instruction_set, takes_bytes

FORM_4_MINIMUM, FORM_4, FORM_8 = range(3)
"""Of weights: 4 bits with a minimum, 4 bits offset by 8, 8 bits offset by 128."""

BLOCK = 32
BLOCK_BYTES = (2 * 32 + 256, 32 + 256, 32 + 512)
"""Of 16 outputs by 32 inputs, for each form."""

AHEAD_BYTES = 8192
"""How far ahead weights are asked for into the second cache, in the order in which they lie: the processor
itself looks ahead to the end of a page of 4 KB at most."""

TILES, MAX_ROWS = (2, 6) if instruction_set() == AVX512 else (1, 2)
"""Of a tile. The sums, as integers and as floats, fill the registers: 32 of 64 bytes or 16 of 32."""


def _dot(body: Body, total: Value, weights: Value, activations: Value, wide: bool) -> Value:
    """Add to each int32 lane four products of unsigned weights (`wide`: over 4 bits) and signed bytes."""
    kind = instruction_set()
    if kind == AVX512:
        return _vnni(body, "llvm.x86.avx512.vpdpbusd.512", total, weights, activations)
    halves = []
    for upper in (False, True):
        start, bytes_, inputs = (body.half(vector, upper) for vector in (total, weights, activations))
        if kind == AVX_VNNI:
            halves.append(_vnni(body, "llvm.x86.avx512.vpdpbusd.256", start, bytes_, inputs))
        else:
            halves.append(_dot_avx2(body, start, bytes_, inputs, wide))
    return body.join(*halves)


def _vnni(body: Body, name: str, total: Value, weights: Value, activations: Value) -> Value:
    if not takes_bytes(name, total.type.count):
        weights, activations = (body.b.bitcast(x, total.type) for x in (weights, activations))
    return body.call(name, total.type, total, weights, activations)


def _dot_avx2(body: Body, total: Value, weights: Value, activations: Value, wide: bool) -> Value:
    """In pairs to 16 bits, which 4 bits by 8 cannot exceed; 8 bits are split into two times 4."""
    b = body.b
    shorts = ir.VectorType(I16, 16)
    parts = [(weights, 1)]
    if wide:
        mask = constant(weights.type, 15)
        upper = b.bitcast(b.lshr(b.bitcast(weights, shorts), constant(shorts, 4)), weights.type)
        parts = [(b.and_(weights, mask), 1), (b.and_(upper, mask), 16)]
    for part, factor in parts:
        pairs = body.call("llvm.x86.avx2.pmadd.ub.sw", shorts, part, activations)
        fours = body.call("llvm.x86.avx2.pmadd.wd", total.type, pairs, constant(shorts, factor))
        total = b.add(total, fours)
    return total


class _Tile:
    """Writes the loop over blocks of one tile."""

    def __init__(self, form: int, rows: int, tiles: int) -> None:
        self.form = form
        self.rows = range(rows)
        self.tiles = range(tiles)
        self.bits = 8 if form == FORM_8 else 4
        self.minimums = form == FORM_4_MINIMUM

    def write(self, function: Any, block: Any, end: Any) -> None:
        """See `product` for the arguments."""
        arguments = dict(zip(_ARGUMENTS, function.args, strict=True))
        entry = Body(block)
        loop = function.append_basic_block()
        store = function.append_basic_block()
        outputs = [
            [entry.address(self._row(entry, arguments, "out", m), 64 * n) for n in self.tiles]
            for m in self.rows
        ]
        fresh = entry.b.icmp_signed("==", arguments["accumulate"], I64(0))
        first = [
            [entry.b.select(fresh, constant(FLOATS, 0.0), entry.load(FLOATS, place, 4)) for place in row]
            for row in outputs
        ]
        sources = {
            name: [self._row(entry, arguments, name, m) for m in self.rows]
            for name in ("x", "scales", "sums")
        }
        entry.b.branch(loop)
        body = Body(loop)
        index = body.b.phi(I64)
        index.add_incoming(I64(0), block)
        totals = [[body.b.phi(FLOATS) for _ in self.tiles] for _ in self.rows]
        for row, start in zip(totals, first, strict=True):
            for phi, value in zip(row, start, strict=True):
                phi.add_incoming(value, block)
        results = self._block(body, index, arguments, sources, totals)
        following = body.b.add(index, I64(1))
        index.add_incoming(following, loop)
        for row, result in zip(totals, results, strict=True):
            for phi, value in zip(row, result, strict=True):
                phi.add_incoming(value, loop)
        body.b.cbranch(body.b.icmp_signed("<", following, arguments["blocks"]), loop, store)
        body = Body(store)
        for row, places in zip(results, outputs, strict=True):
            for value, place in zip(row, places, strict=True):
                body.store(value, place, 4)
        body.b.branch(end)

    @staticmethod
    def _row(body: Body, arguments: dict[str, Value], name: str, row: int) -> Value:
        stride = {"x": "x_stride", "out": "out_stride"}.get(name, "block_stride")
        return body.address(arguments[name], body.b.mul(arguments[stride], I64(row)))

    def _block(
        self,
        body: Body,
        index: Value,
        arguments: dict[str, Value],
        sources: dict[str, list[Value]],
        totals: Any,
    ) -> list[list[Value]]:
        """One block of 32 inputs: the new sums."""
        b = body.b
        at = b.mul(index, I64(BLOCK_BYTES[self.form]))
        weights = [
            body.address(body.address(arguments["weights"], b.mul(arguments["tile_stride"], I64(n))), at)
            for n in self.tiles
        ]
        for place in weights:
            for line in range(0, BLOCK_BYTES[self.form], 64):
                body.fetch(body.address(place, AHEAD_BYTES + line))
        inputs, four = b.mul(index, I64(BLOCK)), b.mul(index, I64(4))
        sums = self._integers(body, weights, [body.address(x, inputs) for x in sources["x"]], sources, four)
        scales = [b.fpext(body.load(HALVES, place, 32), FLOATS) for place in weights]
        if self.minimums:
            minimums = [b.fpext(body.load(HALVES, body.address(place, 32), 32), FLOATS) for place in weights]
        results = []
        for m in self.rows:
            scale = body.splat(body.load(F32, body.address(sources["scales"][m], four), 4), FLOATS)
            if self.minimums:
                total = body.splat(body.load(F32, body.address(sources["sums"][m], four), 4), FLOATS)
            row = []
            for n in self.tiles:
                result = body.fma(b.sitofp(sums[m][n], FLOATS), b.fmul(scales[n], scale), totals[m][n])
                row.append(body.fma(minimums[n], total, result) if self.minimums else result)
            results.append(row)
        return results

    def _integers(
        self,
        body: Body,
        weights: list[Value],
        inputs: list[Value],
        sources: dict[str, list[Value]],
        four: Value,
    ) -> list[list[Value]]:
        """Sums of the products of quants."""
        b = body.b
        sums = [[constant(INTS, 0) for _ in self.tiles] for _ in self.rows]
        if not self.minimums:
            for m in self.rows:
                total = body.load(I32, body.address(sources["sums"][m], four), 4)
                start = body.splat(b.mul(total, I32(-128 if self.bits == 8 else -8)), INTS)
                sums[m] = [start for _ in self.tiles]
        header = 64 if self.minimums else 32
        for vector in range(4 if self.bits == 4 else 8):
            packed = [body.load(BYTES, body.address(place, header + 64 * vector), 32) for place in weights]
            for group, quants in self._groups(body, vector, packed):
                for m in self.rows:
                    four_inputs = body.load(I32, body.address(inputs[m], 4 * group), 4)
                    repeated = b.bitcast(body.splat(four_inputs, INTS), BYTES)
                    for n in self.tiles:
                        sums[m][n] = _dot(body, sums[m][n], quants[n], repeated, self.bits == 8)
        return sums

    def _groups(self, body: Body, vector: int, packed: list[Value]) -> list[tuple[int, list[Value]]]:
        """Which four of the 32 inputs a vector's bytes belong to; its lower and upper four bits apart."""
        if self.bits == 8:
            return [(vector, packed)]
        b, mask = body.b, constant(BYTES, 15)
        shorts = ir.VectorType(I16, 32)
        lower = [b.and_(x, mask) for x in packed]
        upper = [
            b.and_(b.bitcast(b.lshr(b.bitcast(x, shorts), constant(shorts, 4)), BYTES), mask) for x in packed
        ]
        return [(vector, lower), (vector + 4, upper)]


_ARGUMENTS = (
    "form",
    "rows",
    "x",
    "x_stride",
    "scales",
    "sums",
    "block_stride",
    "weights",
    "tile_stride",
    "blocks",
    "out",
    "out_stride",
    "accumulate",
)


def _write_product(function: Any) -> None:
    """One tile for each form and count of rows, and a jump to the one that is asked for."""
    entry, end = function.append_basic_block("entry"), function.append_basic_block("end")
    ir.IRBuilder(end).ret_void()
    choice = Body(entry)
    form, rows = function.args[:2]
    key = choice.b.add(choice.b.mul(form, I64(MAX_ROWS)), choice.b.sub(rows, I64(1)))
    switch = choice.b.switch(key, end)
    for kind in range(len(BLOCK_BYTES)):
        for count in range(1, MAX_ROWS + 1):
            block = function.append_basic_block()
            switch.add_case(I64(kind * MAX_ROWS + count - 1), block)
            _Tile(kind, count, TILES).write(function, block, end)


@intrinsic
def _product_here(
    typing,
    form,
    rows,
    x,
    x_stride,
    scales,
    sums,
    block_stride,
    weights,
    tile_stride,
    blocks,
    out,
    out_stride,
    accumulate,
):
    return emitted("ridgeline_product_here", len(_ARGUMENTS), _write_product)


def _entry(
    form,
    rows,
    x,
    x_stride,
    scales,
    sums,
    block_stride,
    weights,
    tile_stride,
    blocks,
    out,
    out_stride,
    accumulate,
):
    _product_here(
        form,
        rows,
        x,
        x_stride,
        scales,
        sums,
        block_stride,
        weights,
        tile_stride,
        blocks,
        out,
        out_stride,
        accumulate,
    )


def provide_product() -> None:
    """Compile `product`, or load what was kept of it."""
    provided("ridgeline_product", _entry)


def product_function() -> Callable[..., None]:
    """`product`, to be called from Python."""
    function: Callable[..., None] = provided("ridgeline_product", _entry).ctypes
    return function


@intrinsic
def product(
    typing,
    form,
    rows,
    x,
    x_stride,
    scales,
    sums,
    block_stride,
    weights,
    tile_stride,
    blocks,
    out,
    out_stride,
    accumulate,
):
    """Multiply `rows` rows of activations with `TILES` tiles of 16 outputs.

    All arguments are int64; those that are not counts are addresses, strides are in bytes.

    Args:
        form: of the weights.
        rows: 1 to `MAX_ROWS`.
        x: int8 activations, `x_stride` from row to row.
        scales: float32 scale of each block of activations, `block_stride` from row to row.
        sums: of each block of activations: float32, scaled, for weights with minimums; else int32.
        weights: of the first tile, `tile_stride` from one to the next.
        blocks: of 32 inputs.
        out: float32, `out_stride` from row to row.
        accumulate: 1 to add to what is in `out`, 0 to replace it.
    """
    return external("ridgeline_product", len(_ARGUMENTS), provide_product)
