"""What a device reaches of its peaks, from how long steps took."""

from collections.abc import Callable
from dataclasses import replace

from ridgeline.roofline.cost import StepCost
from ridgeline.roofline.hardware import Efficiency, Hardware
from ridgeline.roofline.learning import StepTime
from ridgeline.roofline.work import Work

LEAST = 0.01
"""An efficiency below this is a mistake in the peak, not in the engine."""


def with_attained(
    hardware: Hardware, dtype: str, step_time: StepTime, cost_of: Callable[[Work], StepCost]
) -> Hardware:
    """The device with the efficiencies that its steps showed.

    A step of the fewest tokens takes as long as reading the weights, and what launching costs: as much
    of it as reading does not explain at the believed efficiency is taken for the latter. Arithmetic is
    judged by the step, of those seen, that used it best.

    Args:
        hardware: with the efficiencies believed so far.
        dtype: of arithmetic.
        step_time: learned from this engine's steps.
        cost_of: FLOPs and bytes of work of this engine's model.
    """
    seen = step_time.seen
    if not seen:
        return hardware
    believed = hardware.efficiency
    fewest = Work(seen[0], 0, 0, 0)
    least_seconds = step_time.seconds(fewest)
    moving = cost_of(fewest).bytes / hardware.bytes_per_second
    overhead = max(0.0, least_seconds - moving / believed.bandwidth) if seen[0] <= 2 else 0.0
    bandwidth = _share(moving, least_seconds - overhead)
    compute = max(
        _share(cost_of(work).flops / hardware.peak_flops(dtype), step_time.seconds(work) - overhead)
        for work in (Work(tokens, 0, 0, 0) for tokens in seen)
    )
    return replace(hardware, efficiency=Efficiency(compute, bandwidth, step_seconds=overhead))


def _share(seconds_at_peak: float, seconds: float) -> float:
    return min(1.0, max(LEAST, seconds_at_peak / seconds)) if seconds > 0 else 1.0
