"""Into how many rows at a time a product is best cut on this processor: measured, not assumed.

What a tile takes does not grow evenly with its rows: few wait for memory, many run out of registers,
and where that begins differs from processor to processor.
"""

import time

import numpy as np
import numpy.typing as npt

from ridgeline.kernels.jit.products import BLOCK, BLOCK_BYTES, MAX_ROWS, TILES, product_function

Integers = npt.NDArray[np.int64]

ROWS_PLANNED = 32
"""Of more rows than these, the first are cut off as is cheapest for a row."""

_BLOCKS = 512
_REPETITIONS = 7


def measure_splits() -> Integers:
    """`splits_of` what products take here, for each form of weights; some milliseconds."""
    return np.stack([splits_of(_seconds(form)) for form in range(len(BLOCK_BYTES))])


def splits_of(seconds: list[float]) -> Integers:
    """How many rows to compute next where so many are left.

    Args:
        seconds: of a tile of 1, 2, ... rows.

    Returns:
        [ROWS_PLANNED + 1]; the last entry holds for all that is more.
    """
    least, first = [0.0], [0]
    for rows in range(1, ROWS_PLANNED):
        costs = {
            part: seconds[part - 1] + least[rows - part] for part in range(1, min(rows, len(seconds)) + 1)
        }
        best = min(costs, key=lambda part: (costs[part], -part))
        least.append(costs[best])
        first.append(best)
    first.append(min(range(1, len(seconds) + 1), key=lambda part: seconds[part - 1] / part))
    return np.array(first, np.int64)


def _seconds(form: int) -> list[float]:
    """The shortest time of a tile of 1 to `MAX_ROWS` rows, its weights in the cache."""
    stride = BLOCK_BYTES[form] * _BLOCKS
    weights = np.zeros(TILES * stride + 64, np.uint8)
    values = np.ones((MAX_ROWS, _BLOCKS * BLOCK), np.int8)
    scales, sums = (np.zeros((MAX_ROWS, _BLOCKS), np.float32) for _ in range(2))
    out = np.zeros((MAX_ROWS, 16 * TILES), np.float32)
    places = [x.ctypes.data for x in (values, scales, sums, weights, out)]
    aligned = places[3] + -places[3] % 64
    call, found = product_function(), []
    for rows in range(1, MAX_ROWS + 1):
        times = []
        for _ in range(_REPETITIONS):
            started = time.perf_counter()
            call(
                form, rows, places[0], values.strides[0], places[1], places[2], scales.strides[0],
                aligned, stride, _BLOCKS, places[4], out.strides[0], 0,
            )  # fmt: skip
            times.append(time.perf_counter() - started)
        found.append(min(times))
    return found
