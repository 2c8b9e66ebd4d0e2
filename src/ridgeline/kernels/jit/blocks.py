"""Matrices in blocks of 32 inputs, each with a scale and maybe a minimum.

Blocks of this kind are what GGUF files hold as Q4_0, Q4_1 and Q8_0, and what products of int8
activations read. This is the plain form; `packing` has the same numbers in the order of the kernels.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]

BLOCK = 32
"""Columns that share a scale."""

_PARTS_OF_RANGE = np.linspace(1.0, 0.7, 7)
"""Tried for 4 bits: to cut off an outlier may make all others finer."""

_WEIGHTS_AT_ONCE = 1 << 20
"""Brought to 4 bits at a time, so that what is in between stays small."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockMatrix:
    """A matrix [rows (outputs), columns (inputs)] whose blocks lie along its columns.

    A weight is `scale * q + minimum`, or without minimums `scale * (q - 2 ** (bits - 1))`.

    Attributes:
        values: q, uint8 [rows, columns], under 2 ** bits.
        bits: 4 or 8.
        scales: float16 [rows, columns / 32].
        minimums: the same; None where there are none.
    """

    values: Bytes
    bits: Literal[4, 8]
    scales: Halves
    minimums: Halves | None = None

    def to_floats(self) -> Floats:
        """The weights, float32 [rows, columns]."""
        blocks = _in_blocks(self.values).astype(np.float32)
        if self.minimums is None:
            blocks -= 1 << (self.bits - 1)
        blocks *= _wide(self.scales)
        if self.minimums is not None:
            blocks += _wide(self.minimums)
        return blocks.reshape(self.values.shape)


def check_columns(columns: int) -> None:
    """Raise ValueError unless whole blocks fill a row."""
    if columns % BLOCK:
        raise ValueError(f"{columns} columns are no whole number of blocks of {BLOCK}")


def check_scales(*scales: Halves) -> None:
    """Raise ValueError for scales that came of weights that no scale fits."""
    if not all(np.isfinite(part).all() for part in scales):
        raise ValueError("weights are not finite, or too large for blocks with a float16 scale")


def from_gguf(quantization: str, raw: Bytes) -> BlockMatrix | None:
    """The numbers of a tensor of a GGUF file, exactly; None for what is not made of such blocks.

    Args:
        quantization: GGUF's name, `Q4_1`.
        raw: the stored bytes, (rows, bytes per row).
    """
    if quantization == "Q4_0":
        blocks = raw.reshape(len(raw), -1, 18)
        return BlockMatrix(_nibbles(blocks[..., 2:]), 4, _half(blocks, 0))
    if quantization == "Q4_1":
        blocks = raw.reshape(len(raw), -1, 20)
        return BlockMatrix(_nibbles(blocks[..., 4:]), 4, _half(blocks, 0), _half(blocks, 2))
    if quantization == "Q8_0":
        blocks = raw.reshape(len(raw), -1, 34)
        # An int8 with its top bit turned over is the same number plus 128.
        return BlockMatrix((blocks[..., 2:] ^ np.uint8(0x80)).reshape(len(raw), -1), 8, _half(blocks, 0))
    return None


