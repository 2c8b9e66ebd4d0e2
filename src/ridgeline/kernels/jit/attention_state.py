"""A softmax under way: for each row the weighted sum of values, the sum of weights, the largest score.

It lies at one address: values float32 [rows, head_dim], sums [rows, 16] (together the sum of a row's
weights), largest [rows, padded to a multiple of 16].
"""

from numba import njit

from ridgeline.kernels.jit.activations import floats_at
from ridgeline.kernels.jit.attention_ir import VECTORS, absorb, divide
from ridgeline.kernels.jit.attention_math import LINE_BYTES, LOWEST


@njit(error_model="numpy")
def state_bytes(rows: int, head_dim: int) -> int:
    """Of a state, a multiple of 64."""
    return 4 * rows * (head_dim + 16) + -(-rows // 16) * LINE_BYTES


@njit(error_model="numpy")
def aligned(address: int) -> int:
    """The first multiple of 64 from an address on."""
    return (address + LINE_BYTES - 1) & -LINE_BYTES


@njit(error_model="numpy")
def sums_of(state: int, rows: int, head_dim: int) -> int:
    """Where the sums of a state begin."""
    return state + 4 * rows * head_dim


@njit(error_model="numpy")
def largest_of(state: int, rows: int, head_dim: int) -> int:
    """Where the largest scores of a state begin."""
    return state + 4 * rows * (head_dim + 16)


@njit(error_model="numpy")
def begin(state, rows, head_dim):
    """Make a state in which nothing has been seen."""
    values, largest = (
        floats_at(state, rows * (head_dim + 16)),
        floats_at(largest_of(state, rows, head_dim), rows),
    )
    values[:] = 0
    largest[:] = LOWEST


@njit(error_model="numpy")
def absorb_row(state, rows, head_dim, row, scores, vectors, low, high):
    """`absorb` for one row."""
    absorb(
        scores,
        vectors,
        low,
        high,
        largest_of(state, rows, head_dim) + 4 * row,
        sums_of(state, rows, head_dim) + LINE_BYTES * row,
        state + 4 * head_dim * row,
        head_dim // 16,
    )


@njit(error_model="numpy")
def finish(state, rows, head_dim, row, count, out):
    """The attention of `count` rows from `row` on, to the address `out`, one after the other."""
    for i in range(row, row + count):
        sums = sums_of(state, rows, head_dim) + LINE_BYTES * i
        divide(state + 4 * head_dim * i, head_dim // 16, sums, out + 4 * head_dim * (i - row))


@njit(error_model="numpy")
def tile_vectors(left: int) -> int:
    """Columns, in vectors, to compute at once where so many are left."""
    return VECTORS if left >= VECTORS else 1
