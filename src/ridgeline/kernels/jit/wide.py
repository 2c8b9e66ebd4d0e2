"""Products of many rows: bfloat16 activations with packed weights, on a processor with AMX tiles.

A panel is two tiles of 16 outputs over all inputs, their weights turned into bfloat16 once for all rows
that they meet; the sums of 32 rows by 32 outputs then stay in the processor's tiles. For a few rows
turning weights costs more than it gives, and `products` does them as they are stored.

    panel: block of 32 inputs > tile of 16 outputs > 16 pairs of inputs > 16 outputs > 2 inputs
    activations: 16 rows > block of 32 inputs > row > 32 inputs

Inputs of a block stand in the order `ORDER`, here and in activations: so that pairs come out of packed
quants by a shift and a mask.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from ridgeline.kernels.jit.activations import silu_product
from ridgeline.kernels.jit.attention_math import LINE_BYTES, counted
from ridgeline.kernels.jit.ir import (
    BRAIN_FLOATS,
    F32,
    FLOATS,
    HALVES,
    I8,
    I16,
    I32,
    I64,
    INTS,
    SHORT_PAIRS,
    VOID,
    Body,
    Value,
    constant,
    emitted,
    provided,
)
from ridgeline.kernels.jit.products import AHEAD_BYTES, BLOCK_BYTES, FORM_4_MINIMUM, FORM_8
from ridgeline.kernels.jit.target import has_tiles

ROWS = 32
"""Of activations that a panel is multiplied with at a time; memory of rows is filled up to such a number."""

PANEL_TILES = 2
BLOCK_PANEL_BYTES = 1024 * PANEL_TILES
"""Of a panel, for each block of 32 inputs."""

PANEL_BLOCKS = 18
"""At most, of a panel that stays in the first cache while activations pass by: 36 of its 48 KB."""

TILE_BYTES = 1024
"""Of 16 rows of a block of activations."""

ORDER = [4 * quad + 16 * half + i for quad in range(4) for half in (0, 1) for i in (0, 2, 1, 3)]
"""Which input of a block of 32 stands where."""

_PAIR_ORDER = [(vector % 4 * 4 + vector // 4 * 2 + i, vector, i) for vector in range(8) for i in (0, 1)]
"""Of 8 vectors of four bytes for each output: which pair of the panel is in which vector, and whether in
the even or in the odd bytes."""


def tile_configuration() -> Any:
    """What `configure` loads: eight tiles of 16 rows of 64 bytes."""
    found = np.zeros(64, np.uint8)
    found[0] = 1
    found[16:32].view(np.uint16)[:] = 64
    found[48:56] = 16
    return found


def _pointer(body: Body, address: Value) -> Value:
    return body.b.inttoptr(address, I8.as_pointer())


def guarded(write: Any) -> Any:
    """A body that is empty where the processor has no tiles: nobody calls it there."""

    def write_or_not(function: Any) -> None:
        if has_tiles():
            write(function)
        else:
            ir.IRBuilder(function.append_basic_block()).ret_void()

    return write_or_not


def _configure(function: Any) -> None:
    body = Body(function.append_basic_block())
    body.call("llvm.x86.ldtilecfg", VOID, _pointer(body, function.args[0]))
    body.b.ret_void()


@intrinsic
def configure(typing, configuration):
    """Make this thread's tiles ready; the address of a `tile_configuration`."""
    return emitted("ridgeline_wide_configure", 1, guarded(_configure))


def _release(function: Any) -> None:
    body = Body(function.append_basic_block())
    body.call("llvm.x86.tilerelease", VOID)
    body.b.ret_void()


@intrinsic
def release(typing):
    """This thread is done with its tiles, which the system need not save any more."""
    return emitted("ridgeline_wide_release", 0, guarded(_release))


def _field(body: Body, vector: Value, at: int, bits: int) -> Value:
    """Bits from `at` on of each int32 as a float: 1 + field / 2^bits."""
    b = body.b
    shift = 23 - bits - at
    moved = b.shl(vector, constant(INTS, shift)) if shift >= 0 else b.lshr(vector, constant(INTS, -shift))
    mask = ((1 << bits) - 1) << (23 - bits)
    one = constant(INTS, 0x3F800000)
    return b.bitcast(b.or_(b.and_(moved, constant(INTS, mask)), one), FLOATS)