def from_floats(weights: npt.NDArray[Any], bits: Literal[4, 8]) -> BlockMatrix:
    """The nearest matrix in blocks: 8 bits without minimums, 4 bits with.

    Args:
        weights: [rows, columns], of any float dtype.
        bits: of a weight.

    Raises:
        ValueError: when columns are not a multiple of 32, or numbers are not finite or too large for
            a float16 scale.
    """
    check_columns(weights.shape[1])
    # What is wrong shows in the scales, of which there are fewer.
    with np.errstate(over="ignore", invalid="ignore"):
        if bits == 8:
            return _to_8_bits(weights.astype(np.float32, copy=False))
        step = max(1, _WEIGHTS_AT_ONCE // weights.shape[1])
        parts = [_to_4_bits(weights[i : i + step].astype(np.float32)) for i in range(0, len(weights), step)]
    values, scales, minimums = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return BlockMatrix(values, 4, scales, minimums)


def _in_blocks(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[rows, columns] to [rows, blocks, 32]."""
    return matrix.reshape(len(matrix), -1, BLOCK)


def _wide(scales: Halves) -> Floats:
    """In float32, to be combined with blocks."""
    return scales.astype(np.float32)[..., None]


def _half(blocks: Bytes, start: int) -> Halves:
    halves: Halves = blocks[..., start : start + 2].copy().view(np.float16)[..., 0]
    return halves


def _nibbles(packed: Bytes) -> Bytes:
    """[rows, blocks, 16] to [rows, columns]: the low halves of a block, then the high ones."""
    return np.concatenate((packed & 15, packed >> 4), axis=-1).reshape(len(packed), -1)


def _to_8_bits(weights: Floats) -> BlockMatrix:
    blocks = _in_blocks(weights)
    largest = np.abs(blocks).max(axis=-1)
    scales = (largest * np.float32(1 / 127)).astype(np.float16)
    # Only among the smallest float16 is rounding so coarse that 127 scales would fall short.
    short = largest >= np.float32(127.5) * scales.astype(np.float32)
    scales = np.where(short & (largest > 0), np.nextafter(scales, np.float16(np.inf)), scales)
    check_scales(scales)
    quants = np.rint(blocks * _inverse(scales)) + 128
    return BlockMatrix(quants.astype(np.uint8).reshape(weights.shape), 8, scales)


def _inverse(scales: Halves) -> Floats:
    """1 / scale, and 0 of 0; to be combined with blocks."""
    wide = _wide(scales)
    return np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)


def _to_4_bits(weights: Floats) -> tuple[Bytes, Halves, Halves]:
    """Of several scales and minimums for each block, those with the smallest squared error.

    Each candidate comes of a part of the block's range: its quants are found, then scale and minimum
    are fitted to them by least squares, rounded to float16, and the quants found anew.
    """
    blocks = _in_blocks(weights)
    low, high = blocks.min(axis=-1), blocks.max(axis=-1)
    check_scales(low.astype(np.float16), (high - low).astype(np.float16))
    least = np.full(low.shape, np.inf, np.float32)
    quants = np.zeros(blocks.shape, np.uint8)
    scales, minimums = np.zeros(low.shape, np.float16), np.zeros(low.shape, np.float16)
    for part in _PARTS_OF_RANGE.astype(np.float32):
        cut = (high - low) * (1 - part) / 2
        ends = ((high - low - 2 * cut) / 15).astype(np.float16), (low + cut).astype(np.float16)
        fitted = _fit(blocks, _quants(blocks, *ends))
        for candidate in (ends, fitted):
            found = _quants(blocks, *candidate)
            error = np.square(found * _wide(candidate[0]) + _wide(candidate[1]) - blocks).sum(axis=-1)
            better = error < least
            least[better], quants[better] = error[better], found[better]
            scales[better], minimums[better] = candidate[0][better], candidate[1][better]
    return quants.reshape(weights.shape), scales, minimums


def _quants(blocks: Floats, scales: Halves, minimums: Halves) -> Bytes:
    steps = np.rint((blocks - _wide(minimums)) * _inverse(scales))
    quants: Bytes = steps.clip(0, 15).astype(np.uint8)
    return quants


def _fit(blocks: Floats, quants: Bytes) -> tuple[Halves, Halves]:
    """Scale and minimum by least squares; of quants that are all the same, a minimum alone."""
    q = quants.astype(np.float32)
    mean = q.mean(axis=-1)
    spread = q - mean[..., None]
    variance = np.square(spread).sum(axis=-1)
    covariance = (spread * blocks).sum(axis=-1)
    scales = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > 0)
    return scales.astype(np.float16), (blocks.mean(axis=-1) - scales * mean).astype(np.float16)


def quantise_activations(x: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Activations as products take them: int8 [tokens, columns], and scales, float32 [tokens, columns / 32].

    The scale of a block is its largest magnitude over 127.
    """
    check_columns(x.shape[1])
    blocks = _in_blocks(x.astype(np.float32, copy=False))
    scales: Floats = np.abs(blocks).max(axis=-1) / np.float32(127)
    wide = scales[..., None]
    steps = np.divide(blocks, wide, out=np.zeros_like(blocks), where=wide > 0)
    return np.rint(steps).astype(np.int8).reshape(x.shape), scales


def reference_product(matrix: BlockMatrix, x: Floats) -> Floats:
    """What a kernel computes, plainly: float32 [tokens, rows] of float32 activations [tokens, columns].

    Products of quants are summed exactly within a block, then scaled and added up in float32 from
    the first block to the last.
    """
    quants, x_scales = quantise_activations(x)
    inputs = _in_blocks(quants).astype(np.float32)
    weights = _in_blocks(matrix.values).astype(np.float32)
    if matrix.minimums is None:
        weights -= 1 << (matrix.bits - 1)
    out = np.zeros((len(x), len(weights)), np.float32)
    for block in range(weights.shape[1]):
        # Sums of 32 products of 8 bits are whole numbers below 2^24: exact in float32.
        total = inputs[:, block] @ weights[:, block].T
        scale = x_scales[:, block, None]
        out += total * (matrix.scales[:, block].astype(np.float32) * scale)
        if matrix.minimums is not None:
            counts = inputs[:, block].sum(axis=-1, keepdims=True)
            out += matrix.minimums[:, block].astype(np.float32) * (scale * counts)
    return out
