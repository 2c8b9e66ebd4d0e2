"""What became of a request, event by event: plain data that the engine writes and anybody may read.

Times are of `time.monotonic()`, which all processes of a machine share; durations are in seconds.
Whoever is named in an event is named by request id, and only where both have the same tenant. Nobody
changes an event; they are not frozen, since making one would then take thrice as long, in the engine.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ridgeline.protocol.stream import FinishReason

ANOTHER_USER = "another user's request"
"""Stands for a request whose id is none of the reader's business; no id has spaces."""

WaitReason = Literal["line", "slots", "blocks", "pace", "step", "same_prefix", "load"]
"""What a waiting request waits for: its turn, a place in the batch, KV blocks, a batch that keeps the
latency target, room in the step's token budget, another that computes what it begins with, a load from
a tier below the device."""

LoadTrouble = Literal["lost", "late", "no_room", "beginning_evicted"]
"""Why blocks of a tier did not come: gone or wrong there, not within the patience, no room on the
device, or of no use since the blocks before them were evicted meanwhile."""


@dataclass(slots=True)
class Event:
    """Something that happened to one answer of a request, at a time."""

    seconds: float


@dataclass(slots=True)
class Queued(Event):
    """It came into the line.

    Attributes:
        prompt_tokens: of it.
        max_tokens: that its answer may have.
        ahead: requests that waited already, of whatever priority.
        running: answers in the batch.
        expected_wait_seconds: from arrival to the first step, as foretold; None where nothing is.
        expected_first_token_seconds: from arrival.
        expected_cached_tokens: of the prompt.
    """

    prompt_tokens: int
    max_tokens: int
    ahead: int
    running: int
    expected_wait_seconds: float | None = None
    expected_first_token_seconds: float | None = None
    expected_cached_tokens: int | None = None


@dataclass(slots=True)
class Refused(Event):
    """It was not served, or failed; `wait_seconds` is the computed wait it was told."""

    code: str
    message: str
    wait_seconds: float | None = None


@dataclass(slots=True)
class LoadBegun(Event):
    """Blocks are being read from a tier below the device."""

    tier: str
    tokens: int
    expected_seconds: float


@dataclass(slots=True)
class Loaded(Event):
    """A load came to its end: so many of the tokens came, and why the others did not."""

    tier: str
    tokens: int
    missing_tokens: int
    expected_seconds: float
    took_seconds: float
    why: LoadTrouble | None = None


@dataclass(slots=True)
class NotLoaded(Event):
    """A tier has the tokens, but computing them was expected to take less time than reading them."""

    tier: str
    tokens: int
    expected_seconds: float
    recompute_seconds: float


@dataclass(slots=True)
class Awaited(Event):
    """It began to wait for another that is computing what its own prompt begins with."""

    by: str
    tokens: int


@dataclass(slots=True)
class Evicted:
    """Tokens that were cached once and gave way.

    Attributes:
        tokens: how many.
        by: the request that needed the room; empty where it is not known any more.
        seconds: when the last of them went.
        price: about the highest that one of them had: seconds of computing that it was expected to
            save per second that it was kept; None where the policy knows no price.
    """

    tokens: int
    by: str
    seconds: float
    price: float | None = None


@dataclass(slots=True)
class Matched(Event):
    """What of the known tokens was cached when it came into the batch.

    Attributes:
        device_tokens: found on the device.
        loaded_tokens: that had been loaded from tiers below it, by tier.
        evicted_tokens: were cached once and are gone.
        cold_tokens: were never seen before.
        short_tokens: fill no whole block, or are the one that must be computed in any case.
        evictions: who made the evicted ones go, the most first; at most a few.
        room_tokens: with so much more room on the device they would still have been there, had the
            least recently used gone first; None where none is missing.
        recomputed_tokens: after a preemption, those that it has to compute a second time.
    """

    device_tokens: int
    loaded_tokens: Mapping[str, int]
    evicted_tokens: int
    cold_tokens: int
    short_tokens: int
    evictions: tuple[Evicted, ...] = ()
    room_tokens: int | None = None
    recomputed_tokens: int = 0


@dataclass(slots=True)
class Admitted(Event):
    """It got a place in the batch.

    Attributes:
        waited: seconds by what it waited for since it arrived, or since it was preempted.
        again: after a preemption.
    """

    waited: Mapping[WaitReason, float]
    again: bool = False


@dataclass(slots=True)
class Prefilled(Event):
    """Tokens `first` to `last` (exclusive) were computed, in so many steps; one that goes on is told
    again with the same `first`, which takes its place."""

    first: int
    last: int
    steps: int
    took_seconds: float
    done: bool


@dataclass(slots=True)
class FirstToken(Event):
    """The answer begins, so long after its arrival; beside what was foretold."""

    after_seconds: float
    expected_seconds: float | None = None


@dataclass(slots=True)
class Placed(Event):
    """A front door sent it to a replica.

    Attributes:
        replica: its id.
        attempt: 1 for the first.
        waited_seconds: for a place, at the front door.
        cached_tokens: of the prompt, believed to be there.
        queue_seconds: expected there.
        prefill_seconds: the same, with what was sent there before.
        round_trip_seconds: from the front door and back.
        crowding_seconds: what its place costs those who are there, counted when replicas are compared.
        others: the next best replicas, and the sum of all these for each of them.
    """

    replica: str
    attempt: int
    waited_seconds: float
    cached_tokens: int
    queue_seconds: float
    prefill_seconds: float
    round_trip_seconds: float
    crowding_seconds: float
    others: Mapping[str, float]


@dataclass(slots=True)
class Returned(Event):
    """A replica gave it back to the front door: it was full, or it failed.

    Attributes:
        replica: its id.
        why: of the two.
        message: what it said, or what happened.
        pieces: of the answer that had been given out.
    """

    replica: str
    why: Literal["full", "fault"]
    message: str
    pieces: int


@dataclass(slots=True)
class WentOn(Event):
    """Another replica gave the first token after those that had been given out."""


@dataclass(slots=True)
class Preempted(Event):
    """It had to leave the batch.

    Attributes:
        by: for whom.
        why: KV blocks were short, or somebody of a better priority waited.
        blocks: that it let go of.
        computed_tokens: that it had.
        expected_seconds: to have them again.
    """

    by: str
    why: Literal["blocks", "priority"]
    blocks: int
    computed_tokens: int
    expected_seconds: float


@dataclass(slots=True)
class Saved(Event):
    """Copies of its blocks were sent to a tier below the device."""

    tier: str
    blocks: int


@dataclass(slots=True)
class Finished(Event):
    """The answer is over; `decode_seconds` are from its first token on."""

    reason: FinishReason
    tokens: int
    decode_seconds: float


@dataclass(slots=True)
class Told:
    """New events of a sequence."""

    sequence_id: str
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class AnswerTimeline:
    """Events of one answer, oldest first; `omitted` ones were left out of the middle."""

    events: tuple[Event, ...]
    omitted: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """All that is known of a request.

    Attributes:
        id: of the request.
        name: by which its client knows it; several requests may go by the same.
        tenant: whose it is; nobody else may see this.
        model: that was asked for.
        received_seconds: when the server got it.
        received_unix_seconds: the same as seconds since 1970.
        now_seconds: when this was written down.
        answers: one for each of its answers.
    """

    id: str
    name: str
    tenant: str
    model: str
    received_seconds: float
    received_unix_seconds: float
    now_seconds: float
    answers: tuple[AnswerTimeline, ...] = field(default=())
