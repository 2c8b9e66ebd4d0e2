"""Events of a request in sentences."""

from collections.abc import Callable
from typing import Any

from ridgeline.protocol import Event, Timeline
from ridgeline.protocol.timeline import (
    ANOTHER_USER,
    Admitted,
    Awaited,
    Evicted,
    Finished,
    FirstToken,
    LoadBegun,
    Loaded,
    Matched,
    NotLoaded,
    Placed,
    Preempted,
    Prefilled,
    Queued,
    Refused,
    Returned,
    Saved,
    WaitReason,
    WentOn,
)

WORTH_A_WORD_SECONDS = 0.001
"""Shorter waits are not called waits."""

_WAITED: dict[WaitReason, str] = {
    "line": "its turn in the line",
    "slots": "a place in the batch (--max-batch)",
    "blocks": "KV blocks (--kv-memory)",
    "pace": "a batch small enough to keep the latency target (--itl-target)",
    "step": "room in a step, which other prompts filled",
    "same_prefix": "another request that was computing the same beginning",
    "load": "its blocks to be loaded",
}
_ENDINGS = {"stop": "Ended by itself", "length": "Reached its limit", "cancelled": "Was cancelled"}
_UNITS = ((0.001, 1e6, "µs"), (1.0, 1e3, "ms"), (600.0, 1.0, "s"), (36000.0, 1 / 60, "min"))
_TIERS = {"host": "the host's memory"}
_PLACES = {"host": "in the host's memory"}
_TROUBLES = {
    "lost": "were gone or damaged there",
    "late": "did not come in time, and it was not waited for any longer",
    "no_room": "found no room on the device",
    "beginning_evicted": "were of no use, since what comes before them had been evicted meanwhile",
}


def _queued(event: Queued, _: Timeline) -> str:
    waiting = "nobody" if not event.ahead else f"{event.ahead:,} other{'s' * (event.ahead > 1)}"
    answers = f"{event.running:,} answer{'s' * (event.running != 1)}"
    line = (
        f"Came into the line with a prompt of {tokens(event.prompt_tokens)}; {waiting} waited, {answers} ran"
    )
    if event.expected_first_token_seconds is None or event.expected_wait_seconds is None:
        return f"{line}."
    cached = event.expected_cached_tokens
    return (
        f"{line}. Foretold: a wait of {duration(event.expected_wait_seconds)}, the first token after "
        f"{duration(event.expected_first_token_seconds)}, {tokens(cached or 0)} of the prompt cached."
    )


def _refused(event: Refused, _: Timeline) -> str:
    wait = "" if event.wait_seconds is None else f" The wait was computed as {duration(event.wait_seconds)}."
    return f"Refused ({event.code}): {event.message}{wait}"


def _load_begun(event: LoadBegun, _: Timeline) -> str:
    return (
        f"{tokens(event.tokens)} of its KV began to be loaded from {_tier(event.tier)}, expected to take "
        f"{duration(event.expected_seconds)}."
    )


def _loaded(event: Loaded, _: Timeline) -> str:
    took = f"in {duration(event.took_seconds)} ({duration(event.expected_seconds)} were expected)"
    came = f"{tokens(event.tokens)} were loaded from {_tier(event.tier)} {took}"
    if not event.missing_tokens or event.why is None:
        return f"{came}."
    if not event.tokens:
        return f"{tokens(event.missing_tokens)} {_place(event.tier)} {_TROUBLES[event.why]}."
    return f"{came}; {tokens(event.missing_tokens)} {_TROUBLES[event.why]}."


def _not_loaded(event: NotLoaded, _: Timeline) -> str:
    return (
        f"{tokens(event.tokens)} {_place(event.tier)} were left there: reading them takes "
        f"{duration(event.expected_seconds)}, computing them {duration(event.recompute_seconds)}."
    )


def _awaited(event: Awaited, _: Timeline) -> str:
    return f"Waited for {_who(event.by)}, which was computing the same beginning."


def _matched(event: Matched, timeline: Timeline) -> str:
    found = []
    if event.device_tokens:
        found.append(f"{tokens(event.device_tokens)} on the device")
    found += [f"{tokens(n)} from {_tier(tier)}" for tier, n in event.loaded_tokens.items()]
    parts = [f"Found {' and '.join(found)}" if found else "Found nothing cached"]
    if event.evicted_tokens:
        parts.append(f"{tokens(event.evicted_tokens)} had been evicted{_culprits(event, timeline)}")
    if event.cold_tokens:
        parts.append(f"{tokens(event.cold_tokens)} had never been seen")
    if event.short_tokens and len(parts) + len(found) > 1:
        parts.append(f"the last {event.short_tokens:,} are computed in any case")
    text = "; ".join(parts) + "."
    if event.recomputed_tokens:
        text += f" {tokens(event.recomputed_tokens)} have to be computed a second time."
    return text


def _culprits(event: Matched, timeline: Timeline) -> str:
    if not event.evictions:
        return ""
    whole = len(event.evictions) == 1 and event.evictions[0].tokens == event.evicted_tokens
    return ": " + ", ".join(_culprit(evicted, timeline, whole) for evicted in event.evictions)


def _culprit(evicted: Evicted, timeline: Timeline, whole: bool) -> str:
    count = "" if whole else f"{evicted.tokens:,} "
    if not evicted.by:
        return f"{count}for a reason that is not remembered"
    before = timeline.received_seconds - evicted.seconds
    when = f"{duration(before)} before it came" if before > 0 else "after it came"
    price = "" if evicted.price is None else f", at a price of {duration(evicted.price * 3600)} an hour"
    return f"{count}to make room for {_who(evicted.by)}, {when}{price}"


