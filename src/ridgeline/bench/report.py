"""The figures of a run, by definitions that are stated here once.

- TTFT: from when the request should have been sent to the first chunk with text. The same from the
  moment it was sent stands beside it.
- ITL: each gap between chunks with text. A chunk may carry several tokens, so TPOT stands beside
  it: (last chunk - first chunk) / (tokens - 1), tokens from the server's usage.
- Throughput: tokens of completed requests over the measured time; warm-up is in no figure.
- Goodput: requests that met every target over all requests offered, refused and failed ones
  included. An answer's TPOT is what is held against the ITL target. Later turns of a conversation
  that was refused are never offered; they are counted as abandoned.
- Requested, drawn and achieved rate: conversations per second as asked for, as the times of arrival
  came out, and as they were really sent. Delay: from when a request was due to when it was sent.
- Percentiles are over completed requests (nearest rank).
- Little's law: the mean number in flight, integrated while running, must equal rate x mean time
  from the records; more than 5 % apart, the run's bookkeeping is not to be trusted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ridgeline.bench.counters import CacheChange
from ridgeline.bench.refusals import Refusal, refusals
from ridgeline.bench.runner import RunResult, TurnRecord
from ridgeline.bench.schedule import Schedule, schedule
from ridgeline.bench.spread import Spread, spread

MAX_CLIENT_CPU_RATIO = 0.8
MAX_LOOP_DELAY_SECONDS = 0.02
MAX_LITTLE_MISMATCH = 0.05


@dataclass(frozen=True, slots=True)
class Targets:
    """What a request must meet to count in goodput; None asks nothing."""

    ttft_seconds: float | None = None
    itl_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class TurnFigures:
    """One turn of the conversations: later turns have more history, and more of it cached."""

    turn: int
    completed: int
    ttft_seconds: Spread
    request_seconds: Spread
    cached_prompt_ratio: float | None


@dataclass(frozen=True, slots=True)
class Client:
    """Whether the client itself was the bottleneck.

    `cpu_ratio` is of one core. `limited` says that it was too busy for its times to be believed.
    """

    cpu_ratio: float
    loop_delay_p99_seconds: float | None
    send_delay_p99_seconds: float | None
    limited: bool


@dataclass(frozen=True, slots=True)
class Little:
    """The two sides of Little's law."""

    mean_in_flight: float
    rate_times_mean_seconds: float
    valid: bool


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of a run; `asdict` of it is the JSON line."""

    seconds: float
    offered: int
    completed: int
    refused: int
    failed: int
    abandoned_turns: int
    cut_turns: int
    warmup_requests: int
    goodput_ratio: float | None
    goodput_per_second: float
    requests_per_second: float
    output_tokens_per_second: float
    prompt_tokens_per_second: float
    prompt_tokens: int
    output_tokens: int
    cached_prompt_ratio: float | None
    tokens_from: str
    ttft_seconds: Spread
    ttft_from_send_seconds: Spread
    itl_seconds: Spread
    tpot_seconds: Spread
    request_seconds: Spread
    turns: tuple[TurnFigures, ...]
    refusals: tuple[Refusal, ...]
    errors: dict[str, int]
    schedule: Schedule
    server_cache: CacheChange | None
    client: Client
    little: Little

    def as_json(self) -> dict[str, object]:
        """Plain dicts, lists and numbers."""
        return asdict(self)


def ttft(record: TurnRecord) -> float | None:
    """Seconds from when the request should have been sent to its first text."""
    return record.chunk_times[0] - record.scheduled if record.chunk_times else None


def output_tokens(record: TurnRecord) -> int:
    """From usage; from servers that send none, the number of chunks."""
    return record.tokens.completion if record.tokens else len(record.chunk_times)


def tpot(record: TurnRecord) -> float | None:
    """Mean seconds per token after the first; None for answers of one token or one chunk."""
    tokens = output_tokens(record)
    if tokens < 2 or len(record.chunk_times) < 2:
        return None
    return (record.chunk_times[-1] - record.chunk_times[0]) / (tokens - 1)


def meets(record: TurnRecord, targets: Targets) -> bool:
    """Whether the request counts in goodput."""
    if record.outcome != "completed":
        return False
    first, gap = ttft(record), tpot(record)
    if targets.ttft_seconds is not None and (first is None or first > targets.ttft_seconds):
        return False
    return targets.itl_seconds is None or gap is None or gap <= targets.itl_seconds


def _cached_ratio(records: Sequence[TurnRecord]) -> float | None:
    counts = [record.tokens for record in records if record.tokens]
    prompt = sum(count.prompt for count in counts)
    return sum(count.cached for count in counts) / prompt if prompt else None


def _turns(completed: Sequence[TurnRecord]) -> tuple[TurnFigures, ...]:
    figures = []
    for turn in sorted({record.turn for record in completed}):
        records = [record for record in completed if record.turn == turn]
        figures.append(
            TurnFigures(
                turn,
                len(records),
                spread([first for record in records if (first := ttft(record)) is not None]),
                spread([record.finished - record.sent for record in records]),
                _cached_ratio(records),
            )
        )
    return tuple(figures)


def _client(result: RunResult, records: Sequence[TurnRecord], seconds: float) -> Client:
    cpu_ratio = result.client_cpu_seconds / seconds if seconds else 0.0
    loop = spread(result.loop_delays).p99
    send = spread([record.sent - record.scheduled for record in records]).p99
    late = max(loop or 0.0, send or 0.0) > MAX_LOOP_DELAY_SECONDS
    return Client(cpu_ratio, loop, send, limited=cpu_ratio > MAX_CLIENT_CPU_RATIO or late)


def _little(result: RunResult, records: Sequence[TurnRecord], seconds: float) -> Little:
    measured = result.in_flight_seconds / seconds if seconds else 0.0
    times = [record.finished - record.sent for record in records]
    expected = (len(times) / seconds) * (sum(times) / len(times)) if times and seconds else 0.0
    apart = abs(measured - expected) / max(measured, expected) if max(measured, expected) else 0.0
    return Little(measured, expected, valid=apart <= MAX_LITTLE_MISMATCH)


def _errors(records: Sequence[TurnRecord]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in records:
        if record.error:
            counts[record.error] = counts.get(record.error, 0) + 1
    return counts


def summarise(
    result: RunResult,
    targets: Targets,
    *,
    open_loop: bool = False,
    requested_per_second: float | None = None,
    server_cache: CacheChange | None = None,
) -> Report:
    """Compute the report of a run.

    Args:
        result: what happened.
        targets: for goodput.
        open_loop: whether there was a schedule to keep to.
        requested_per_second: conversations begun per second, if a rate was asked for.
        server_cache: what the server's own counters say.
    """
    records = [record for record in result.records if not record.warmup]
    completed = [record for record in records if record.outcome == "completed"]
    seconds = result.ended - result.started
    prompt = sum(record.tokens.prompt for record in completed if record.tokens)
    output = sum(output_tokens(record) for record in completed)
    good = sum(meets(record, targets) for record in records)
    gaps = [
        later - earlier
        for record in completed
        for earlier, later in zip(record.chunk_times, record.chunk_times[1:], strict=False)
    ]
    return Report(
        seconds=seconds,
        offered=len(records),
        completed=len(completed),
        refused=sum(record.outcome == "refused" for record in records),
        failed=sum(record.outcome == "failed" for record in records),
        abandoned_turns=result.abandoned_turns,
        cut_turns=result.cut_turns,
        warmup_requests=len(result.records) - len(records),
        goodput_ratio=good / len(records) if records else None,
        goodput_per_second=good / seconds if seconds else 0.0,
        requests_per_second=len(completed) / seconds if seconds else 0.0,
        output_tokens_per_second=output / seconds if seconds else 0.0,
        prompt_tokens_per_second=prompt / seconds if seconds else 0.0,
        prompt_tokens=prompt,
        output_tokens=output,
        cached_prompt_ratio=_cached_ratio(completed),
        tokens_from="usage" if all(record.tokens for record in completed) else "chunks",
        ttft_seconds=spread([first for record in completed if (first := ttft(record)) is not None]),
        ttft_from_send_seconds=spread(
            [record.chunk_times[0] - record.sent for record in completed if record.chunk_times]
        ),
        itl_seconds=spread(gaps),
        tpot_seconds=spread([gap for record in completed if (gap := tpot(record)) is not None]),
        request_seconds=spread([record.finished - record.sent for record in completed]),
        turns=_turns(completed),
        refusals=refusals(records),
        errors=_errors(records),
        schedule=schedule(
            records, result.started, open_loop=open_loop, requested_per_second=requested_per_second
        ),
        server_cache=server_cache,
        client=_client(result, records, seconds),
        little=_little(result, records, seconds),
    )
