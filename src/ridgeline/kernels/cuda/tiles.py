"""Block shapes of the attention kernel: one table, so that it can be tuned on a GPU.

Single tokens are bound by memory: few rows, and many loads in flight from the two programs that
share a streaming multiprocessor. Chunks are bound by products: 128 rows where registers and shared
memory allow it, 64 for each of Hopper's groups of four warps.
"""

import functools
from typing import Any, NamedTuple

import torch

from ridgeline.kernels.cuda.launch import FLOAT8

MAX_HEAD_DIM = 256

HOPPER_SHARED_BYTES = 227 * 1024
"""Most shared memory of a program on H100 and H200; assumed where there is no GPU to ask."""


class TileShape(NamedTuple):
    """How a program of the attention kernel computes.

    Attributes:
        rows: of a tile, queries times query heads of a group, padding included.
        columns: positions of the context computed at once.
        num_warps: of a program.
        num_stages: of the pipeline that reads K and V.
        shared_bytes: least shared memory that a GPU must grant a program.
    """

    rows: int
    columns: int
    num_warps: int
    num_stages: int
    shared_bytes: int


_KIB = 1024

# By bytes of an element and padded head_dim, best first: the first that fits a GPU is taken. With
# fewer than three stages, reading would not overlap with computing.
_SINGLES = {
    (2, 64): (TileShape(16, 128, 4, 3, 99 * _KIB),),
    (2, 128): (TileShape(16, 64, 4, 4, 163 * _KIB), TileShape(16, 64, 4, 3, 99 * _KIB)),
    (2, 256): (TileShape(16, 32, 4, 4, 163 * _KIB), TileShape(16, 32, 4, 3, 99 * _KIB)),
    (4, 64): (TileShape(16, 16, 4, 3, 99 * _KIB),),
    (4, 128): (TileShape(16, 16, 4, 3, 99 * _KIB),),
    (4, 256): (TileShape(16, 16, 4, 3, 99 * _KIB),),
}
_CHUNKS = {
    (2, 64): (TileShape(128, 64, 8, 3, 99 * _KIB),),
    (2, 128): (TileShape(128, 64, 8, 3, 227 * _KIB), TileShape(128, 32, 8, 3, 99 * _KIB)),
    (2, 256): (
        TileShape(128, 32, 8, 3, 227 * _KIB),
        TileShape(64, 32, 8, 3, 163 * _KIB),
        TileShape(64, 16, 8, 3, 99 * _KIB),
    ),
    (4, 64): (TileShape(32, 16, 4, 3, 99 * _KIB),),
    (4, 128): (TileShape(32, 16, 8, 3, 99 * _KIB),),
    (4, 256): (TileShape(16, 16, 8, 3, 99 * _KIB),),
}
# On Hopper, without a window; with one or for others, registers do not suffice. Rows are as above.
_HOPPER_CHUNKS = {(2, 128): (TileShape(128, 128, 8, 3, 227 * _KIB),)}

# Where K and V are in float8: widening them takes registers, which some GPUs would not have enough of.
_FLOAT8_SINGLES = {(2, 128): (TileShape(16, 64, 8, 4, 163 * _KIB), TileShape(16, 64, 8, 3, 99 * _KIB))}
_FLOAT8_CHUNKS = {(2, 256): (TileShape(128, 16, 8, 3, 227 * _KIB), TileShape(64, 16, 8, 3, 99 * _KIB))}


def padded_dim(head_dim: int) -> int:
    """Elements of a head as the kernel computes with them: a power of two."""
    return max(16, 1 << (head_dim - 1).bit_length())


def _key(head_dim: int, dtype: torch.dtype) -> tuple[int, int]:
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"Heads have {head_dim} elements; the kernel takes up to {MAX_HEAD_DIM}.")
    return dtype.itemsize, max(64, padded_dim(head_dim))


def tile_shape(
    head_dim: int,
    dtype: torch.dtype,
    shared_bytes: int,
    *,
    singles: bool,
    hopper: bool = False,
    kv_dtype: torch.dtype | None = None,
) -> TileShape:
    """The best shape for a GPU.

    Args:
        head_dim: elements of a head.
        dtype: of q, and of what is computed with it.
        shared_bytes: most shared memory that the GPU grants a program.
        singles: of tiles of one query, rather than of chunks.
        hopper: of a layer without window on a GPU of compute capability 9.0; rows are as elsewhere.
        kv_dtype: of K and V; None: `dtype`.

    Raises:
        ValueError: heads are too large, or the GPU's shared memory too small.
    """
    key = _key(head_dim, dtype)
    shapes = (_SINGLES if singles else _CHUNKS)[key]
    if kv_dtype == FLOAT8:
        shapes = (_FLOAT8_SINGLES if singles else _FLOAT8_CHUNKS).get(key, shapes)
    if hopper and not singles:
        shapes = (*_HOPPER_CHUNKS.get(key, ()), *shapes)
    for shape in shapes:
        if shape.shared_bytes <= shared_bytes:
            return shape
    least = shapes[-1].shared_bytes
    raise ValueError(f"The GPU grants {shared_bytes:,} bytes of shared memory; the kernel needs {least:,}.")


def most_columns(head_dim: int, dtype: torch.dtype, *, singles: bool) -> int:
    """Most positions that any shape for such heads computes at once; all divide it, in float8 too."""
    key = _key(head_dim, dtype)
    shapes = _SINGLES[key] if singles else (*_CHUNKS[key], *_HOPPER_CHUNKS.get(key, ()))
    return max(shape.columns for shape in shapes)


def merge_parts(head_dim: int) -> int:
    """Units merged at once: 16 elements for each of 128 threads."""
    return 2048 // padded_dim(head_dim)


@functools.cache
def is_hopper(device: torch.device) -> bool:
    """Whether a device is an H100 or H200; where there is no GPU to ask, as if it were."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) == (9, 0)


@functools.cache
def shared_bytes_of(device: torch.device) -> int:
    """Most shared memory that a device grants a program."""
    if device.type != "cuda":
        return HOPPER_SHARED_BYTES
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)
