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
from collections.abc import Callable, Iterator, Sequence
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


def _number(row: dict[str, object], name: str, least: float) -> float:
    if name not in row:
        raise ValueError(f"it has no '{name}'")
    value = row[name]
    try:
        number = float(str(value))
    except ValueError:
        raise ValueError(f"'{name}' is {value!r}, which is no number") from None
    if not math.isfinite(number) or number < least:
        raise ValueError(f"'{name}' is {value!r}, but must be {least:.0f} or more")
    return number


def _hash_ids(row: dict[str, object], tokens: int) -> tuple[int, ...]:
    ids = row.get("hash_ids") or []
    if not isinstance(ids, list) or not all(isinstance(number, int) for number in ids):
        raise ValueError("'hash_ids' is no list of whole numbers")
    if ids and len(ids) != math.ceil(tokens / BLOCK_TOKENS):
        raise ValueError(
            f"'hash_ids' has {len(ids)} of them, not one for each {BLOCK_TOKENS} of {tokens} tokens"
        )
    return tuple(ids)


def _request(row: object) -> TraceRequest:
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    at = _number(row, "timestamp", 0)
    given = int(_number(row, "input_length", 1))
    made = max(1, int(_number(row, "output_length", 0)))
    return TraceRequest(at / 1000, given, made, _hash_ids(row, given))


def _parse(path: Path, number: int, line: str) -> TraceRequest:
    try:
        return _request(json.loads(line))
    except ValueError as error:
        raise WorkloadError(f"{path} line {number} is not a request of a trace: {error}") from error


def trace_lines(path: Path, on_bad: Callable[[WorkloadError], None] | None = None) -> Iterator[TraceRequest]:
    """The requests of a trace as its lines are read, with the times that are in the file.

    Args:
        path: of the trace.
        on_bad: is told of a line that is no request, which is left out then.

    Raises:
        WorkloadError: the file cannot be read, or a line is no request and there is no `on_bad`.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    request = _parse(path, number, line)
                except WorkloadError as error:
                    if on_bad is None:
                        raise
                    on_bad(error)
                else:
                    yield request
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"cannot read {path}: {error}") from error


def read_trace(path: Path, on_bad: Callable[[WorkloadError], None] | None = None) -> list[TraceRequest]:
    """Read a trace, in the order of its times, the first of which becomes 0.

    Args:
        path: of the trace.
        on_bad: see `trace_lines`.

    Raises:
        WorkloadError: see `trace_lines`, or there is no request.
    """
    found = list(trace_lines(path, on_bad))
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
