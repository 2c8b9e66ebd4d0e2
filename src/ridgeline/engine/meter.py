"""Turns steps into metrics: what was computed, what it should cost, what held it up."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from ridgeline.engine.core.counters import Counters
from ridgeline.engine.core.plan import StepPlan
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.shadows import short_keys
from ridgeline.roofline import (
    Attained,
    Hardware,
    ModelShape,
    Ridge,
    StepCost,
    StepTime,
    WeightBytes,
    Work,
    decode_ridge,
    step_cost,
)
from ridgeline.telemetry.ledger import Prediction
from ridgeline.telemetry.records import (
    Headroom,
    PromptRecord,
    Resource,
    RidgeRecord,
    StepAllowance,
    StepRecord,
    TierRecord,
)

_ONE = Work(1, 0, 0, 0)

_CHUNK_TOKENS = 512
"""Blocks are computed in chunks: one alone would not show what it takes among others."""

_LINE_GOOD_FOR = 1024

_FAR_TOKENS = 4096
"""Where in a prompt is looked to see how much longer late blocks take."""


class CostModel:
    """What a step of this model on this device should take; asks `roofline` for everything.

    Args:
        shape: of the model.
        hardware: the device, with what is expected to be reached of its peaks.
        dtype: of arithmetic.
        max_tokens: most tokens of a step.
        kv_dtype: of K and V; None is `dtype`.
        weights: bytes read of them in a step; None: every parameter in `dtype`.
    """

    def __init__(
        self,
        shape: ModelShape,
        hardware: Hardware,
        dtype: str,
        max_tokens: int,
        *,
        kv_dtype: str | None = None,
        weights: WeightBytes | None = None,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._attained = Attained(hardware, dtype, shape.layers)
        self._kv_dtype, self._weights = kv_dtype, weights
        self.step_time = StepTime(lambda work: self.cost(work).seconds, max_tokens)
        """Learns from the steps that run."""

    def work(self, plan: StepPlan) -> Work:
        """What a plan computes."""
        logit_rows = sum(row.logit_rows for row in plan.rows)
        return Work.of((span for row in plan.rows for span in row.spans), logit_rows, self.shape.windows)

    def cost(self, work: Work) -> StepCost:
        """FLOPs, bytes, and the seconds that peaks and efficiencies allow."""
        return step_cost(
            self.shape, self.hardware, self.dtype, work, kv_dtype=self._kv_dtype, weights=self._weights
        )

    @property
    def hardware(self) -> Hardware:
        """The device, with what its steps were seen to reach of its peaks."""
        return self._attained.hardware

    def observe(self, work: Work, cost: StepCost, seconds: float) -> float:
        """A step took so long; returns what had been expected, and learns from it."""
        self._attained.observe(cost, seconds)
        return self.step_time.observe(work, seconds)

    def recompute_seconds(self, tokens: int, start: int = 0) -> float:
        """Time that computing tokens once more, from position `start` on, adds to steps that run anyway."""
        seconds = self.step_time.seconds(Work.of([(tokens, start)], 0, self.shape.windows))
        return max(0.0, seconds - self.step_time.seconds(_ONE))

    def block_seconds(self, block_size: int) -> tuple[float, float]:
        """What computing a prompt's first block takes among others, and how much longer each further one."""
        near, far = (
            self.recompute_seconds(_CHUNK_TOKENS, start) * block_size / _CHUNK_TOKENS
            for start in (0, _FAR_TOKENS)
        )
        return near, max(0.0, far - near) * block_size / _FAR_TOKENS

    def price_of_block(self, block_size: int) -> Callable[[int], float]:
        """Seconds of computing a block by its position, from a line that is drawn anew now and then.

        Prices are asked for by the hundred at once, and each look at the model of steps takes 20 us.
        """
        line, asked = (0.0, 0.0), 0

        def seconds(position: int) -> float:
            nonlocal line, asked
            if asked % _LINE_GOOD_FOR == 0:
                line = self.block_seconds(block_size)
            asked += 1
            first, deeper = line
            return first + deeper * position

        return seconds

    def ridge(self, context_tokens: float) -> Ridge:
        """Where arithmetic begins to bind sequences of this mean context."""
        return decode_ridge(
            self.shape,
            self.hardware,
            self.dtype,
            context_tokens=context_tokens,
            kv_dtype=self._kv_dtype,
            weights=self._weights,
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

    def predicted(self, what: Prediction, predicted: float, outcome: float) -> None:
        """See `EngineMeter.predicted`."""
        ...

    def evicted(self, blocks: int, reason: str) -> None:
        """See `EngineMeter.evicted`."""
        ...

    def asked(self, record: PromptRecord) -> None:
        """See `EngineMeter.asked`."""
        ...

    def tiers(self, records: Sequence[TierRecord]) -> None:
        """See `EngineMeter.tiers`."""
        ...

    def preempted(self) -> None:
        """See `EngineMeter.preempted`."""
        ...

    def drafted(self, tokens: int, accepted: int) -> None:
        """See `EngineMeter.drafted`."""
        ...


class StepMeter:
    """Records steps of one engine. Called in the engine's thread, after each step."""

    def __init__(self, cost_model: CostModel, meter: Meter) -> None:
        self._cost_model = cost_model
        self._meter = meter
        self._counted = Counters()
        self._tiers: tuple[TierRecord, ...] = ()
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
        # Where steps overlap, one whose result was waiting already took longer than since the one before.
        seconds = max(ended - max(started, self._last_ended), device_seconds)
        work = self._cost_model.work(plan)
        cost = self._cost_model.cost(work)
        expected = self._cost_model.observe(work, cost, seconds)
        cache, allowed = scheduler.cache, scheduler.allowance
        ridge = self._cost_model.ridge(work.cached_tokens / work.sequences)
        self._meter.step(
            StepRecord(
                ended_seconds=ended,
                step_seconds=seconds,
                host_seconds=host_seconds,
                device_seconds=device_seconds,
                batch_size=len(plan.rows),
                batch_tokens=work.new_tokens,
                prefill_tokens=work.new_tokens - work.singles,
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
                predicted_seconds=expected,
                headroom=_headroom(scheduler, ridge.batch),
                ridge=RidgeRecord(ridge.flops_per_byte, ridge.limit, ridge.batch),
                allowance=StepAllowance(allowed.tokens, allowed.sequences, allowed.target_seconds),
            )
        )
        self._last_ended = ended
        self._count(scheduler.counters)
        for outcome in scheduler.outcomes:
            self._meter.predicted(outcome.what, outcome.predicted, outcome.outcome)
        scheduler.outcomes.clear()
        self._tell_asked(scheduler)
        self._tell_tiers(scheduler)

    def _tell_asked(self, scheduler: Scheduler) -> None:
        if not scheduler.asked:
            return
        size = scheduler.cache.block_size
        first, deeper = self._cost_model.block_seconds(size)
        for asked in scheduler.asked:
            keys = short_keys(asked.keys)
            self._meter.asked(
                PromptRecord(asked.seconds, keys, asked.hit_blocks, asked.load_seconds, first, deeper)
            )
        scheduler.asked.clear()

    def _tell_tiers(self, scheduler: Scheduler) -> None:
        if scheduler.copies is None:
            return
        records = tuple(
            TierRecord(
                ledger.name,
                ledger.blocks,
                ledger.stored,
                saved=counted.saved,
                loaded=counted.loaded,
                not_saved=counted.not_saved,
                not_loaded=counted.not_loaded,
                load_seconds=counted.load_seconds,
            )
            for ledger, counted in scheduler.copies.told()
        )
        if records != self._tiers:
            self._tiers = records
            self._meter.tiers(records)

    def idle(self, scheduler: Scheduler, now: float) -> None:
        """Nothing runs or waits."""
        self._tell_tiers(scheduler)
        self._meter.idle(now, blocks_held=scheduler.cache.held, blocks_idle=scheduler.cache.idle)

    def _bound(
        self, scheduler: Scheduler, cost: StepCost, device_seconds: float, host_seconds: float
    ) -> Resource:
        if host_seconds > device_seconds:
            return "host"
        if scheduler.starved_of_blocks:
            return "kv_capacity"
        return cost.bound_by

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
        if new.drafted:
            meter.drafted(new.drafted, new.accepted)
        for _ in range(new.preemptions):
            meter.preempted()


def _headroom(scheduler: Scheduler, ridge_batch: int | None) -> Headroom:
    """Sequences of the present kind that still fit, until each thing ends."""
    cache, batch = scheduler.cache, max(1, scheduler.running)
    allowed = scheduler.allowance
    return Headroom(
        slots=scheduler.geometry.max_batch - scheduler.running,
        kv=cache.available * batch // max(1, cache.held),
        ridge=None if ridge_batch is None else max(0, ridge_batch - scheduler.running),
        latency=max(0, allowed.sequences - scheduler.running) if allowed.target_seconds else None,
    )