def _admitted(event: Admitted, _: Timeline) -> str:
    total = sum(event.waited.values())
    again = "back " if event.again else ""
    if total < WORTH_A_WORD_SECONDS:
        return f"Came {again}into the batch at once."
    reasons = sorted(event.waited.items(), key=lambda item: -item[1])
    named = [(why, seconds) for why, seconds in reasons if seconds >= max(WORTH_A_WORD_SECONDS, total / 100)]
    if len(named) == 1:
        return f"Came {again}into the batch after {duration(total)} of waiting for {_WAITED[named[0][0]]}."
    listed = ", ".join(f"{duration(seconds)} for {_WAITED[why]}" for why, seconds in named)
    return f"Came {again}into the batch after {duration(total)}: it waited {listed}."


def _prefilled(event: Prefilled, _: Timeline) -> str:
    count = event.last - event.first
    steps = f"{event.steps:,} step{'s' * (event.steps != 1)}"
    so_far = "" if event.done else " so far"
    return (
        f"Computed {tokens(count)} ({event.first:,} to {event.last:,}) in {steps} and "
        f"{duration(event.took_seconds)}{so_far}."
    )


def _first_token(event: FirstToken, _: Timeline) -> str:
    foretold = (
        "" if event.expected_seconds is None else f" ({duration(event.expected_seconds)} had been foretold)"
    )
    return f"The first token came after {duration(event.after_seconds)}{foretold}."


def _placed(event: Placed, _: Timeline) -> str:
    waited = "" if event.waited_seconds < WORTH_A_WORD_SECONDS else f" after {duration(event.waited_seconds)}"
    parts = [f"{duration(event.prefill_seconds)} of computing with {tokens(event.cached_tokens)} cached"]
    if event.queue_seconds >= WORTH_A_WORD_SECONDS:
        parts.insert(0, f"{duration(event.queue_seconds)} of waiting")
    if event.round_trip_seconds >= WORTH_A_WORD_SECONDS:
        parts.append(f"{duration(event.round_trip_seconds)} of way")
    if event.crowding_seconds >= WORTH_A_WORD_SECONDS:
        parts.append(f"and {duration(event.crowding_seconds)} are counted for the crowd in its batch")
    others = [f"{name} {duration(seconds)}" for name, seconds in event.others.items()]
    beside = f" The next best: {', '.join(others)}." if others else ""
    again = "" if event.attempt == 1 else f" (attempt {event.attempt})"
    return f"Sent to {event.replica}{again}{waited}; expected there: {', '.join(parts)}.{beside}"


def _returned(event: Returned, _: Timeline) -> str:
    if event.why == "full":
        return f"{event.replica} had no place after all."
    given = f" after {event.pieces:,} piece{'s' * (event.pieces != 1)} of the answer" if event.pieces else ""
    return f"{event.replica} failed{given}: {event.message}"


def _went_on(_event: WentOn, _: Timeline) -> str:
    return "The answer went on there."


def _preempted(event: Preempted, timeline: Timeline) -> str:
    whom = "itself" if event.by == timeline.id else _who(event.by)
    why = "KV blocks were short" if event.why == "blocks" else "its priority is lower"
    if whom == "itself":
        whom = "others that came before it"
    return (
        f"Had to leave the batch for {whom}, because {why}: it let go of {event.blocks:,} "
        f"block{'s' * (event.blocks != 1)} ({tokens(event.computed_tokens)}), expected to be back within "
        f"{duration(event.expected_seconds)} of work."
    )


def _saved(event: Saved, _: Timeline) -> str:
    return f"{event.blocks:,} block{'s' * (event.blocks != 1)} of its KV were copied to {_tier(event.tier)}."


def _finished(event: Finished, _: Timeline) -> str:
    how = {"stop": "Ended by itself", "length": "Reached its limit", "cancelled": "Was cancelled"}[
        event.reason
    ]
    rate = ""
    if event.tokens > 1 and event.decode_seconds > 0:
        rate = f", {(event.tokens - 1) / event.decode_seconds:,.1f} a second"
    return f"{how} after {tokens(event.tokens)}{rate}."


def sentence(event: Event, timeline: Timeline) -> str:
    """What an event of this request says to a person."""
    return _WORDS[type(event)](event, timeline)


_WORDS: dict[type[Event], Callable[[Any, Timeline], str]] = {
    Queued: _queued,
    Refused: _refused,
    LoadBegun: _load_begun,
    Loaded: _loaded,
    NotLoaded: _not_loaded,
    Awaited: _awaited,
    Matched: _matched,
    Admitted: _admitted,
    Prefilled: _prefilled,
    FirstToken: _first_token,
    Placed: _placed,
    Returned: _returned,
    WentOn: _went_on,
    Preempted: _preempted,
    Saved: _saved,
    Finished: _finished,
}


def tokens(count: int) -> str:
    """So many tokens, in words."""
    return f"{count:,} token{'s' * (count != 1)}"


def _who(name: str) -> str:
    return name if name == ANOTHER_USER or not name else f"request {name}"


def _tier(name: str) -> str:
    return _TIERS.get(name, name)


def _place(name: str) -> str:
    return _PLACES.get(name, f"on {name}")


def duration(seconds: float) -> str:
    """A duration with three digits and a unit."""
    if seconds < 0.0000005:
        return "0 s"
    for limit, factor, unit in _UNITS:
        if seconds < limit:
            value = seconds * factor
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{seconds / 3600:,.3g} h"
