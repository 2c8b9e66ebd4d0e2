"""A step of an engine, as telemetry is told of it."""

from ridgeline.telemetry.records import Headroom, RidgeRecord, StepAllowance, StepRecord

STEP = StepRecord(
    ended_seconds=0.0,
    step_seconds=0.5,
    host_seconds=0.001,
    device_seconds=0.4,
    batch_size=4,
    batch_tokens=40,
    prefill_tokens=36,
    waiting=2,
    blocks_total=100,
    blocks_free=50,
    blocks_held=30,
    blocks_idle=20,
    flops=4e11,
    bytes_moved=1e10,
    peak_flops_per_second=1e12,
    peak_bytes_per_second=1e11,
    bound="memory_bandwidth",
    predicted_seconds=0.4,
    headroom=Headroom(slots=12, kv=8, ridge=3, latency=5),
    ridge=RidgeRecord(flops_per_byte=8.0, limit=60.0, batch=7),
    allowance=StepAllowance(tokens=64, sequences=9, target_seconds=0.05),
)
