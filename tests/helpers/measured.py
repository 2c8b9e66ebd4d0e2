"""Engines in situations, as a dashboard would find them."""

from dataclasses import replace

from step_record import STEP

from ridgeline.telemetry.meter import EngineMeter
from ridgeline.telemetry.records import Headroom, RequestRecord, RidgeRecord


class Clock:
    """Stands still until a test moves it on, so that a page may take its time to come up."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def busy(meter: EngineMeter, clock: Clock, *, steps: int = 80, bound: str = "memory_bandwidth") -> None:
    """Steps that keep a device busy while they use little of it; the ridge is out of reach."""
    clock.now += 10.0
    for number in range(steps):
        reading = number % 4 == 0
        both = number % 4 == 1
        tokens = 512 if reading else 300 if both else 12
        meter.step(
            replace(
                STEP,
                ended_seconds=clock.now - 0.1 * (steps - 1 - number),
                step_seconds=0.1,
                device_seconds=0.099,
                batch_size=12,
                batch_tokens=tokens,
                prefill_tokens=tokens if reading else 288 if both else 0,
                blocks_held=70,
                blocks_idle=20,
                blocks_free=10,
                flops=tokens * 2e9,
                bytes_moved=5e9,
                predicted_seconds=0.15,
                bound=bound,
                headroom=Headroom(slots=52, kv=3, ridge=None, latency=30),
                ridge=RidgeRecord(flops_per_byte=400.0, limit=30.0, batch=None),
                peak_flops_per_second=1e14,
                peak_bytes_per_second=1e11,
            )
        )
    meter.prefix(hit=3000, cold=5000, evicted=1500, short=40)
    meter.recomputed(1500, 2.5, "evicted")
    meter.evicted(90, "room")
    meter.preempted()
    for number in range(30):
        meter.finished(RequestRecord("stop", 0.2, 0.4 + number / 100, 3.0, 100, 50, 30))
        meter.inter_token(0.03, 50)
        meter.predicted("time_to_first_token", 0.4, 0.4 + number / 100)
    for _ in range(4):
        meter.finished(RequestRecord("at_capacity", None, None, 0.001))


def full(meter: EngineMeter, clock: Clock) -> None:
    """Requests wait because running ones hold all of the KV cache."""
    clock.now += 5.0
    meter.step(replace(STEP, ended_seconds=clock.now, step_seconds=4.0, bound="kv_capacity"))
