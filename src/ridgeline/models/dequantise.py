"""Turning stored blocks into float32.

The `gguf` package knows every format; the few that most files use are done here in torch, three
times as fast, because the start of a server waits for them.
"""

import numpy as np
import numpy.typing as npt
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from ridgeline.models.errors import ModelError

Blocks = npt.NDArray[np.uint8]


def _q4_1(blocks: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: float16 scale, float16 minimum, then 16 bytes with the first half in low nibbles."""
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    minimum = blocks[:, 2:4].contiguous().view(torch.float16).float()
    nibbles = blocks[:, 4:]
    values = torch.empty(len(blocks), 32)
    values[:, :16] = nibbles & 15
    values[:, 16:] = nibbles >> 4
    # Multiply, then add: a fused operation would round differently from the reference.
    return values.mul_(scale).add_(minimum)


def _q4_0(blocks: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: float16 scale, then 16 bytes of nibbles offset by 8."""
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    nibbles = blocks[:, 2:]
    values = torch.empty(len(blocks), 32)
    values[:, :16] = nibbles & 15
    values[:, 16:] = nibbles >> 4
    return values.sub_(8).mul_(scale)


def _q8_0(blocks: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: float16 scale, then 32 signed bytes."""
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    return blocks[:, 2:].view(torch.int8).float().mul_(scale)


_FAST = {
    GGMLQuantizationType.Q4_0: (_q4_0, 18),
    GGMLQuantizationType.Q4_1: (_q4_1, 20),
    GGMLQuantizationType.Q8_0: (_q8_0, 34),
}
_PLAIN = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.F16: torch.float16}


def dequantise(raw: Blocks, quantization: GGMLQuantizationType, source: str) -> torch.Tensor:
    """Stored bytes, (rows, bytes per row), as a new flat float32 tensor.

    Raises:
        ModelError: for a format that the `gguf` package cannot dequantise; `source` names the file.
    """
    if quantization in _FAST:
        function, block_bytes = _FAST[quantization]
        # A copy, because torch takes no read-only memory.
        return function(torch.from_numpy(raw.reshape(-1, block_bytes).copy())).reshape(-1)
    if quantization in _PLAIN:
        stored = torch.from_numpy(raw.reshape(-1).copy()).view(_PLAIN[quantization])
        return stored.float()
    try:
        values = dequantize(raw, quantization)
    except NotImplementedError as error:
        raise ModelError(
            f"{source} stores tensors as {quantization.name}, which cannot be dequantised; "
            "take the model in another quantisation (Q4_K_M or Q8_0, say)."
        ) from error
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).reshape(-1)
