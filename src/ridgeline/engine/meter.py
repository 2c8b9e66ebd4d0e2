"""Turns steps into metrics: what was computed, what it should cost, what held it up."""

from dataclasses import dataclass
from typing import Literal, Protocol

from ridgeline.engine.core.counters import Counters
from ridgeline.engine.core.plan import StepPlan
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.roofline import Hardware, ModelShape, StepCost, Work, headroom, step_cost
from ridgeline.telemetry.records import Resource, StepRecord


@dataclass(frozen=True, slots=True)
class CostModel:
    """What a step of this model on this device should take; asks `roofline` for everything.

    `kv_dtype` is that of K and V; None is `dtype`.
    """

    shape: ModelShape
    hardware: Hardware
    dtype: str
    kv_dtype: str | None = None

    def of(self, plan: StepPlan) -> StepCost:
        """FLOPs, bytes and seconds of a plan."""
        logit_rows = sum(len(r.token_ids) if r.score_prompt else r.sample for r in plan.rows)
        work = Work.of(((len(row.token_ids), row.start) for row in plan.rows), logit_rows)
        return step_cost(self.shape, self.hardware, self.dtype, work, kv_dtype=self.kv_dtype)

    def recompute_seconds(self, tokens: int) -> float:
        """Device time that computing so many tokens once more takes in a batch of others."""
        return step_cost(
            self.shape, self.hardware, self.dtype, Work.of([(tokens, 0)], 0), kv_dtype=self.kv_dtype
        ).compute_seconds

    def headroom(self, batch: int, context_tokens: float) -> int | None:
        """Sequences until arithmetic binds; None when KV traffic keeps that out of reach."""
        return headroom(
            self.shape,
            self.hardware,
            self.dtype,
            batch=batch,
            context_tokens=max(1.0, context_tokens),
            kv_dtype=self.kv_dtype,
        )


class Meter(Protocol):
    """Where a step meter reports to: `telemetry`'s meter, or a messenger to it."""

    def step(self, record: StepRecord) -> None:
        """See `EngineMeter.step`."""
        ...

    def idle(self, now_seconds: float, *, blocks_held: int, blocks_idle: int) -> None:
        """See `EngineMeter.idle`."""
        ...

    def prefix(self, *, hit: int, cold: int, evicted: int, short: int) -> None:
        """See `EngineMeter.prefix`."""
        ...

    def recomputed(self, tokens: int, seconds: float, cause: Literal["evicted", "preempted"]) -> None:
        """See `EngineMeter.recomputed`."""
        ...

    def evicted(self, blocks: int, reason: str) -> None:
        """See `EngineMeter.evicted`."""
        ...

    def preempted(self) -> None:
        """See `EngineMeter.preempted`."""
        ...


class StepMeter:
    """Records steps of one engine. Called in the engine's thread, after each step."""

    def __init__(self, cost_model: CostModel, meter: Meter) -> None:
        self._cost_model = cost_model
        self._meter = meter
        self._counted = Counters()
        self._last_ended = 0.0
        hardware, dtype = cost_model.hardware, cost_model.dtype
        self._peak_flops = hardware.peak_flops(dtype)
        self._peak_bytes = hardware.bytes_per_second

    def record(
        self,
        scheduler: Scheduler,
        plan: StepPlan,
        *,
        device_seconds: float,
        host_seconds: float,
        started: float,
        ended: float,
    ) -> None:
        """A step was committed.

        `device_seconds` is how long the device was at it, `host_seconds` what scheduling,
        preparing and committing took, and the step itself goes from `started` (or the end of the
        step before, where steps overlap) to `ended`.
        """
        cost = self._cost_model.of(plan)
        cache = scheduler.cache
        self._meter.step(
            StepRecord(
                ended_seconds=ended,
                step_seconds=ended - max(started, self._last_ended),
                host_seconds=host_seconds,
                device_seconds=device_seconds,
                batch_size=len(plan.rows),
                batch_tokens=plan.tokens,
                waiting=scheduler.waiting,
                blocks_total=cache.total,
                blocks_free=cache.free,
                blocks_held=cache.held,
                blocks_idle=cache.idle,
                flops=cost.flops,
                bytes_moved=cost.bytes,
                peak_flops_per_second=self._peak_flops,
                peak_bytes_per_second=self._peak_bytes,
                bound=self._bound(scheduler, cost, device_seconds, host_seconds),
                headroom_sequences=self._headroom(scheduler, plan),
            )
        )
        self._last_ended = ended
        self._count(scheduler.counters)

    def idle(self, scheduler: Scheduler, now: float) -> None:
        """Nothing runs or waits."""
        self._meter.idle(now, blocks_held=scheduler.cache.held, blocks_idle=scheduler.cache.idle)

    def _bound(
        self, scheduler: Scheduler, cost: StepCost, device_seconds: float, host_seconds: float
    ) -> Resource:
        if host_seconds > device_seconds:
            return "host"
        if scheduler.starved_of_blocks:
            return "kv_capacity"
        return cost.bound_by

    def _headroom(self, scheduler: Scheduler, plan: StepPlan) -> int:
        """Sequences of the present kind that still fit: until the ridge, the KV or the slots end."""
        batch = max(1, scheduler.running)
        cache, geometry = scheduler.cache, scheduler.geometry
        slots = geometry.max_batch - scheduler.running
        by_blocks = cache.available * batch // max(1, cache.held)
        context = sum(row.start + len(row.token_ids) for row in plan.rows) / len(plan.rows)
        by_ridge = self._cost_model.headroom(batch, context)
        return min(slots, by_blocks) if by_ridge is None else min(slots, by_blocks, by_ridge)

    def _count(self, counters: Counters) -> None:
        new = counters.since(self._counted)
        if new == Counters():
            return
        self._counted = counters.copy()
        meter = self._meter
        meter.prefix(hit=new.hit, cold=new.cold, evicted=new.evicted, short=new.short)
        seconds = self._cost_model.recompute_seconds
        if new.recomputed_evicted:
            meter.recomputed(new.recomputed_evicted, seconds(new.recomputed_evicted), "evicted")
        if new.recomputed_preempted:
            meter.recomputed(new.recomputed_preempted, seconds(new.recomputed_preempted), "preempted")
        if new.evicted_blocks:
            meter.evicted(new.evicted_blocks, "room")
        for _ in range(new.preemptions):
            meter.preempted()
