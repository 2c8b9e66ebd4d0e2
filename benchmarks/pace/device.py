"""A device that only takes time: the roofline with other efficiencies than are believed, and noise.

The executor of `--device simulated` checks every plan against what it was told before, and hashes
each token; here a day of requests is to pass in seconds, and nothing but time matters.
"""

import math
import random
from dataclasses import dataclass, replace

from ridgeline.engine.core.plan import Geometry, Handle, RowResult, StepPlan, StepResult
from ridgeline.engine.executors.clock import VirtualClock
from ridgeline.engine.executors.simulated import kv_geometry
from ridgeline.roofline import Efficiency, ModelShape, Work, find_hardware, step_cost

TRUTH = Efficiency(compute=0.55, bandwidth=0.75, layer_seconds=15e-6, step_seconds=2e-3)
"""What the device really reaches; the engine believes `Hardware.efficiency` until it has learned."""

SEQUENCE_SECONDS = 12e-6
NOISE = 0.06
"""Standard deviation of the logarithm of a step's time."""

MAX_BATCH, MAX_CONTEXT = 512, 16_384


@dataclass(frozen=True, slots=True)
class Place:
    """A model on a device."""

    name: str
    shape: ModelShape
    hardware: str


@dataclass(slots=True)
class TimedHandle(Handle):
    """A launched step, and when it ends."""

    result: StepResult
    end_seconds: float


class TimedDevice:
    """Implements `Executor`; draws token 7 always, so that answers end by their length alone."""

    depth = 1
    dtype = "bfloat16"
    kernels = fingerprint = "timed"

    def __init__(self, place: Place, clock: VirtualClock, seed: int) -> None:
        hardware = find_hardware(place.hardware)
        self.geometry: Geometry = kv_geometry(
            place.shape,
            hardware,
            dtype=self.dtype,
            kv_dtype=None,
            kv_memory_bytes=None,
            max_batch=MAX_BATCH,
            max_context_tokens=MAX_CONTEXT,
        )
        self._shape, self._hardware = place.shape, replace(hardware, efficiency=TRUTH)
        self._clock, self._draw = clock, random.Random(seed)
        self._busy_until = 0.0

    def launch(self, plan: StepPlan) -> TimedHandle:
        """The step begins when the one before it has ended."""
        samples = sum(row.sample for row in plan.rows)
        work = Work.of(((len(row.token_ids), row.start) for row in plan.rows), samples)
        seconds = step_cost(self._shape, self._hardware, self.dtype, work).seconds
        seconds += SEQUENCE_SECONDS * work.sequences
        seconds *= math.exp(self._draw.gauss(0.0, NOISE))
        self._busy_until = max(self._clock.now(), self._busy_until) + seconds
        rows = tuple(RowResult((7,) if row.sample else ()) for row in plan.rows)
        return TimedHandle(plan, StepResult(rows, seconds), self._busy_until)

    def collect(self, handle: Handle) -> StepResult:
        """Let the time pass until its end."""
        assert isinstance(handle, TimedHandle)
        self._clock.wait_until(handle.end_seconds)
        return handle.result

    def close(self) -> None:
        """Nothing to give back."""