def _unpack_block(body: Body, form: int, source: Value, target: Value) -> None:
    """A block of a tile of 16 outputs as bfloat16."""
    b = body.b
    bits = 8 if form == FORM_8 else 4
    scale = b.fpext(body.load(HALVES, source, 32), FLOATS)
    # A field is 1 + quant / 2^bits; the 1 comes off with the minimum.
    factor = b.fmul(scale, constant(FLOATS, float(1 << bits)))
    if form == FORM_4_MINIMUM:
        minimum = b.fpext(body.load(HALVES, body.address(source, 32), 32), FLOATS)
        term = b.fsub(minimum, factor)
    else:
        term = b.fmul(scale, constant(FLOATS, -float((1 << bits) + (1 << bits) // 2)))
    header = 64 if form == FORM_4_MINIMUM else 32
    for line in range(0, BLOCK_BYTES[form], 64):
        body.fetch(body.address(source, AHEAD_BYTES + line))
    packed = [body.load(INTS, body.address(source, header + 64 * i), 32) for i in range(bits)]
    for pair, vector, odd in _PAIR_ORDER:
        quants = packed[vector if form == FORM_8 else vector % 4]
        at = 8 * odd + (0 if form == FORM_8 or vector < 4 else 4)
        halves = []
        for place in (at, at + 16):
            weights = body.fma(_field(body, quants, place, bits), factor, term)
            halves.append(b.add(b.bitcast(weights, INTS), constant(INTS, 0x8000)))
        lower = b.lshr(halves[0], constant(INTS, 16))
        upper = b.and_(halves[1], constant(INTS, 0xFFFF0000))
        body.store(b.or_(lower, upper), body.address(target, 64 * pair), 64)


def _unpack(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    form, weights, tile_stride, blocks, panel = function.args
    for kind, block_bytes in enumerate(BLOCK_BYTES):
        with b.if_then(b.icmp_signed("==", form, I64(kind))), counted(body, blocks) as index:
            for tile in range(PANEL_TILES):
                source = body.address(weights, b.mul(tile_stride, I64(tile)))
                source = body.address(source, b.mul(index, I64(block_bytes)))
                target = body.address(panel, b.mul(index, I64(BLOCK_PANEL_BYTES)))
                _unpack_block(body, kind, source, body.address(target, 1024 * tile))
    b.ret_void()


@intrinsic
def unpack_panel(typing, form, weights, tile_stride, blocks, panel):
    """Turn the weights of two tiles into a panel.

    Args:
        form: of the weights.
        weights: address of the first tile, `tile_stride` bytes from one to the next.
        blocks: of 32 inputs.
        panel: address of `BLOCK_PANEL_BYTES` a block, a multiple of 64.
    """
    return emitted("ridgeline_wide_unpack", 5, guarded(_unpack))


_MULTIPLY = "tiles x x_row x_block x_tile panel blocks out out_stride accumulate".split()
_SUMS, _INPUTS, _WEIGHTS = 0, 4, 6
"""The first of the processor's tiles that are for each."""


def _sums(tiles: int) -> list[tuple[int, int, Value]]:
    """Sums of 16 rows by 16 outputs: which of each, and their tile."""
    return [(m, n, I8(_SUMS + PANEL_TILES * m + n)) for m in range(tiles) for n in range(PANEL_TILES)]


def _sum_place(body: Body, given: dict[str, Value], m: int, n: int) -> Value:
    row = body.address(given["out"], body.b.mul(given["out_stride"], I64(16 * m)))
    return _pointer(body, body.address(row, 64 * n))


def _zero_sums(body: Body, tiles: int) -> None:
    for _, _, tile in _sums(tiles):
        body.call("llvm.x86.tilezero", VOID, tile)


def _load_sums(body: Body, given: dict[str, Value], tiles: int) -> None:
    for m, n, tile in _sums(tiles):
        body.call("llvm.x86.tileloadd64", VOID, tile, _sum_place(body, given, m, n), given["out_stride"])


def _store_sums(body: Body, given: dict[str, Value], tiles: int) -> None:
    for m, n, tile in _sums(tiles):
        body.call("llvm.x86.tilestored64", VOID, tile, _sum_place(body, given, m, n), given["out_stride"])


def _add_products(body: Body, given: dict[str, Value], tiles: int) -> None:
    b = body.b
    with counted(body, given["blocks"]) as index:
        at = b.mul(index, I64(BLOCK_PANEL_BYTES))
        weights = [body.address(body.address(given["panel"], at), 1024 * n) for n in range(PANEL_TILES)]
        inputs = body.address(given["x"], b.mul(index, given["x_block"]))

        def load_inputs(m: int) -> None:
            # With the hint that they are not needed again soon: they pass by the panel, which should
            # stay in the first cache.
            place = _pointer(body, body.address(inputs, b.mul(given["x_tile"], I64(m))))
            body.call("llvm.x86.tileloaddt164", VOID, I8(_INPUTS + m), place, given["x_row"])

        def load_weights(n: int) -> None:
            place = _pointer(body, weights[n])
            body.call("llvm.x86.tileloadd64", VOID, I8(_WEIGHTS + n), place, I64(64))

        # Loads stand between products, so that those of the next block come while the last ones are computed.
        load_inputs(0)
        load_weights(0)
        for m, n, tile in _sums(tiles):
            if (m, n) == (0, 1):
                load_weights(1)
            if (m, n) == (1, 0):
                load_inputs(1)
            body.call("llvm.x86.tdpbf16ps", VOID, tile, I8(_INPUTS + m), I8(_WEIGHTS + n))


def _multiply(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    given = dict(zip(_MULTIPLY, function.args, strict=True))
    for tiles in (1, 2):
        with b.if_then(b.icmp_signed("==", given["tiles"], I64(tiles))):
            with b.if_else(b.icmp_signed("==", given["accumulate"], I64(0))) as (fresh, more):
                with fresh:
                    _zero_sums(body, tiles)
                with more:
                    _load_sums(body, given, tiles)
            _add_products(body, given, tiles)
            _store_sums(body, given, tiles)
    b.ret_void()


@intrinsic
def multiply_panel(typing, tiles, x, x_row, x_block, x_tile, panel, blocks, out, out_stride, accumulate):
    """Multiply 16 or 32 rows of activations with a panel. All but counts are addresses or bytes.

    Args:
        tiles: of 16 rows, 1 or 2.
        x: bfloat16 activations, inputs in the order of the panel's.
        x_row, x_block, x_tile: from row to row, block to block, and 16 rows to the next.
        panel: from `unpack_panel`.
        blocks: of 32 inputs.
        out: float32 [16 * tiles, 32], `out_stride` from row to row.
        accumulate: 1 to add to what is in `out`, 0 to replace it.
    """
    return emitted("ridgeline_wide_multiply", len(_MULTIPLY), guarded(_multiply))


_START = "x x_row x_block x_tile panel blocks".split()


def _start(function: Any) -> None:
    body = Body(function.append_basic_block())
    _zero_sums(body, 2)
    _add_products(body, dict(zip(_START, function.args, strict=True)), 2)
    body.b.ret_void()


@intrinsic
def start_panel(typing, x, x_row, x_block, x_tile, panel, blocks):
    """`multiply_panel` of 32 rows, whose sums stay in tiles: whoever does not need them at once goes on."""
    return emitted("ridgeline_wide_start", len(_START), guarded(_start))


def _store_panel(function: Any) -> None:
    body = Body(function.append_basic_block())
    _store_sums(body, dict(zip(("out", "out_stride"), function.args, strict=True)), 2)
    body.b.ret_void()


@intrinsic
def store_panel(typing, out, out_stride):
    """Sums of the last `start_panel`, float32 [32, 32], `out_stride` from row to row."""
    return emitted("ridgeline_wide_store", 2, guarded(_store_panel))


_SHORTS = ir.VectorType(I16, 16)


def rounded(body: Body, vector: Value) -> Value:
    """16 float32 as bfloat16, to the nearest, to even where two are as near; nan stays nan."""
    b = body.b
    bits = b.bitcast(vector, INTS)
    lowest = b.and_(b.lshr(bits, constant(INTS, 16)), constant(INTS, 1))
    whole = b.lshr(b.add(b.add(bits, constant(INTS, 0x7FFF)), lowest), constant(INTS, 16))
    is_number = b.fcmp_ordered("ord", vector, vector)
    return b.trunc(b.select(is_number, whole, constant(INTS, 0x7FC0)), _SHORTS)


def brain_floats(body: Body, lower: Value, upper: Value) -> Value:
    """Two vectors as one of bfloat16, as `rounded` does but for the smallest numbers, which become 0."""
    return body.call("llvm.x86.avx512bf16.cvtne2ps2bf16.512", BRAIN_FLOATS, upper, lower)


def _store_block(body: Body, lower: Value, upper: Value, target: Value) -> None:
    lanes = ir.Constant(ir.VectorType(I32, 2 * 16), [I32(i) for i in ORDER])
    both = body.b.shuffle_vector(rounded(body, lower), rounded(body, upper), lanes)
    body.store(both, target, 2)


def _round_blocks(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    source, blocks, target = function.args
    with counted(body, blocks) as index:
        place = body.address(source, b.mul(index, I64(2 * LINE_BYTES)))
        lower, upper = (body.load(FLOATS, body.address(place, at), 4) for at in (0, LINE_BYTES))
        _store_block(body, lower, upper, body.address(target, b.mul(index, I64(TILE_BYTES))))
    b.ret_void()


def _norm_blocks(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    source, weight, factor_place, blocks, target = function.args
    factor = body.splat(body.load(F32, factor_place, 4), FLOATS)
    lanes = ir.Constant(ir.VectorType(I32, len(ORDER)), [I32(i) for i in ORDER])
    with counted(body, blocks) as index:
        at, normed = b.mul(index, I64(2 * LINE_BYTES)), []
        for half in (0, LINE_BYTES):
            x, w = (body.load(FLOATS, body.address(body.address(y, at), half), 4) for y in (source, weight))
            normed.append(b.fmul(b.fmul(x, factor), w))
        both = b.bitcast(brain_floats(body, *normed), SHORT_PAIRS)
        ordered = b.shuffle_vector(both, ir.Constant(SHORT_PAIRS, ir.Undefined), lanes)
        body.store(ordered, body.address(target, b.mul(index, I64(TILE_BYTES))), 2)
    b.ret_void()


@intrinsic
def norm_blocks(typing, source, weight, factor, blocks, target):
    """Norm a row, and make activations of it.

    Args:
        source: address of the row, float32 [blocks * 32].
        weight: address of the norm's weights, the same.
        factor: address of one float32, see `activations.norm_factor`.
        blocks: of 32.
        target: address of the row's place in its first block, in the order of panels.
    """
    return emitted("ridgeline_wide_norm_blocks", 5, guarded(_norm_blocks))


def _activate_row(body: Body, place: Value, target: Value, is_upper: Value) -> None:
    b = body.b
    gate, up = (body.load(FLOATS, body.address(place, at), 4) for at in (0, 64))
    # Of nan a number may become only by bits that no computation gives.
    bits = b.add(b.bitcast(silu_product(body, gate, up, True), INTS), constant(INTS, 0x8000))
    # The upper 16 bits of each, where those of its half stand; the other half's places are not written.
    lanes = ir.Constant(ir.VectorType(I32, len(ORDER)), [I32(2 * (i % 16) + 1) for i in ORDER])
    halves = b.bitcast(bits, SHORT_PAIRS)
    spread = b.shuffle_vector(halves, ir.Constant(SHORT_PAIRS, ir.Undefined), lanes)
    masks = [sum((i // 16 == half) << place for place, i in enumerate(ORDER)) for half in (0, 1)]
    mask = b.bitcast(
        b.select(is_upper, I32(masks[1]), I32(masks[0])), ir.VectorType(ir.IntType(1), len(ORDER))
    )
    address = b.inttoptr(target, SHORT_PAIRS.as_pointer())
    body.call("llvm.masked.store.v32i16.p0", VOID, spread, address, I32(2), mask)


def _activate_rows(function: Any) -> None:
    body = Body(function.append_basic_block())
    b = body.b
    source, row_bytes, rows, half, target = function.args
    is_upper = b.icmp_signed("!=", half, I64(0))
    with counted(body, rows) as index:
        place = body.address(source, b.mul(index, row_bytes))
        _activate_row(body, place, body.address(target, b.mul(index, I64(TILE_BYTES // 16))), is_upper)
    b.ret_void()


@intrinsic
def activate_rows(typing, source, row_bytes, rows, half, target):
    """`silu(gate) * up` of up to 16 rows of 16 gates and 16 ups, as half a block of activations.

    Args:
        source: address of float32 [rows, 32], `row_bytes` from row to row.
        rows: how many.
        half: of each row's block, 0 or 1: the first 16 of its activations or the others.
        target: address of the tile; its other half is left as it is.
    """
    return emitted("ridgeline_wide_activate_rows", 5, guarded(_activate_rows))


@intrinsic
def round_blocks(typing, source, blocks, target):
    """`blocks` times 32 float32 as activations; see `norm_blocks`."""
    return emitted("ridgeline_wide_round_blocks", 3, _round_blocks)


def _round_row(function: Any) -> None:
    body = Body(function.append_basic_block())
    source, vectors, target = function.args
    with counted(body, vectors) as index:
        vector = body.load(FLOATS, body.address(source, body.b.mul(index, I64(64))), 4)
        body.store(rounded(body, vector), body.address(target, body.b.mul(index, I64(32))), 2)
    body.b.ret_void()


@intrinsic
def round_row(typing, source, vectors, target):
    """`vectors` times 16 float32 at `source` as bfloat16 at `target`, in their order."""
    return emitted("ridgeline_wide_round_row", 3, _round_row)


def _entry(form, weights, tile_stride, blocks, panel, tiles, x, out, configuration):
    configure(configuration)
    unpack_panel(form, weights, tile_stride, blocks, panel)
    row_bytes = TILE_BYTES // 16
    multiply_panel(
        tiles, x, row_bytes, TILE_BYTES, TILE_BYTES * blocks, panel, blocks, out, 64 * PANEL_TILES, 0
    )
    release()


def wide_product() -> Callable[..., None]:
    """A whole wide product of 16 or 32 rows with two tiles, to be called from Python.

    Its arguments are those of `unpack_panel`, then `tiles`, `x` and `out` of `multiply_panel`, then the
    address of a `tile_configuration`.
    """
    function: Callable[..., None] = provided("ridgeline_wide_product", _entry).ctypes
    return function
