"""The parts of a step that are products: activations with packed weights, and what goes with them.

A product is *wide* where the step's is, see `wide`; then its thread has a panel, whose address is given.
"""

from typing import Any, NamedTuple

from numba import njit

from ridgeline.kernels.jit.activations import add_16, quantise_block, silu_mul_16
from ridgeline.kernels.jit.products import BLOCK, BLOCK_BYTES, FORM_4_MINIMUM, MAX_ROWS, TILES, product
from ridgeline.kernels.jit.team import finish, take, take_from
from ridgeline.kernels.jit.wide import (
    BLOCK_PANEL_BYTES,
    PANEL_BLOCKS,
    PANEL_TILES,
    ROWS,
    TILE_BYTES,
    activate_rows,
    multiply_panel,
    round_blocks,
    unpack_panel,
)

_UNIT_BYTES = 24 << 10
"""Of weights, that a thread takes at once where little is computed with each."""

_ROWS_AT_ONCE = 42 * 6
"""Activations that stay in the second cache while the weights pass by."""

_WIDE_BYTES_AT_ONCE = 1536 << 10
"""Of activations in bfloat16, the same."""

GATED_TILES = 4
"""Tiles of 16 outputs for 32 gates and as many ups: they make one block of the next product's inputs."""

_GATED_PANELS = GATED_TILES // PANEL_TILES

_PANEL_ROW_BYTES = 64 * PANEL_TILES
_GATED_ROW_BYTES = 64 * GATED_TILES
_GATED_ROWS = 8 * ROWS
"""At a time, where sums of gates and ups wait for further passes."""

GATED_BYTES = max(_GATED_ROW_BYTES * MAX_ROWS, _PANEL_ROW_BYTES * _GATED_ROWS)
"""Of the scratch that `gate` needs."""


PANEL_BYTES = BLOCK_PANEL_BYTES * PANEL_BLOCKS
"""Of memory that each thread needs for wide products."""


class Matrix(NamedTuple):
    """Packed weights: how they are stored, and the addresses of them and of float32 biases; 0 for none."""

    form: Any
    weights: Any
    bias: Any


@njit(inline="always")
def address_of(array, row, offset_bytes):
    """Of something in a row of a matrix."""
    return array.ctypes.data + row * array.strides[0] + offset_bytes


