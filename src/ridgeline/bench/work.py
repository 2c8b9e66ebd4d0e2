"""Everything that a run asks, and when: made ready before the first request is measured."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import aiohttp

from ridgeline.bench.profiles import Profile
from ridgeline.bench.trace import Replayed, TraceRequest, read_trace, replayed, trace_conversations
from ridgeline.bench.wording import WORD_IS_A_TOKEN, Wording, probe
from ridgeline.bench.workload import (
    Conversation,
    Cuts,
    Shape,
    made_conversations,
    profile_conversations,
    read_conversations,
    repeated,
)

CONTEXT_USED = 0.98
"""Of a model's context: what text takes is known to about a percent."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where conversations come from: a file of them, a trace, a named workload, or fixed lengths.

    Attributes:
        shape: fixed lengths; its `output_tokens` is also the limit for a file's.
        profile: a named workload, in place of the shape.
        prompts: a file of conversations.
        trace: a file of a service's requests.
        trace_scale: the trace's lengths are multiplied by it.
        speed_up: a profile's pauses and a trace's times are divided by it.
        context_tokens: the model's; None for what the server says, if it does.
    """

    shape: Shape = field(default_factory=Shape)
    profile: Profile | None = None
    prompts: Path | None = None
    trace: Path | None = None
    trace_scale: float = 1.0
    speed_up: float = 1.0
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """What was read of the files that a source names."""

    conversations: list[Conversation] | None = None
    trace: list[TraceRequest] | None = None


def read_files(source: Source) -> Files:
    """Read what the source names; before a server is asked, as a bad file is then told at once.

    Raises `WorkloadError` for a file that cannot be used.
    """
    if source.prompts is not None:
        return Files(conversations=read_conversations(source.prompts, source.shape.output_tokens))
    if source.trace is not None:
        return Files(trace=read_trace(source.trace))
    return Files()


@dataclass(slots=True)
class Work:
    """What a run asks.

    Attributes:
        conversations: in the order in which they begin.
        warmup: those of the warm-up; the same if None.
        arrivals: when they begin, in seconds; None where the load says so.
        about: for the report.
        wording: what text takes at this server; None where nothing depends on it.
        cuts: what the context left no room for, counted as conversations are made.
        replayed: of a trace.
        shared_tokens: of the prompt that all conversations begin with.
        shared_ratio: of each first prompt, where only that is known.
        fresh: whether every question is made anew from the seed.
    """

    conversations: Iterator[Conversation]
    about: dict[str, object]
    warmup: Iterator[Conversation] | None = None
    arrivals: tuple[float, ...] | None = None
    wording: Wording | None = None
    cuts: Cuts = field(default_factory=Cuts)
    replayed: Replayed | None = None
    shared_tokens: int = 0
    shared_ratio: float = 0.0
    fresh: bool = True


def endless_cache_ratio(requests: tuple[TraceRequest, ...], block_tokens: int) -> float | None:
    """Share of the prompts' tokens in blocks that an earlier request had, at the same place.

    No cache can find more, unless it knew some of it before.
    """
    seen: set[int] = set()
    totals: Counter[str] = Counter()
    for request in requests:
        totals["all"] += request.input_tokens
        for place, hash_id in enumerate(request.hash_ids):
            if hash_id in seen:
                left = request.input_tokens - place * block_tokens
                totals["seen"] += max(0, min(block_tokens, left))
        seen.update(request.hash_ids)
    return totals["seen"] / totals["all"] if totals["all"] else None


def at_once_ratio(requests: tuple[TraceRequest, ...]) -> float | None:
    """Share of requests that have the very time of the one before them."""
    if len(requests) < 2:
        return None
    same = sum(before.at_seconds == after.at_seconds for before, after in pairwise(requests))
    return same / (len(requests) - 1)


def _of_trace(
    source: Source,
    trace: list[TraceRequest],
    seed: int,
    wording: Wording,
    context: int | None,
    duration_seconds: float | None,
) -> Work:
    plan = replayed(
        trace,
        speed_up=source.speed_up,
        scale=source.trace_scale,
        context_tokens=context,
        duration_seconds=duration_seconds,
    )
    about: dict[str, object] = {
        "trace": source.trace.name if source.trace else None,
        "speed_up": source.speed_up,
        "scale": source.trace_scale,
        "requests": len(plan.requests),
        "left_out_too_long": plan.too_long,
        "left_out_after_end": plan.too_late,
        "context_tokens": context,
        "mean_prompt_tokens": _mean([request.input_tokens for request in plan.requests]),
        "mean_answer_tokens": _mean([request.output_tokens for request in plan.requests]),
        "at_once_ratio": at_once_ratio(plan.requests),
        "endless_cache_ratio": endless_cache_ratio(plan.requests, plan.block_tokens),
    }
    return Work(
        trace_conversations(plan, seed, wording),
        about,
        warmup=made_conversations(Shape(), seed),
        arrivals=tuple(request.at_seconds for request in plan.requests),
        wording=wording,
        replayed=plan,
        fresh=False,
    )


def _mean(values: list[int]) -> float | None:
    return sum(values) / len(values) if values else None


def _of_profile(source: Source, profile: Profile, seed: int, wording: Wording, context: int | None) -> Work:
    cuts = Cuts()
    conversations = profile_conversations(profile, seed, wording, source.speed_up, context, cuts)
    about = {**profile.describe(), "speed_up": source.speed_up, "context_tokens": context}
    shared = profile.system_tokens + round(wording.overhead_tokens)
    return Work(conversations, about, wording=wording, cuts=cuts, shared_tokens=shared)


async def prepare(
    source: Source,
    files: Files,
    session: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, object],
    *,
    seed: int,
    context_tokens: int | None,
    duration_seconds: float | None,
) -> Work:
    """Make ready, and learn what text takes at this server where lengths are to be as drawn.

    Args:
        source: where conversations come from.
        files: what `read_files` read.
        session: see `client.new_session`.
        url: the server's.
        body: fields of every request beside messages and max_tokens.
        seed: of all that is made.
        context_tokens: what the server says of the model; the source's own goes before it.
        duration_seconds: of the run, where it is bounded.
    """
    if files.conversations is not None and source.prompts is not None:
        return Work(repeated(files.conversations), {"file": source.prompts.name}, fresh=False)
    if files.trace is None and source.profile is None:
        shape = source.shape
        shared = shape.system_tokens / (shape.system_tokens + shape.input_tokens)
        return Work(made_conversations(shape, seed), asdict(shape), shared_ratio=shared)
    limit = source.context_tokens or context_tokens
    context = None if limit is None else int(CONTEXT_USED * limit)
    probed = await probe(session, url, body)
    wording = probed or WORD_IS_A_TOKEN
    if files.trace is not None:
        work = _of_trace(source, files.trace, seed, wording, context, duration_seconds)
    else:
        assert source.profile is not None
        work = _of_profile(source, source.profile, seed, wording, context)
    if probed is None:
        work.wording = None
    work.about |= {"tokens_per_word": wording.tokens_per_word, "overhead_tokens": wording.overhead_tokens}
    return work
