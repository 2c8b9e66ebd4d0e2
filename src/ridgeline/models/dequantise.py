"""Turning stored blocks into float32.

The `gguf` package knows every format; the few that most files use are done here in half as many
passes over memory, because the start of a server waits for them. All on one thread: two hundred
small parallel operations would crawl wherever other work holds a core.
"""

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from ridgeline.models.errors import ModelError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def _half(blocks: Bytes, start: int) -> Floats:
    """The float16 at `start` of each block, as a column."""
    return blocks[:, start : start + 2].copy().view(np.float16).astype(np.float32)


def _nibbles(packed: Bytes) -> Floats:
    """16 bytes per block to 32 numbers: first the low halves, then the high ones."""
    values = np.empty((len(packed), 32), np.float32)
    values[:, :16] = packed & 15
    values[:, 16:] = packed >> 4
    return values


def _q4_0(blocks: Bytes) -> Floats:
    """Blocks of 32: float16 scale, then 16 bytes of nibbles offset by 8."""
    values = _nibbles(blocks[:, 2:])
    values -= 8
    values *= _half(blocks, 0)
    return values


def _q4_1(blocks: Bytes) -> Floats:
    """Blocks of 32: float16 scale, float16 minimum, then 16 bytes of nibbles."""
    values = _nibbles(blocks[:, 4:])
    values *= _half(blocks, 0)
    values += _half(blocks, 2)
    return values


def _q8_0(blocks: Bytes) -> Floats:
    """Blocks of 32: float16 scale, then 32 signed bytes."""
    return np.multiply(blocks[:, 2:].view(np.int8), _half(blocks, 0), dtype=np.float32)


_FAST = {
    GGMLQuantizationType.Q4_0: (_q4_0, 18),
    GGMLQuantizationType.Q4_1: (_q4_1, 20),
    GGMLQuantizationType.Q8_0: (_q8_0, 34),
}


def dequantise(raw: Bytes, quantization: GGMLQuantizationType, source: str) -> Floats:
    """Stored bytes, (rows, bytes per row), as a new float32 array of all numbers in order.

    Raises:
        ModelError: for a format that the `gguf` package cannot dequantise; `source` names the file.
    """
    if quantization in _FAST:
        function, block_bytes = _FAST[quantization]
        return function(raw.reshape(-1, block_bytes)).reshape(-1)
    try:
        values = dequantize(raw, quantization)
    except NotImplementedError as error:
        raise ModelError(
            f"{source} stores tensors as {quantization.name}, which cannot be dequantised; "
            "take the model in another quantisation (Q4_K_M or Q8_0, say)."
        ) from error
    # A copy where the package gave a view of the file, which must not be written to.
    floats: Floats = values.astype(np.float32, copy=not values.flags.writeable)
    return floats.reshape(-1)
