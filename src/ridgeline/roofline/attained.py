"""What a device reaches of its peaks, from how long steps took."""

from collections import deque
from dataclasses import replace

from ridgeline.roofline.cost import StepCost
from ridgeline.roofline.hardware import Efficiency, Hardware

_KEPT = 128
"""Steps of each kind that are remembered."""

_HIGH = 0.9
"""The quantile that counts as what is reached: of the best, but not a single lucky step."""

_ENOUGH = 16
"""Steps of a kind before what was believed gives way."""

_ANEW_EVERY = 16
"""Steps from one estimate to the next."""

LEAST = 0.01
"""An efficiency below this is a mistake in the peak, not in the engine."""


class Attained:
    """Judges arithmetic by steps that it should bind, and reading by the others.

    A step's fixed part, launching, is at most what is believed of it, and at most what the shortest
    steps leave beyond reading at the peak.

    Args:
        believed: the device with the efficiencies that hold until steps were seen.
        dtype: of arithmetic.
        layers: of the model; the cost per layer is counted with that per step.
    """

    def __init__(self, believed: Hardware, dtype: str, layers: int) -> None:
        self.hardware = believed
        """With what was reached so far."""
        efficiency = believed.efficiency
        self._believed = efficiency
        self._overhead = efficiency.step_seconds + layers * efficiency.layer_seconds
        self._peak_flops = believed.peak_flops(dtype)
        self._peak_bytes = believed.bytes_per_second
        self._ridge = self._peak_flops * efficiency.compute / (self._peak_bytes * efficiency.bandwidth)
        self._computing: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._reading: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._observed = 0

    def observe(self, cost: StepCost, seconds: float) -> None:
        """A step took so long."""
        if cost.intensity >= self._ridge:
            self._computing.append((cost.flops / self._peak_flops, seconds))
        else:
            self._reading.append((cost.bytes / self._peak_bytes, seconds))
        self._observed += 1
        if self._observed % _ANEW_EVERY == 0:
            self.hardware = replace(self.hardware, efficiency=self._efficiency())

    def _efficiency(self) -> Efficiency:
        overhead = self._overhead
        if len(self._reading) >= _ENOUGH:
            beyond = sorted(seconds - least for least, seconds in self._reading)
            overhead = min(overhead, max(0.0, beyond[len(beyond) // 10]))
        return Efficiency(
            _reached(self._computing, overhead, self._believed.compute),
            _reached(self._reading, overhead, self._believed.bandwidth),
            step_seconds=overhead,
        )


def _reached(steps: "deque[tuple[float, float]]", overhead: float, believed: float) -> float:
    """Share of the peak, from (seconds at the peak, seconds that it took)."""
    if len(steps) < _ENOUGH:
        return believed
    shares = sorted(least / max(least, seconds - overhead) for least, seconds in steps)
    return max(LEAST, shares[int(_HIGH * len(shares))])
