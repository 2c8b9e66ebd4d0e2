"""A trace through prefix caches of several sizes and policies: what each of them would have saved."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ridgeline.bench.trace import BLOCK_TOKENS, TraceRequest
from ridgeline.kvcache import EvictionPolicy, Ghost, Lru, Price, belady

Policy = Literal["lru", "price", "optimal"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

Seconds = Callable[[int], float]
"""Of recomputing a block, by its position in the prompt."""

_TOLD_EVERY = 256


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a trace's time, as shares of it from 0 to 1: what results are told of."""

    begin: float = 0.0
    end: float = 1.0

    def of(self, trace: Sequence[TraceRequest]) -> range:
        """The requests in it, of a trace in order of time; the very last one is in the last part."""
        last = trace[-1].at_seconds
        times = [request.at_seconds for request in trace]
        begin = bisect_left(times, self.begin * last)
        return range(begin, len(trace) if self.end == 1 else bisect_left(times, self.end * last))


@dataclass(frozen=True, slots=True)
class Replay:
    """What a cache did with the requests of a part of a trace.

    Attributes:
        policy: of eviction.
        room_tokens: of the cache.
        hit_ratio: blocks found, of all.
        saved_seconds: of computing what was found.
    """

    policy: Policy
    room_tokens: int
    hit_ratio: float
    saved_seconds: float


def replay(
    trace: Sequence[TraceRequest],
    policy: Policy,
    room_tokens: int,
    recompute_seconds: Seconds,
    part: Part = Part(),
    on_progress: Callable[[int], None] = lambda requests: None,
) -> Replay:
    """Put a trace through one cache, and tell of a part of it; see `replay_parts`."""
    (result,) = replay_parts(trace, policy, room_tokens, recompute_seconds, (part,), on_progress)
    return result


def replay_parts(
    trace: Sequence[TraceRequest],
    policy: Policy,
    room_tokens: int,
    recompute_seconds: Seconds,
    parts: Sequence[Part],
    on_progress: Callable[[int], None] = lambda requests: None,
) -> list[Replay]:
    """Put a trace through one cache.

    The last block of a prompt counts as a whole one, as it does in the trace's `hash_ids`.

    Args:
        trace: in order of time.
        policy: of the cache; it sees the whole trace.
        room_tokens: of the cache; at least one block.
        recompute_seconds: of a block by its position.
        parts: what is told of.
        on_progress: is told how many more requests are done.

    Raises:
        ValueError: there is no room for a block.
    """
    blocks = room_tokens // BLOCK_TOKENS
    if blocks < 1:
        raise ValueError(f"a room of {room_tokens} tokens has no block of {BLOCK_TOKENS}")
    if policy == "optimal":
        hits = belady([request.hash_ids for request in trace], blocks)
        on_progress(len(trace))
    else:
        hits = _hits(trace, _policy(policy, recompute_seconds), blocks, on_progress)
    until = [0.0]
    for position in range(max(hits, default=0)):
        until.append(until[-1] + recompute_seconds(position))
    results = []
    for part in parts:
        inside = part.of(trace)
        asked = sum(len(trace[i].hash_ids) for i in inside)
        found = sum(hits[i] for i in inside)
        saved = sum(until[hits[i]] for i in inside)
        results.append(Replay(policy, room_tokens, found / asked if asked else 0.0, saved))
    return results


def _policy(name: Policy, recompute_seconds: Seconds) -> EvictionPolicy:
    return Price(recompute_seconds, BLOCK_TOKENS) if name == "price" else Lru()


def _hits(
    trace: Sequence[TraceRequest], policy: EvictionPolicy, blocks: int, on_progress: Callable[[int], None]
) -> list[int]:
    ghost = Ghost(blocks, policy)
    hits = []
    for i, request in enumerate(trace, start=1):
        hits.append(ghost.request(request.hash_ids, request.at_seconds))
        if i % _TOLD_EVERY == 0:
            on_progress(_TOLD_EVERY)
    on_progress(len(trace) % _TOLD_EVERY)
    return hits
