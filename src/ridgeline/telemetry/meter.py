"""What one engine is doing: told by its thread once per step, read whenever metrics are scraped."""

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ridgeline.telemetry.definitions import BY_NAME
from ridgeline.telemetry.histogram import Histogram
from ridgeline.telemetry.ledger import PREDICTIONS, Ledger, Prediction
from ridgeline.telemetry.live import Live, Point, by_name, point_of, shown_steps, told
from ridgeline.telemetry.recent import Recent, Tally
from ridgeline.telemetry.records import (
    RESOURCES,
    PromptRecord,
    RequestRecord,
    Resource,
    Saved,
    StepRecord,
    TierRecord,
)
from ridgeline.telemetry.verdict import verdict
from ridgeline.telemetry.window import Window

_TOTALS = (
    "ridgeline_recompute_seconds_total",
    "ridgeline_preemptions_total",
    "ridgeline_step_flops_total",
    "ridgeline_step_bytes_total",
    "ridgeline_prompt_tokens_total",
    "ridgeline_completion_tokens_total",
)
_LABELLED = (
    "ridgeline_prefix_tokens_total",
    "ridgeline_recomputed_tokens_total",
    "ridgeline_kv_blocks_evicted_total",
    "ridgeline_draft_tokens_total",
    "ridgeline_requests_total",
)
Labels = tuple[str, ...]
Number = tuple[str, Labels, float]
"""Name of a metric, values of its labels besides the model's, and its value."""

POINTS = 12_000
"""Steps that are remembered for the roofline's plot: a minute of them at 200 a second."""

_PREFIX_RESULTS = ("hit", "cold", "evicted", "short")
_BOUNDS = {name: definition.buckets for name, definition in BY_NAME.items() if definition.kind == "histogram"}

# Channels of the window: the time bound by each resource but idle, and then these.
_BUSY: dict[Resource, int] = {name: place for place, name in enumerate(RESOURCES[:-1])}
_DEVICE, _FLOPS, _BYTES, _OF_PEAK_FLOPS, _OF_PEAK_BYTES = range(len(_BUSY), len(_BUSY) + 5)


class Shadow(Protocol):
    """Knows what was saved of computing prompts, and what could have been. Used from any thread."""

    def note(self, record: PromptRecord) -> None:
        """A prompt was admitted."""
        ...

    def totals(self) -> dict[str, float]:
        """Seconds saved since the start: `live`, and by other ways."""
        ...

    def saved(self, now: float) -> Saved | None:
        """The last hour; None where nothing was asked."""
        ...


@dataclass(frozen=True, slots=True)
class _Blocks:
    total: int
    held: int = 0
    idle: int = 0


