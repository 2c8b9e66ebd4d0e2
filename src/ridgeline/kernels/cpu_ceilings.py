"""What torch's own operations reach on this processor: the peaks of what computes with them."""

import time
from collections.abc import Callable

import torch

_SIDE = 1024
"""Of the square matrices multiplied: large enough that nothing else counts."""

_READ_BYTES = 1 << 28
_SECONDS = 0.25
"""That each thing is tried for; the shortest try counts."""


def measure_product(dtype: torch.dtype) -> float:
    """FLOP/s of a product of matrices, a multiplication with its addition being two."""
    left = torch.randn(_SIDE, _SIDE).to(dtype)
    right = torch.randn(_SIDE, _SIDE).to(dtype)
    return 2.0 * _SIDE**3 / _best_seconds(lambda: torch.mm(left, right))


def measure_reading() -> float:
    """Bytes of memory read per second, by a sum over more than the caches hold."""
    memory = torch.ones(_READ_BYTES // 4, dtype=torch.int32).view(torch.float32)
    return _READ_BYTES / _best_seconds(memory.max)


def _best_seconds(work: Callable[[], object]) -> float:
    work()
    best, end = float("inf"), time.perf_counter() + _SECONDS
    while (started := time.perf_counter()) < end:
        work()
        best = min(best, time.perf_counter() - started)
    return best
