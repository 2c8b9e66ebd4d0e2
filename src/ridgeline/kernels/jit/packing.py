"""Weights in the order in which products read them.

    tile of 16 rows > block of 32 columns > 16 scales | 16 minimums, if any | quants

Scales and minimums are float16. Quants of 8 bits are eight vectors of 64 bytes: byte `4 * lane + b` of
vector g is the quant of row `lane` and column `4 * g + b`. Those of 4 bits are four such vectors, vector
p in the lower halves of its bytes and p + 4 in the upper ones; a block of a GGUF file has its quants in
that order too, so that bringing them here moves 16 bits at a time and computes nothing.

Rows are filled up with zeros to a whole number of tiles of the product.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ridgeline.kernels.jit.blocks import BLOCK, BlockMatrix, Bytes, Floats, check_columns, check_scales
from ridgeline.kernels.jit.memory import aligned_zeros
from ridgeline.kernels.jit.products import BLOCK_BYTES, FORM_4, FORM_4_MINIMUM, FORM_8
from ridgeline.kernels.jit.repacking import float_from_half, move, round_to_8_bits

Integers = npt.NDArray[np.int64]

TILE_ROWS = 16
ROWS_MULTIPLE = 2 * TILE_ROWS
"""Rows are filled up to a multiple of this: a product computes two tiles at a time."""

GATED_ROWS = 32
"""As many gates, then as many ups: together they make one block of the next product's inputs."""

