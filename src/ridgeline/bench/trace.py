"""Replay of a trace: the requests that a real service got, at the times at which it got them.

Traces are JSON lines as Mooncake publishes them (FAST'25): `timestamp` in ms, `input_length` and
`output_length` in tokens, and `hash_ids`, one for each block of 512 tokens of the prompt; equal ids
stand for equal blocks. The text is lost, so blocks are made of words that depend on the id alone:
prompts that shared a prefix share it again. What cannot be had back: the answers. A follow-up's prompt
holds the trace's answer, not the one that the server gave, so KV made while decoding is never reused.
"""

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ridgeline.bench.wording import Wording, words
from ridgeline.bench.workload import Conversation, WorkloadError

BLOCK_TOKENS = 512
"""Of a block in Mooncake's traces."""

_KEPT_BLOCKS = 20_000  # some 3 kB each


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One line of a trace.

    Attributes:
        at_seconds: from the trace's begin.
        input_tokens: of the prompt, template included.
        output_tokens: of the answer.
        hash_ids: of the prompt's blocks; empty where the trace has none.
    """

    at_seconds: float
    input_tokens: int
    output_tokens: int
    hash_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Replayed:
    """What of a trace is to be sent, and what is not.

    Attributes:
        requests: those to send, in order, with their times and lengths already scaled.
        block_tokens: of a block, scaled.
        too_long: left out, because prompt and answer exceed the model's context.
        too_late: left out, because they come after the duration's end.
    """

    requests: tuple[TraceRequest, ...]
    block_tokens: int
    too_long: int
    too_late: int


def _request(row: dict[str, object]) -> TraceRequest:
    ids = row.get("hash_ids") or []
    if not isinstance(ids, list):
        raise TypeError("'hash_ids' is no list")
    at, given, made = (float(str(row[name])) for name in ("timestamp", "input_length", "output_length"))
    if given < 1 or made < 0 or not math.isfinite(at + given + made):
        raise ValueError("a length below 1, or no number")
    if ids and len(ids) != math.ceil(given / BLOCK_TOKENS):
        raise ValueError(f"{len(ids)} hash_ids are not one for each {BLOCK_TOKENS} of {given:.0f} tokens")
    return TraceRequest(at / 1000, int(given), max(1, int(made)), tuple(int(number) for number in ids))


def _parse(path: Path, number: int, line: str) -> TraceRequest:
    try:
        return _request(json.loads(line))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WorkloadError(f"{path} line {number} is not a request of a trace: {error}") from error


def read_trace(path: Path) -> list[TraceRequest]:
    """Read a trace, in the order of its times, the first of which becomes 0.

    Raises `WorkloadError`, which names the line.
    """
    found: list[TraceRequest] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    found.append(_parse(path, number, line))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"cannot read {path}: {error}") from error
    if not found:
        raise WorkloadError(f"{path} has no request in it")
    found.sort(key=lambda request: request.at_seconds)
    first = found[0].at_seconds
    return [
        TraceRequest(
            request.at_seconds - first, request.input_tokens, request.output_tokens, request.hash_ids
        )
        for request in found
    ]


def replayed(
    trace: Sequence[TraceRequest],
    *,
    speed_up: float = 1.0,
    scale: float = 1.0,
    context_tokens: int | None = None,
    duration_seconds: float | None = None,
) -> Replayed:
    """What is to be sent of a trace.

    Args:
        trace: in order of time.
        speed_up: times are divided by it.
        scale: all lengths are multiplied by it, those of blocks too, so that what was shared still is.
        context_tokens: leave out what exceeds it; None leaves nothing out.
        duration_seconds: leave out what comes later, in seconds of the replay.
    """
    block = max(1, round(BLOCK_TOKENS * scale))
    kept: list[TraceRequest] = []
    too_long = too_late = 0
    for request in trace:
        at = request.at_seconds / speed_up
        given, made = (
            max(1, round(request.input_tokens * scale)),
            max(1, round(request.output_tokens * scale)),
        )
        if duration_seconds is not None and at > duration_seconds:
            too_late += 1
        elif context_tokens is not None and given + made > context_tokens:
            too_long += 1
        else:
            kept.append(TraceRequest(at, given, made, request.hash_ids))
    return Replayed(tuple(kept), block, too_long, too_late)


@lru_cache(maxsize=_KEPT_BLOCKS)
def _block(seed: int, hash_id: int, count: int) -> str:
    return " ".join(words(random.Random(f"{seed}/block/{hash_id}"), count))


def prompt(
    request: TraceRequest, number: int, seed: int, wording: Wording, block_tokens: int = BLOCK_TOKENS
) -> str:
    """The text of a request.

    Every block but the last is whole, so equal beginnings of `hash_ids` give equal beginnings of text;
    the last one gives as many of its words as bring the prompt to its length.

    Args:
        request: whose prompt it is.
        number: of the request; makes the text its own where the trace has no hash ids.
        seed: of all words.
        wording: what text takes in tokens.
        block_tokens: of one block.
    """
    left = wording.words_for(request.input_tokens, whole_prompt=True)
    if not request.hash_ids:
        return " ".join(words(random.Random(f"{seed}/unshared/{number}"), left))
    in_block = wording.words_for(block_tokens)
    parts: list[str] = []
    for hash_id in request.hash_ids:
        text = _block(seed, hash_id, in_block)
        if left < in_block:
            text = " ".join(text.split(" ", left)[:left])
        if left > 0:
            parts.append(text)
        left -= in_block
    return " ".join(parts)


def trace_conversations(plan: Replayed, seed: int, wording: Wording) -> Iterator[Conversation]:
    """One conversation of one turn for each request; they end with the trace."""
    for number, request in enumerate(plan.requests):
        text = prompt(request, number, seed, wording, plan.block_tokens)
        yield Conversation((text,), max_tokens=request.output_tokens)
