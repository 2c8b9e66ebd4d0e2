"""A request's timeline as a story: sentences, where the time went, and what would have been different."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ridgeline.protocol import Event, Timeline
from ridgeline.protocol.timeline import (
    Admitted,
    AnswerTimeline,
    Finished,
    FirstToken,
    Loaded,
    Matched,
    Placed,
    Preempted,
    Prefilled,
    Queued,
    Refused,
    Returned,
    WentOn,
)
from ridgeline.telemetry.sentences import WORTH_A_WORD_SECONDS, duration, sentence, tokens

PhaseName = Literal["arrival", "queue", "load", "prefill", "decode", "preempted", "recompute"]
State = Literal["waiting", "running", "finished", "refused"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of an answer's time, in seconds from its arrival."""

    name: PhaseName
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class Story:
    """Of one answer.

    Attributes:
        state: how it stands.
        sentences: one for each event.
        phases: its time without gaps, from arrival to the end or to now.
        spent: seconds by phase.
        advice: what more room for the KV cache would have changed.
        total_seconds: from arrival to the end or to now.
    """

    state: State
    sentences: tuple[str, ...]
    phases: tuple[Phase, ...]
    spent: Mapping[PhaseName, float]
    advice: tuple[str, ...]
    total_seconds: float


def story(timeline: Timeline, answer: AnswerTimeline) -> Story:
    """The story of one answer of a request."""
    phases = _phases(timeline, answer)
    spent: dict[PhaseName, float] = {}
    for phase in phases:
        spent[phase.name] = spent.get(phase.name, 0.0) + phase.end_seconds - phase.start_seconds
    return Story(
        _state(answer.events),
        tuple(sentence(event, timeline) for event in answer.events),
        phases,
        spent,
        _advice(answer.events),
        phases[-1].end_seconds if phases else 0.0,
    )


# --- where the time went --------------------------------------------------------------------------


def _state(events: Sequence[Event]) -> State:
    for event in reversed(events):
        match event:
            case Finished():
                return "finished"
            case Refused():
                return "refused"
            case Admitted() | Placed():
                return "running"
            case Preempted() | Returned():
                return "waiting"
    return "waiting"


def _phases(timeline: Timeline, answer: AnswerTimeline) -> tuple[Phase, ...]:
    phases: list[Phase] = []
    name: PhaseName = "arrival"
    since = 0.0

    def until(seconds: float, following: PhaseName) -> None:
        nonlocal name, since
        if seconds > since:
            phases.append(Phase(name, since, seconds))
        name, since = following, max(since, seconds)

    for event in answer.events:
        at = event.seconds - timeline.received_seconds
        match event:
            case Queued():
                until(at, "queue")
            case Admitted(waited=waited, again=again):
                if not again:  # what is loaded is loaded last, for one who could begin otherwise
                    until(at - waited.get("load", 0.0), "load")
                until(at, "recompute" if again else "prefill")
            case Prefilled(done=True) if name == "recompute":
                until(at, "decode")
            case Placed():
                until(at, "recompute" if name == "preempted" else "prefill")
            case FirstToken() | WentOn():
                until(at, "decode")
            case Returned(pieces=pieces):
                until(at, "preempted" if pieces else "queue")
            case Preempted():
                until(at, "preempted")
            case Finished() | Refused():
                until(at, name)
                return tuple(phases)
    until(timeline.now_seconds - timeline.received_seconds, name)
    return tuple(phases)


# --- what would have been different -----------------------------------------------------------------


def _advice(events: Sequence[Event]) -> tuple[str, ...]:
    advice = []
    is_first = True  # what was lost after a preemption is the preemption's doing
    for place, event in enumerate(events):
        match event:
            case Matched(evicted_tokens=gone, room_tokens=room) if gone and is_first:
                saved = _saved(gone, events[place:])
                more = f"about {tokens(room)} more room" if room else "more room"
                advice.append(
                    f"With {more} for the KV cache, {tokens(gone)} of the prompt would still have been "
                    f"there{saved}."
                )
            case Admitted(waited=waited) if waited.get("blocks", 0.0) >= WORTH_A_WORD_SECONDS:
                # Whoever stood before it in the line may have waited for blocks, too.
                less = duration(waited["blocks"])
                advice.append(f"With more room for the KV cache it would have waited at least {less} less.")
            case Preempted(why=why):
                is_first = False
                if why == "blocks":
                    advice.append("With more room for the KV cache it would not have had to leave the batch.")
            case Loaded(why="no_room", missing_tokens=missing):
                advice.append(
                    f"With more room on the device the other {tokens(missing)} could have been loaded, too."
                )
    return tuple(dict.fromkeys(advice))


def _saved(gone: int, events: Sequence[Event]) -> str:
    """What the tokens that were gone cost, by what computing the prompt took."""
    for event in events:
        match event:
            case Prefilled(first=first, last=last, took_seconds=took, done=True) if last > first:
                share = min(1.0, gone / (last - first))
                return f", which would have saved about {duration(took * share)}"
    return ""