class EngineMeter:
    """Telemetry of one engine. Its thread calls the verbs; any thread may read.

    What cannot have a value yet is not reported: utilisation without a known peak, KV blocks
    before their number is known.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        block_size_tokens: int | None = None,
        blocks_total: int | None = None,
    ) -> None:
        self.shadow: Shadow | None = None
        """Is told of prompts, and asked what the cache saved."""
        self._clock = clock
        self._lock = threading.Lock()
        self._block_size_tokens = block_size_tokens
        self._blocks = _Blocks(blocks_total or 0)
        self._computes: tuple[str, str] | None = None
        self._born = self._step_end = self._accounted = clock()
        self._last: StepRecord | None = None
        self._is_idle = True
        self._window = Window(len(_BUSY) + 5)
        self._bound_seconds = dict.fromkeys(RESOURCES, 0.0)
        self._totals = dict.fromkeys(_TOTALS, 0.0)
        self._labelled: dict[str, Counter[str]] = {name: Counter() for name in _LABELLED}
        self._labelled["ridgeline_prefix_tokens_total"].update(dict.fromkeys(_PREFIX_RESULTS, 0))
        self._tiers: tuple[TierRecord, ...] = ()
        self._ledger = Ledger()
        self._points: deque[Point] = deque(maxlen=POINTS)
        self._steps = 0
        self._recent = Recent(self._born)
        self._histograms = {name: Histogram(bounds) for name, bounds in _BOUNDS.items()}

    def step(self, record: StepRecord) -> None:
        """Count a step, once, after its commit."""
        with self._lock:
            self._remember()
            self._last, self._is_idle = record, False
            self._blocks = _Blocks(record.blocks_total, record.blocks_held, record.blocks_idle)
            # Steps in flight at once overlap: only what no earlier one covers is new time.
            start = max(record.ended_seconds - record.step_seconds, self._step_end)
            end = self._step_end = max(record.ended_seconds, start)
            self._account_idle(start)
            self._accounted = max(self._accounted, end)
            self._bound_seconds[record.bound] += end - start
            self._window.add(start, end, _amounts(record, end - start))
            self._totals["ridgeline_step_flops_total"] += record.flops
            self._totals["ridgeline_step_bytes_total"] += record.bytes_moved
            self._ledger.note("step", record.predicted_seconds, record.step_seconds)
            self._points.append(point_of(record))
            self._steps += 1
            self._histograms["ridgeline_step_seconds"].observe(record.step_seconds)
            self._histograms["ridgeline_host_step_seconds"].observe(record.host_seconds)

    def idle(
        self, now_seconds: float, *, blocks_held: int | None = None, blocks_idle: int | None = None
    ) -> None:
        """Say that no request is waiting or running, and how the blocks stand if that has changed."""
        with self._lock:
            self._is_idle = True
            self._account_idle(now_seconds)
            self._blocks = _Blocks(
                self._blocks.total,
                self._blocks.held if blocks_held is None else blocks_held,
                self._blocks.idle if blocks_idle is None else blocks_idle,
            )

    def prefix(self, *, hit: int = 0, cold: int = 0, evicted: int = 0, short: int = 0) -> None:
        """Count a prompt's tokens by what the prefix cache did for them."""
        with self._lock:
            self._remember()
            counts = self._labelled["ridgeline_prefix_tokens_total"]
            counts["hit"] += hit
            counts["cold"] += cold
            counts["evicted"] += evicted
            counts["short"] += short

    def recomputed(self, tokens: int, seconds: float, cause: Literal["evicted", "preempted"]) -> None:
        """Count tokens computed once more, and the time that it took."""
        with self._lock:
            self._remember()
            self._labelled["ridgeline_recomputed_tokens_total"][cause] += tokens
            self._totals["ridgeline_recompute_seconds_total"] += seconds

    def evicted(self, blocks: int, reason: str) -> None:
        """Count cached blocks given up."""
        with self._lock:
            self._remember()
            self._labelled["ridgeline_kv_blocks_evicted_total"][reason] += blocks

    def predicted(self, what: Prediction, predicted: float, outcome: float) -> None:
        """A prediction met its outcome; those of steps come with the steps."""
        with self._lock:
            self._ledger.note(what, predicted, outcome)

    def asked(self, record: PromptRecord) -> None:
        """A prompt was admitted for the first time."""
        if self.shadow is not None:
            self.shadow.note(record)

    def tiers(self, records: Sequence[TierRecord]) -> None:
        """Say how the tiers below the device stand."""
        with self._lock:
            self._remember()
            self._tiers = tuple(records)

    def preempted(self) -> None:
        """Count a running request put back."""
        with self._lock:
            self._remember()
            self._totals["ridgeline_preemptions_total"] += 1

    def drafted(self, tokens: int, accepted: int) -> None:
        """Count tokens that were computed before they were drawn, and how many of them were drawn then."""
        with self._lock:
            self._remember()
            counts = self._labelled["ridgeline_draft_tokens_total"]
            counts["accepted"] += accepted
            counts["rejected"] += tokens - accepted

    def inter_token(self, seconds: float, count: int = 1) -> None:
        """Count gaps between two tokens of an answer; a step has one length for many answers."""
        with self._lock:
            self._remember()
            self._histograms["ridgeline_inter_token_latency_seconds"].observe(seconds, count)

    def finished(self, record: RequestRecord) -> None:
        """Count a request of which nothing more will come."""
        with self._lock:
            self._remember()
            self._labelled["ridgeline_requests_total"][record.outcome] += 1
            self._totals["ridgeline_prompt_tokens_total"] += record.prompt_tokens
            self._totals["ridgeline_completion_tokens_total"] += record.completion_tokens
            self._histograms["ridgeline_request_seconds"].observe(record.request_seconds)
            if record.queue_seconds is not None:
                self._histograms["ridgeline_queue_seconds"].observe(record.queue_seconds)
            if record.time_to_first_token_seconds is not None:
                self._histograms["ridgeline_time_to_first_token_seconds"].observe(
                    record.time_to_first_token_seconds
                )

    def computes(self, dtype: str, kernels: str) -> None:
        """Say what the engine computes in, and with which kernels."""
        with self._lock:
            self._computes = (dtype, kernels)

    def histograms(self) -> dict[str, tuple[list[tuple[str, float]], float]]:
        """Cumulative buckets and sum of each histogram."""
        with self._lock:
            return {name: histogram.cumulative() for name, histogram in self._histograms.items()}

    def numbers(self) -> list[Number]:
        """Every counter and gauge as it stands now."""
        with self._lock:
            now = max(self._clock(), self._step_end)
            if self._is_idle:
                self._account_idle(now)
            return [
                *self._counters(),
                *self._load(),
                *self._kv(),
                *self._rates(now),
                *self._limits(),
                *self._predictions(),
            ]

    def _remember(self) -> None:
        """Keep what is counted so far, before more is."""
        now = self._clock()
        if self._recent.is_due(now):
            self._recent.add(self._tally(now))

    def _tally(self, now: float) -> Tally:
        buckets = {name: histogram.counts() for name, histogram in self._histograms.items()}
        return Tally(now, by_name(self._counters()), buckets)

    def _account_idle(self, until: float) -> None:
        self._bound_seconds["idle"] += max(0.0, until - self._accounted)
        self._accounted = max(self._accounted, until)

    def _counters(self) -> Iterator[Number]:
        for name, total in self._totals.items():
            yield name, (), total
        for name, counts in self._labelled.items():
            for label, count in sorted(counts.items()):
                yield name, (label,), count
        for resource, seconds in self._bound_seconds.items():
            yield "ridgeline_bound_seconds_total", (resource,), seconds
        if self.shadow is not None:
            for name, seconds in self.shadow.totals().items():
                yield "ridgeline_kv_saved_seconds_total", (name,), seconds
        for tier in self._tiers:
            yield "ridgeline_kv_copied_blocks_total", (tier.name, "out"), tier.saved
            yield "ridgeline_kv_copied_blocks_total", (tier.name, "in"), tier.loaded
            yield "ridgeline_kv_lost_copies_total", (tier.name, "out"), tier.not_saved
            yield "ridgeline_kv_lost_copies_total", (tier.name, "in"), tier.not_loaded
            yield "ridgeline_kv_load_seconds_total", (tier.name,), tier.load_seconds
        prefix = self._labelled["ridgeline_prefix_tokens_total"]
        yield "vllm:prefix_cache_queries_total", (), prefix.total()
        yield "vllm:prefix_cache_hits_total", (), prefix["hit"]

    def _load(self) -> Iterator[Number]:
        last = self._last
        running = waiting = tokens = 0
        if last is not None and not self._is_idle:
            running, waiting, tokens = last.batch_size, last.waiting, last.batch_tokens
        yield "ridgeline_batch_size", (), running
        yield "ridgeline_batch_tokens", (), tokens
        if self._computes is not None:
            yield "ridgeline_engine_info", self._computes, 1
        if last is not None:
            yield "ridgeline_batch_headroom_sequences", (), last.headroom.sequences
        yield "ridgeline_requests", ("running",), running
        yield "ridgeline_requests", ("waiting",), waiting
        yield "vllm:num_requests_running", (), running
        yield "vllm:num_requests_waiting", (), waiting

    def _kv(self) -> Iterator[Number]:
        blocks = self._blocks
        if not blocks.total:
            return
        yield "ridgeline_kv_utilization_ratio", ("device",), blocks.held / blocks.total
        yield "ridgeline_kv_idle_ratio", ("device",), blocks.idle / blocks.total
        for tier in self._tiers:
            yield "ridgeline_kv_utilization_ratio", (tier.name,), 0.0
            yield "ridgeline_kv_idle_ratio", (tier.name,), tier.stored / tier.blocks
        yield "vllm:kv_cache_usage_perc", (), blocks.held / blocks.total
        if self._block_size_tokens is not None:
            yield "vllm:cache_config_info", (str(self._block_size_tokens), str(blocks.total)), 1

    def _rates(self, now: float) -> Iterator[Number]:
        sums = self._window.sums(now)
        span = min(self._window.span(now), now - self._born)
        bound: dict[Resource, float] = {"idle": span - sum(sums[: len(_BUSY)])}
        bound |= {name: sums[place] for name, place in _BUSY.items()}
        most = max(bound, key=lambda name: bound[name])
        for resource in RESOURCES:
            yield "ridgeline_bound_by", (resource,), float(resource == most)
        yield "ridgeline_device_busy_ratio", (), _ratio(sums[_DEVICE], span)
        if sums[_BYTES] > 0:
            yield "ridgeline_arithmetic_intensity", (), sums[_FLOPS] / sums[_BYTES]
        if self._last is None:
            return
        peak_flops, peak_bytes = self._last.peak_flops_per_second, self._last.peak_bytes_per_second
        if peak_flops and peak_bytes:
            yield "ridgeline_ridge_point", (), peak_flops / peak_bytes
        for name, peak in (("flops", peak_flops), ("bytes", peak_bytes)):
            if peak:
                yield f"ridgeline_peak_{name}_per_second", (), peak
        if peak_flops:
            yield "ridgeline_flops_utilization_ratio", (), _ratio(sums[_OF_PEAK_FLOPS], span)
        if peak_bytes:
            yield "ridgeline_bandwidth_utilization_ratio", (), _ratio(sums[_OF_PEAK_BYTES], span)

    def _limits(self) -> Iterator[Number]:
        """Where the batch ends, and where the controller lets it end."""
        last = self._last
        if last is None:
            return
        until = {"slots": last.headroom.slots, "kv": last.headroom.kv, "latency": last.headroom.latency}
        for what, sequences in until.items():
            if sequences is not None:
                yield "ridgeline_headroom_sequences", (what,), sequences
        ridge = last.ridge
        yield "ridgeline_headroom_sequences", ("ridge",), _or_infinite(last.headroom.ridge)
        yield "ridgeline_ridge_batch_sequences", (), _or_infinite(ridge.batch)
        yield "ridgeline_intensity_limit", (), ridge.limit
        yield "ridgeline_attainable_ridge_point", (), ridge.flops_per_byte
        yield "ridgeline_batch_limit_sequences", (), last.allowance.sequences
        yield "ridgeline_step_limit_tokens", (), last.allowance.tokens
        if last.allowance.target_seconds:
            yield "ridgeline_inter_token_target_seconds", (), last.allowance.target_seconds

    def _predictions(self) -> Iterator[Number]:
        for what in PREDICTIONS:
            found = self._ledger.calibration(what)
            if found is None:
                continue
            yield "ridgeline_predictions_total", (what,), found.count
            yield "ridgeline_prediction_bias_ratio", (what,), found.bias
            yield "ridgeline_prediction_error_ratio", (what, "0.5"), found.median_error
            yield "ridgeline_prediction_error_ratio", (what, "0.9"), found.high_error

    def live(self) -> Live:
        """All that the dashboard shows, as it stands now."""
        values = by_name(self.numbers())
        with self._lock:
            tally = self._tally(self._clock())
            recent = self._recent.until(tally, _BOUNDS)
            points, made = tuple(self._points), self._steps
            calibrations = {what: self._ledger.calibration(what) for what in PREDICTIONS}
            pairs = {what: self._ledger.pairs(what) for what in PREDICTIONS}
        # Beyond the lock, for the engine's thread may be waiting for it.
        return Live(
            values,
            recent,
            verdict(values),
            shown_steps(tally.seconds, points, made),
            told(calibrations, pairs),
            self.shadow.saved(self._clock()) if self.shadow is not None else None,
        )


def _or_infinite(sequences: int | None) -> float:
    return math.inf if sequences is None else sequences


def _amounts(record: StepRecord, seconds: float) -> list[float]:
    """A step's amounts per channel of the window."""
    amounts = [0.0] * (len(_BUSY) + 5)
    if record.bound != "idle":
        amounts[_BUSY[record.bound]] = seconds
    amounts[_DEVICE] = min(record.device_seconds, seconds)
    amounts[_FLOPS], amounts[_BYTES] = record.flops, record.bytes_moved
    # Seconds at the peak: summed over steps they are right also where steps differ in their peak.
    if record.peak_flops_per_second:
        amounts[_OF_PEAK_FLOPS] = record.flops / record.peak_flops_per_second
    if record.peak_bytes_per_second:
        amounts[_OF_PEAK_BYTES] = record.bytes_moved / record.peak_bytes_per_second
    return amounts


def _ratio(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else 0.0
