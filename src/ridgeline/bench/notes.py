"""What a reader must know of a run beside its figures: what was left out, and what it distorts."""

from collections.abc import Iterator, Sequence

from ridgeline.bench.ramp import Climbed
from ridgeline.bench.report import Report
from ridgeline.bench.runner import TurnRecord
from ridgeline.bench.work import Source, Work

MAX_FOREIGN_RATIO = 0.05
MAX_LENGTH_MISS = 0.05
MAX_AT_ONCE_RATIO = 0.2
_SLACK_TOKENS = 128  # a cache knows whole blocks; templates differ


def _speed_up(source: Source) -> Iterator[str]:
    by = source.speed_up
    if by == 1:
        return
    if source.trace is not None:
        yield (
            f"The trace ran at {by:g} times its speed: the load is {by:g}-fold, and a follow-up may come"
            " before the answer that it follows has ended, so what it could share is not yet in the cache."
        )
    elif source.profile is not None:
        yield (
            f"Pauses are divided by {by:g}. A conversation's KV lies idle that much shorter before it is"
            " needed again, so caches hit more often than in life, and so many users are the load of up to"
            f" {by:g} times as many people. Do not size a cache, or count users, by this run."
        )


def _trace(source: Source, work: Work, report: Report) -> Iterator[str]:
    plan = work.replayed
    if plan is None:
        return
    if source.trace_scale != 1:
        yield (
            f"All lengths of the trace are multiplied by {source.trace_scale:g}. What requests share is"
            " kept, but KV and attention of each are smaller or larger than in life."
        )
    if plan.too_long:
        every = plan.too_long + len(plan.requests)
        yield (
            f"{plan.too_long} of {every} requests ({plan.too_long / every:.0%}) exceed the model's context"
            " and were left out: the load is lighter than the trace's, and its longest prompts are missing."
            " --trace-scale shortens all instead."
        )
    at_once = work.about.get("at_once_ratio")
    if isinstance(at_once, float) and at_once > MAX_AT_ONCE_RATIO:
        yield (
            f"{at_once:.0%} of the trace's requests have the very time of the one before: its clock is"
            " coarse, and they come in bursts that life had not, so first tokens come later than in life."
        )
    yield (
        "Follow-ups of a trace hold the answers of the service that it was taken from, not this server's:"
        " KV made while decoding is never found again, as it would be in life."
    )
    asked = sum(request.input_tokens for request in plan.requests)
    if report.completed == len(plan.requests) and asked and report.prompt_tokens:
        miss = report.prompt_tokens / asked - 1
        if abs(miss) > MAX_LENGTH_MISS:
            yield f"Prompts had {miss:+.1%} tokens against the trace: words take other than was measured."


def _cuts(work: Work) -> Iterator[str]:
    if work.cuts.turns or work.cuts.shortened:
        yield (
            f"The model's context left no room for {work.cuts.turns} later turns, and {work.cuts.shortened}"
            " first questions were shortened: conversations are shorter than the workload's."
        )
    if (work.replayed is not None or "name" in work.about) and work.wording is None:
        yield "The server does not say how many tokens a prompt has: a word was taken for a token."


def _known_before(work: Work, report: Report, records: Sequence[TurnRecord]) -> Iterator[str]:
    firsts = [record.tokens for record in records if record.turn == 0 and record.tokens]
    cached = sum(tokens.cached for tokens in firsts)
    prompts = sum(tokens.prompt for tokens in firsts)
    shared = work.shared_ratio * prompts + work.shared_tokens * len(firsts)
    known = work.about.get("endless_cache_ratio")
    if work.fresh and firsts and cached > 1.05 * shared + _SLACK_TOKENS * len(firsts):
        yield (
            f"The server knew {cached / prompts:.0%} of the first questions, where only"
            f" {shared / prompts:.0%} is shared: it was asked with this seed before. Give another --seed."
        )
    if (
        isinstance(known, float)
        and report.cached_prompt_ratio is not None
        and report.cached_prompt_ratio > known + 0.05
    ):
        yield (
            f"The server found {report.cached_prompt_ratio:.0%} of the prompts in its cache, an endless one"
            f" would have {known:.0%}: it was asked this trace before. Give another --seed."
        )


def _foreign(report: Report) -> Iterator[str]:
    cache = report.server_cache
    if cache and cache.foreign_ratio is not None and cache.foreign_ratio > MAX_FOREIGN_RATIO:
        yield (
            f"{cache.foreign_ratio:.0%} of the prompt tokens that the server counted are not of completed"
            " requests of this run: somebody else asked too, or requests were cut."
        )


def _ramp(climbed: Climbed | None, report: Report) -> Iterator[str]:
    if climbed is None:
        return
    length, seconds = report.request_seconds.p50, climbed.steps[0].seconds
    if length is not None and 3 * length > seconds:
        yield (
            f"A request takes {length:.1f} s and a step only {seconds:g} s: whether requests pile up cannot"
            " be told from so short steps. Give a longer --ramp-seconds."
        )
    if not climbed.reached:
        yield "Saturation was not reached: the knee lies at the last step or above. Give more --ramp-steps."
    if any(step.client_limited for step in climbed.steps):
        yield "In some steps the client was too busy or too late: the knee may be its own, not the server's."


def notes(
    source: Source,
    work: Work,
    report: Report,
    records: Sequence[TurnRecord],
    climbed: Climbed | None = None,
) -> tuple[str, ...]:
    """Sentences for people; `records` without the warm-up's."""
    return (
        *_speed_up(source),
        *_trace(source, work, report),
        *_cuts(work),
        *_known_before(work, report, records),
        *_foreign(report),
        *_ramp(climbed, report),
    )
