"""How a product of so many rows is best computed on this processor: measured, not assumed.

What a tile takes does not grow evenly with its rows: few wait for memory, many run out of registers,
and where that begins differs from processor to processor.
"""

import sys
import time

import numpy as np
import numpy.typing as npt

from ridgeline.kernels.jit.products import (
    BLOCK,
    BLOCK_BYTES,
    FORM_4_MINIMUM,
    MAX_ROWS,
    TILES,
    product_function,
)
from ridgeline.kernels.jit.target import has_tiles
from ridgeline.kernels.jit.wide import BLOCK_PANEL_BYTES, TILE_BYTES, tile_configuration, wide_product

Integers = npt.NDArray[np.int64]

ROWS_PLANNED = 32
"""Of more rows than these, the first are cut off as is cheapest for a row."""

_BLOCKS = 512
_REPETITIONS = 7
_WIDE_BLOCKS = 64


def measure_splits() -> Integers:
    """`splits_of` what products take here, for each form of weights; some milliseconds."""
    return np.stack([splits_of(_seconds(form)) for form in range(len(BLOCK_BYTES))])


def measure_least_wide() -> int:
    """From how many rows on products in AMX tiles take less time; more than there can be without tiles."""
    if not has_tiles():
        return sys.maxsize
    return least_wide_of(_seconds(FORM_4_MINIMUM), [_wide_seconds(tiles) for tiles in (1, 2)])


def least_wide_of(narrow: list[float], wide: list[float]) -> int:
    """Rows that take less time wide.

    Args:
        narrow: seconds of a tile of 1, 2, ... rows.
        wide: of up to 16, up to 32 rows in tiles.
    """
    splits, cost = splits_of(narrow), [0.0]
    for rows in range(1, ROWS_PLANNED):
        cost.append(narrow[splits[rows] - 1] + cost[rows - splits[rows]])
    rows_at_all = range(1, ROWS_PLANNED)
    is_slower = [cost[rows] >= wide[(rows - 1) // 16] for rows in rows_at_all]
    return next((rows for rows in rows_at_all if all(is_slower[rows - 1 :])), ROWS_PLANNED)


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


def _wide_seconds(tiles: int) -> float:
    """The shortest time of 16 or 32 rows wide for as many weights as `_seconds` has."""
    blocks = _WIDE_BLOCKS
    stride = BLOCK_BYTES[FORM_4_MINIMUM] * blocks
    memory = np.zeros(TILES * stride + (BLOCK_PANEL_BYTES + 2 * TILE_BYTES) * blocks + 4096 + 64, np.uint8)
    weights = memory.ctypes.data + -memory.ctypes.data % 64
    panel = weights + TILES * stride
    x = panel + BLOCK_PANEL_BYTES * blocks
    configuration = tile_configuration()
    call, times = wide_product(), []
    for _ in range(5 * _REPETITIONS):
        started = time.perf_counter()
        call(
            FORM_4_MINIMUM, weights, stride, blocks, panel, tiles, x, x + 2 * TILE_BYTES * blocks,
            configuration.ctypes.data,
        )  # fmt: skip
        times.append(time.perf_counter() - started)
    return min(times) * _BLOCKS / blocks


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
