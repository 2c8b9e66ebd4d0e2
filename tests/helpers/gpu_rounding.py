"""Triton's interpreter rounds to few bits as no GPU does; here it does as they do, to nearest even.

It cuts float32 off where it makes bfloat16 of it, and loses the carry where it makes float8.
"""

from typing import Any
from unittest import mock

import numpy as np
import torch
from triton import language as tl
from triton.runtime import interpreter

_ROUNDED = {tl.bfloat16: (torch.bfloat16, torch.int16), tl.float8e4nv: (torch.float8_e4m3fn, torch.uint8)}


def rounding_as_on_a_gpu() -> Any:
    """A context within which float32 is rounded to bfloat16 and float8 as on a GPU."""
    original = interpreter._convert_float

    def convert(data: np.ndarray, source: tl.dtype, target: tl.dtype, mode: Any) -> np.ndarray:
        if source != tl.float32 or target not in _ROUNDED:
            return original(data, source, target, mode)
        dtype, bits = _ROUNDED[target]
        return torch.from_numpy(np.array(data)).to(dtype).view(bits).numpy()

    return mock.patch.object(interpreter, "_convert_float", convert)