_GGUF_FORMS = {"Q4_0": FORM_4, "Q4_1": FORM_4_MINIMUM, "Q8_0": FORM_8}


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """A matrix [rows (outputs), columns (inputs)] as products read it.

    Attributes:
        data: uint8, contiguous and aligned to 64 bytes.
        form: `FORM_4_MINIMUM`, `FORM_4` or `FORM_8` of `products`.
        rows: those of the model; `padded_rows` are stored.
        columns: a multiple of 32.
    """

    data: Bytes
    form: int
    rows: int
    columns: int

    @property
    def address(self) -> int:
        """Of the first byte."""
        return self.data.ctypes.data

    @property
    def padded_rows(self) -> int:
        """Rows with those that fill up the last tile: outputs of a product."""
        return padded(self.rows)

    @property
    def tile_bytes(self) -> int:
        """From one tile of 16 rows to the next."""
        return BLOCK_BYTES[self.form] * (self.columns // BLOCK)


def padded(rows: int) -> int:
    """Rows that are stored for a matrix of so many."""
    return -(-rows // ROWS_MULTIPLE) * ROWS_MULTIPLE


def packed_bytes(form: int, rows: int, columns: int) -> int:
    """Size of a packed matrix; a multiple of 64."""
    return BLOCK_BYTES[form] * (padded(rows) // TILE_ROWS) * (columns // BLOCK)


def zeros(form: int, rows: int, columns: int, data: Bytes | None = None) -> PackedMatrix:
    """A matrix to be filled by `pack_gguf` or `pack_floats`, in new memory or in `data`.

    Args:
        form: of the weights.
        rows: of the model.
        columns: of both.
        data: `packed_bytes` zeros, aligned to 64 bytes.

    Raises:
        ValueError: when columns are not a multiple of 32.
    """
    check_columns(columns)
    if data is None:
        data = aligned_zeros(packed_bytes(form, rows, columns))
    return PackedMatrix(data, form, rows, columns)


def interleave_gate_up(ffn: int) -> Integers:
    """Which row of gate and up, one after the other, each packed row holds.

    32 rows of gate, then the 32 of up that belong to them, and so on.

    Raises:
        ValueError: when `ffn` is not a multiple of 32.
    """
    check_columns(ffn)
    return np.arange(2 * ffn).reshape(2, -1, GATED_ROWS).swapaxes(0, 1).reshape(-1)


def inverse(order: Integers) -> Integers:
    """Where each row goes, of the row that each place holds."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return places


def form_of(matrix: BlockMatrix) -> int:
    """How a matrix will be packed."""
    if matrix.bits == 8 and matrix.minimums is not None:
        raise ValueError("weights of 8 bits have no minimums here")
    if matrix.bits == 8:
        return FORM_8
    return FORM_4 if matrix.minimums is None else FORM_4_MINIMUM


def pack(matrix: BlockMatrix, row_order: Integers | None = None) -> PackedMatrix:
    """A matrix as products read it; row i is row `row_order[i]` of `matrix`."""
    rows, columns = matrix.values.shape
    packed = zeros(form_of(matrix), rows, columns)
    order = np.arange(rows) if row_order is None else row_order
    halves, quants = _views(packed)
    for index, part in enumerate((matrix.scales, matrix.minimums)):
        if part is not None:
            halves[:, :, index] = _by_tiles(part[order], packed).swapaxes(1, 2)
    groups = _by_tiles(matrix.values[order], packed).reshape(-1, TILE_ROWS, columns // BLOCK, 8, 4)
    groups = groups.transpose(0, 2, 3, 1, 4)
    quants[...] = groups if matrix.bits == 8 else groups[:, :, :4] | groups[:, :, 4:] << 4
    return packed


def unpack(packed: PackedMatrix) -> BlockMatrix:
    """The matrix that was packed, rows as they lie."""
    halves, quants = _views(packed)
    if packed.form != FORM_8:
        quants = np.concatenate((quants & 15, quants >> 4), axis=2)
    values = quants.transpose(0, 3, 1, 2, 4).reshape(packed.padded_rows, -1)[: packed.rows]
    parts = [halves[:, :, i].swapaxes(1, 2).reshape(packed.padded_rows, -1) for i in range(halves.shape[2])]
    scales, *minimums = (part[: packed.rows] for part in parts)
    return BlockMatrix(values, 8 if packed.form == FORM_8 else 4, scales, *minimums)


def _views(packed: PackedMatrix) -> tuple[npt.NDArray[np.float16], Bytes]:
    """Scales and minimums [tiles, blocks, 1 or 2, lanes], and quants [tiles, blocks, vectors, lanes, 4]."""
    blocks = packed.data.reshape(-1, packed.columns // BLOCK, BLOCK_BYTES[packed.form])
    header = 64 if packed.form == FORM_4_MINIMUM else 32
    halves = blocks[..., :header].view(np.float16).reshape(*blocks.shape[:2], -1, TILE_ROWS)
    return halves, blocks[..., header:].reshape(*blocks.shape[:2], -1, TILE_ROWS, 4)


def _by_tiles(rows: npt.NDArray[Any], packed: PackedMatrix) -> npt.NDArray[Any]:
    """[rows, n] to [tiles, 16, n], zeros beyond the last row."""
    missing = packed.padded_rows - len(rows)
    return np.pad(rows, ((0, missing), (0, 0))).reshape(-1, TILE_ROWS, rows.shape[1])


def gguf_form(quantization: str) -> int | None:
    """The form of a GGUF quantisation that has one: those are packed as they are."""
    return _GGUF_FORMS.get(quantization)


def pack_gguf(raw: Bytes, out: PackedMatrix, places: Integers) -> None:
    """Bring stored rows of Q4_0, Q4_1 or Q8_0 to their places in a matrix of their form.

    Gives up the interpreter, and may run on several threads for different rows of a matrix.

    Args:
        raw: stored bytes (rows, bytes per row).
        out: where to.
        places: for each row of `raw`, the row of `out` that it becomes.
    """
    words = np.ascontiguousarray(raw).reshape(-1).view(np.uint16)
    move(_read_only(words), places, out.data.view(np.uint16), out.form, out.columns // BLOCK)


def pack_floats(weights: Floats, out: PackedMatrix, places: Integers) -> None:
    """Round rows to 8 bits, as `from_floats` does, and bring them to their places in a matrix of `FORM_8`.

    Gives up the interpreter, and may run on several threads for different rows of a matrix.

    Args:
        weights: float32 [rows, columns].
        out: where to.
        places: for each row of `weights`, the row of `out` that it becomes.

    Raises:
        ValueError: for numbers that are not finite, or too large for a float16 scale.
    """
    flat = _read_only(np.ascontiguousarray(weights).reshape(-1))
    if not round_to_8_bits(flat, places, out.data, out.data.view(np.uint16), out.columns // BLOCK):
        check_scales(np.array([np.inf], np.float16))


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # What can and what cannot be written to are different types, and each would be compiled.
    view = array.view()
    view.setflags(write=False)
    return view


@njit
def embedding_row(data, form, columns, row, out):
    """One row of a packed matrix as float32, exactly as `BlockMatrix.to_floats` has it.

    Args:
        data: of the packed matrix.
        form: of the packed matrix.
        columns: of both.
        row: as it lies.
        out: float32 [columns].
    """
    tile, lane = row // TILE_ROWS, row % TILE_ROWS
    blocks = columns // BLOCK
    has_minimums = form == FORM_4_MINIMUM
    offset = np.float32(0 if has_minimums else 128 if form == FORM_8 else 8)
    halves = data.view(np.uint16)
    for block in range(blocks):
        at = (tile * blocks + block) * BLOCK_BYTES[form]
        scale = float_from_half(halves[at // 2 + lane])
        # To add -0.0 changes nothing, not even a zero's sign.
        minimum = float_from_half(halves[at // 2 + TILE_ROWS + lane]) if has_minimums else np.float32(-0.0)
        at += (4 if has_minimums else 2) * TILE_ROWS + 4 * lane
        for i in range(BLOCK):
            if form == FORM_8:
                quant = data[at + 4 * TILE_ROWS * (i // 4) + i % 4]
            else:
                quant = data[at + 4 * TILE_ROWS * (i % 16 // 4) + i % 4] >> (i // 16 * 4) & 15
            out[BLOCK * block + i] = (np.float32(quant) - offset) * scale + minimum
