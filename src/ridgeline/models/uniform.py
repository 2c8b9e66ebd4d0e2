"""Random numbers without state: a function of (seed, position) alone.

Whatever else is in the batch, and however often a sequence is preempted and computed again, the
number belonging to a position stays the same.

Source: SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014, with the constants of its reference implementation. It is counter-based by construction: the
n-th output is a mix of `state + n * GAMMA`. The seed is mixed before it becomes the state, so
that neighbouring seeds are as far apart as any.
"""

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def splitmix64(state: int, n: int) -> int:
    """Output `n` (from 0) of SplitMix64 started at `state`: 64 random bits."""
    return _mix((state + (n + 1) * _GAMMA) & _MASK)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), a multiple of 2**-53, for any whole seed and a position from 0."""
    return (splitmix64(_mix(seed & _MASK), position) >> 11) * 2.0**-53


def uniforms(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """`uniform` of many pairs at once; seeds are taken modulo 2**64 beforehand."""
    with np.errstate(over="ignore"):
        state = _mix_all(seeds) + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA)
    return (_mix_all(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix_all(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
