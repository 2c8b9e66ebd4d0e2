"""The loops that bring weights into the order of `packing`: a server's start waits for them."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ridgeline.kernels.jit.blocks import BLOCK
from ridgeline.kernels.jit.ir import LANES
from ridgeline.kernels.jit.products import BLOCK_BYTES, FORM_4_MINIMUM, FORM_8


@njit(nogil=True, cache=True)
def move(words, places, out, form, blocks):
    """Copy stored blocks to where products read them.

    Args:
        words: stored rows of blocks, as uint16.
        places: for each of them, the row that it becomes.
        out: the packed matrix, as uint16.
        form: of the matrix.
        blocks: in a row.
    """
    headers = 2 if form == FORM_4_MINIMUM else 1
    pairs = 8 if form == FORM_8 else 4
    flip = np.uint16(0x8080 if form == FORM_8 else 0)
    block_words = BLOCK_BYTES[form] // 2
    source = 0
    for row in range(len(places)):
        tile, lane = divmod(places[row], LANES)
        target = tile * blocks * block_words
        for _ in range(blocks):
            for header in range(headers):
                out[target + LANES * header + lane] = words[source + header]
            source += headers
            quants = target + LANES * headers + 2 * lane
            for pair in range(pairs):
                out[quants + 2 * LANES * pair] = words[source + 2 * pair] ^ flip
                out[quants + 2 * LANES * pair + 1] = words[source + 2 * pair + 1] ^ flip
            source += 2 * pairs
            target += block_words


def _half_bits(context, builder, signature, values):
    half = builder.fptrunc(values[0], ir.HalfType())
    return builder.bitcast(half, ir.IntType(16))


@intrinsic
def half_from_float(typing, value):
    """The bits of the float16 nearest to a float32."""
    return types.uint16(types.float32), _half_bits


def _float_of_bits(context, builder, signature, values):
    half = builder.bitcast(values[0], ir.HalfType())
    return builder.fpext(half, ir.FloatType())


@intrinsic
def float_from_half(typing, bits):
    """The float32 that is the float16 of these bits."""
    return types.float32(types.uint16), _float_of_bits


@njit(nogil=True, cache=True)
def round_to_8_bits(weights, places, out, halves, blocks):
    """Round rows to 8 bits, store them where products read them, and tell whether all scales are finite.

    Args:
        weights: float32, rows one after the other.
        places: for each of them, the row that it becomes.
        out: the packed matrix.
        halves: the same memory, as uint16.
        blocks: in a row.
    """
    magnitudes = weights.view(np.int32)
    block_bytes = BLOCK_BYTES[FORM_8]
    finite = True
    for row in range(len(places)):
        tile, lane = divmod(places[row], LANES)
        for block in range(blocks):
            first = (row * blocks + block) * BLOCK
            # As integers magnitudes order like the floats they are, and nan is above infinity.
            top = np.int32(0)
            for i in range(first, first + BLOCK):
                top = max(top, magnitudes[i] & np.int32(0x7FFFFFFF))
            largest = np.int32(top).view(np.float32)
            half = half_from_float(largest * np.float32(1 / 127))
            if largest > 0 and largest >= np.float32(127.5) * float_from_half(half):
                half = np.uint16(half + 1)
            finite &= (half & 0x7C00) != 0x7C00
            scale = float_from_half(half)
            inverse_scale = np.float32(1) / scale if half else np.float32(0)
            target = (tile * blocks + block) * block_bytes
            halves[target // 2 + lane] = half
            target += 2 * LANES + 4 * lane
            for i in range(BLOCK):
                quant = np.rint(weights[first + i] * inverse_scale) + np.float32(128)
                out[target + 4 * LANES * (i >> 2) + (i & 3)] = np.uint8(np.int32(quant))
    return finite
