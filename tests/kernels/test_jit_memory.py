"""Memory for kernels: where arrays begin, and that they do not share it."""

import numpy as np

from ridgeline.kernels.jit.memory import aligned_arrays, aligned_zeros


def test_arrays_begin_at_lines_of_the_cache_and_do_not_overlap() -> None:
    wanted = {"a": ((3, 5), np.float32), "b": ((0, 7), np.int64), "c": (1, np.uint8), "d": ((2,), np.int64)}
    found = aligned_arrays(wanted)
    assert [array.shape for array in found.values()] == [(3, 5), (0, 7), (1,), (2,)]
    assert [array.dtype for array in found.values()] == [kind for _, kind in wanted.values()]
    assert all(array.ctypes.data % 64 == 0 for array in found.values() if array.size)
    for value, array in enumerate(found.values(), 1):
        assert not array.any()
        array[...] = value
    assert [int(array.sum()) for array in found.values()] == [15, 0, 3, 8]


def test_a_single_array() -> None:
    array = aligned_zeros((4, 3), np.uint16)
    assert (array.shape, array.dtype, array.ctypes.data % 64) == ((4, 3), np.uint16, 0)