@njit(inline="always")
def wide_address(x, row, block):
    """Of a block of a row, where activations lie as wide products take them."""
    tile = row // 16 * x.scales.shape[1] + block
    return x.rounded.ctypes.data + tile * TILE_BYTES + row % 16 * (TILE_BYTES // 16)


@njit
def convert(source, row, column, columns, wide, into):
    """Make activations of `columns` float32 at the address `source`: in a row, from a column on."""
    if wide:
        round_blocks(source, columns // BLOCK, wide_address(into, row, column // BLOCK))
        return
    for block in range(columns // BLOCK):
        at = column // BLOCK + block
        quantise_block(
            source + 4 * BLOCK * block,
            address_of(into.values, row, column + BLOCK * block),
            address_of(into.scales, row, 4 * at),
            address_of(into.counts, row, 4 * at),
            address_of(into.totals, row, 4 * at),
        )


@njit
def _tiles(matrix, x, splits, first, rows, tile, out, out_stride, accumulate):
    """`TILES` tiles of outputs, from `tile` on, of rows of activations."""
    form = matrix.form
    blocks = x.scales.shape[1]
    stride = BLOCK_BYTES[form] * blocks
    sums_address = x.totals.ctypes.data if form == FORM_4_MINIMUM else x.counts.ctypes.data
    done = 0
    while done < rows:
        part = splits[form, min(rows - done, splits.shape[1] - 1)]
        row = first + done
        product(
            form,
            part,
            address_of(x.values, row, 0),
            x.values.shape[1],
            address_of(x.scales, row, 0),
            sums_address + row * 4 * blocks,
            4 * blocks,
            matrix.weights + tile * stride,
            stride,
            blocks,
            out + done * out_stride,
            out_stride,
            accumulate,
        )
        done += part


@njit
def rows_of_group(tokens, groups, group):
    """First row and end of a group of a wide step's rows, all but the last being multiples of `ROWS`."""
    size = -(-tokens // (ROWS * groups)) * ROWS
    return min(group * size, tokens), min((group + 1) * size, tokens)


@njit
def take_rows(shared, part, thread, tokens, groups, at_once, columns):
    """The next unit of a part whose units are `at_once` rows of a group by one of some columns.

    Returns:
        Its first row, their end, and its column; a first row of -1 when none is left.
    """
    for i in range(groups):
        group = (thread + i) % groups
        begin, end = rows_of_group(tokens, groups, group)
        unit = take_from(shared, part, group)
        if unit < -(-(end - begin) // at_once) * columns:
            first = begin + unit // columns * at_once
            return first, min(first + at_once, end), unit % columns
    return -1, -1, -1


@njit
def finish_rows(shared, part, done, tokens, groups, at_once, columns):
    """`finish` for a part whose units come from `take_rows`."""
    units = 0
    for group in range(groups):
        first, end = rows_of_group(tokens, groups, group)
        units += -(-(end - first) // at_once) * columns
    finish(shared, part, done, units)


@njit
def _rows_at_once(columns):
    """How many rows of activations to do in a unit of a wide product."""
    return max(ROWS, _WIDE_BYTES_AT_ONCE // (2 * columns) // ROWS * ROWS)


@njit
def _passes(blocks):
    """How many panels, one after the other, make all inputs of an output."""
    return -(-blocks // PANEL_BLOCKS)


@njit
def _unpack_pass(matrix, tile, tile_step, blocks, i, panel):
    """The panel of a pass, of a tile and the one `tile_step` after it.

    Returns:
        Its first block of inputs, and the end of them.
    """
    size = -(-blocks // _passes(blocks))
    begin, end = i * size, min((i + 1) * size, blocks)
    block_bytes = BLOCK_BYTES[matrix.form]
    weights = matrix.weights + (tile * blocks + begin) * block_bytes
    unpack_panel(matrix.form, weights, tile_step * blocks * block_bytes, end - begin, panel)
    return begin, end


@njit
def _multiply_rows(x, first, end, begin_block, end_block, panel, out, out_stride, accumulate):
    """Rows from `first` to before `end`, filled up to 16, with a panel; `out` is where the first goes."""
    row = first
    while row < end:
        tiles = 2 if end - row > ROWS // 2 else 1
        multiply_panel(
            tiles,
            wide_address(x, row, begin_block),
            TILE_BYTES // 16,
            TILE_BYTES,
            TILE_BYTES * x.scales.shape[1],
            panel,
            end_block - begin_block,
            out + (row - first) * out_stride,
            out_stride,
            accumulate,
        )
        row += tiles * (ROWS // 2)


@njit
def _multiply_wide_unit(matrix, x, first, end, column, out, accumulate, panel):
    blocks, tile = x.scales.shape[1], column * PANEL_TILES
    place = address_of(out, first, 64 * tile)
    for i in range(_passes(blocks)):
        begin_block, end_block = _unpack_pass(matrix, tile, 1, blocks, i, panel)
        onto = 1 if i else accumulate
        _multiply_rows(x, first, end, begin_block, end_block, panel, place, out.strides[0], onto)
    if matrix.bias:
        for row in range(first, end):
            for i in range(tile, tile + PANEL_TILES):
                add_16(matrix.bias + 64 * i, address_of(out, row, 64 * i))


@njit
def _multiply_wide(shared, part, matrix, x, tokens, out, accumulate, panels, thread, groups):
    panel, columns = address_of(panels, thread, 0), out.shape[1] // (16 * PANEL_TILES)
    at_once, done = _rows_at_once(x.rounded.shape[1]), 0
    first, end, column = take_rows(shared, part, thread, tokens, groups, at_once, columns)
    while first >= 0:
        _multiply_wide_unit(matrix, x, first, end, column, out, accumulate, panel)
        done += 1
        first, end, column = take_rows(shared, part, thread, tokens, groups, at_once, columns)
    finish_rows(shared, part, done, tokens, groups, at_once, columns)


@njit
def multiply(shared, part, matrix, x, splits, tokens, out, accumulate, panels, thread, groups):
    """A product of activations with packed weights, into or onto float32 `out` [tokens, outputs]."""
    if panels.shape[0]:
        _multiply_wide(shared, part, matrix, x, tokens, out, accumulate, panels, thread, groups)
        return
    pairs = out.shape[1] // (16 * TILES)
    pair_bytes = TILES * BLOCK_BYTES[matrix.form] * x.scales.shape[1]
    grain = max(1, _UNIT_BYTES // pair_bytes) if tokens <= MAX_ROWS else 1
    columns = -(-pairs // grain)
    chunks = -(-tokens // _ROWS_AT_ONCE)
    units, done = columns * chunks, 0
    unit = take(shared, part)
    while unit < units:
        first = unit // columns * _ROWS_AT_ONCE
        rows = min(tokens - first, _ROWS_AT_ONCE)
        begin = unit % columns * grain
        end = min(begin + grain, pairs)
        for tile in range(TILES * begin, TILES * end, TILES):
            place = address_of(out, first, 64 * tile)
            _tiles(matrix, x, splits, first, rows, tile, place, out.strides[0], accumulate)
        if matrix.bias:
            for row in range(first, first + rows):
                for tile in range(TILES * begin, TILES * end):
                    add_16(matrix.bias + 64 * tile, address_of(out, row, 64 * tile))
        done += 1
        unit = take(shared, part)
    finish(shared, part, done, units)


@njit
def _add_gated_bias(matrix, place, column):
    if matrix.bias:
        for tile in range(GATED_TILES):
            add_16(matrix.bias + 64 * (GATED_TILES * column + tile), place + 64 * tile)


@njit
def _activate(matrix, place, row, column, gated):
    """silu(gate) * up of 32 gates and their ups at an address, as activations."""
    _add_gated_bias(matrix, place, column)
    silu_mul_16(place, place + 128, place)
    silu_mul_16(place + 64, place + 192, place + 64)
    convert(place, row, BLOCK * column, BLOCK, 0, gated)


@njit
def _activate_wide(matrix, place, row, rows, column, half, gated):
    if matrix.bias:
        for j in range(rows):
            for i in range(PANEL_TILES):
                tile = GATED_TILES * column + _GATED_PANELS * i + half
                add_16(matrix.bias + 64 * tile, place + j * _PANEL_ROW_BYTES + 64 * i)
    for j in range(0, rows, 16):
        target = wide_address(gated, row + j, column)
        activate_rows(place + j * _PANEL_ROW_BYTES, _PANEL_ROW_BYTES, min(16, rows - j), half, target)


@njit
def _gate_wide_unit(matrix, x, first, end, column, scratch, gated, panel):
    """A block of activations of some rows: 16 gates and their ups for each half."""
    blocks = x.scales.shape[1]
    last = _passes(blocks) - 1
    for half in range(_GATED_PANELS):
        for i in range(last + 1):
            tile = GATED_TILES * column + half
            begin_block, end_block = _unpack_pass(matrix, tile, _GATED_PANELS, blocks, i, panel)
            for row in range(first, end, ROWS):
                rows = min(ROWS, end - row)
                # What one pass completes need not leave the first cache.
                place = scratch + (row - first) * _PANEL_ROW_BYTES if last else scratch
                _multiply_rows(
                    x, row, row + rows, begin_block, end_block, panel, place, _PANEL_ROW_BYTES, min(i, 1)
                )
                if i == last:
                    _activate_wide(matrix, place, row, rows, column, half, gated)


@njit
def _gate_wide(shared, part, matrix, x, tokens, scratch, gated, panels, thread, groups):
    panel, columns = address_of(panels, thread, 0), gated.scales.shape[1]
    at_once, done = _rows_at_once(x.rounded.shape[1]), 0
    if _passes(x.scales.shape[1]) > 1:
        at_once = min(at_once, _GATED_ROWS)
    first, end, column = take_rows(shared, part, thread, tokens, groups, at_once, columns)
    while first >= 0:
        _gate_wide_unit(matrix, x, first, end, column, scratch, gated, panel)
        done += 1
        first, end, column = take_rows(shared, part, thread, tokens, groups, at_once, columns)
    finish_rows(shared, part, done, tokens, groups, at_once, columns)


@njit
def gate(shared, part, matrix, x, splits, tokens, scratch, gated, panels, thread, groups):
    """The product with gate and up, silu(gate) * up, and that as activations."""
    if panels.shape[0]:
        _gate_wide(shared, part, matrix, x, tokens, scratch, gated, panels, thread, groups)
        return
    columns = gated.scales.shape[1]
    chunks = -(-tokens // _ROWS_AT_ONCE)
    units, done = columns * chunks, 0
    unit = take(shared, part)
    while unit < units:
        begin = unit // columns * _ROWS_AT_ONCE
        column = unit % columns
        end = min(tokens, begin + _ROWS_AT_ONCE)
        first = begin
        while first < end:
            rows = splits[matrix.form, min(end - first, splits.shape[1] - 1)]
            for tile in range(0, GATED_TILES, TILES):
                place = scratch + 64 * tile
                _tiles(
                    matrix, x, splits, first, rows, GATED_TILES * column + tile, place, 64 * GATED_TILES, 0
                )
            for row in range(rows):
                _activate(matrix, scratch + row * 64 * GATED_TILES, first + row, column, gated)
            first += rows
        done += 1
        unit = take(shared, part)
    finish(shared, part, done, units)
