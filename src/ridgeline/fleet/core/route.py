"""Where a request is answered soonest: predicted time to first token on each replica.

    wait for a place + computing what others were sent before + computing what is not cached + round trip

All from figures that may be old or wrong, so each prediction has a doubt, and whoever could be the best
within its doubt has the same chance: bursts spread, and a signal that is stale makes choices more even
instead of stopping them.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.fleet.core.replica import Replica

LEAST_DOUBT_SECONDS = 0.002
DOUBT_OF_COMPUTING = 0.05
"""Share of the computed part: token counts are estimates."""

STALE_SECONDS = 10.0
"""A load told so long ago says nothing about the queue any more."""


@dataclass(frozen=True, slots=True)
class Option:
    """A replica, and what is expected of it.

    Attributes:
        replica: its id.
        cached_tokens: of the prompt, believed to be there.
        queue_seconds: until it has a place.
        prefill_seconds: of what was sent there before, and of this prompt.
        round_trip_seconds: from the front door and back.
        doubt_seconds: how much less it could be.
        has_place: it would begin at once.
    """

    replica: str
    cached_tokens: int
    queue_seconds: float
    prefill_seconds: float
    round_trip_seconds: float
    doubt_seconds: float
    has_place: bool

    @property
    def seconds(self) -> float:
        """Predicted time to first token."""
        return self.queue_seconds + self.prefill_seconds + self.round_trip_seconds


def option(
    replica: Replica, prompt_tokens: int, cached_tokens: int, round_trip_seconds: float, now: float
) -> Option:
    """What is expected of one replica."""
    running, places = replica.running, replica.places(now)
    over = running - places + 1
    # The p-th in line begins when the p-th of those there ends: places free up one service time apart.
    queue = max(0.0, over) * replica.service_seconds / max(1, places)
    load = replica.load
    if load is not None and now - load.seconds < STALE_SECONDS:
        queue = max(queue, load.wait_seconds if over > 0 else 0.0)
    ahead = sum(
        sent.uncached_tokens for sent in replica.sent.values() if sent.seconds >= now - queue_memory(replica)
    )
    uncached = prompt_tokens - cached_tokens
    prefill = (uncached + ahead) / replica.prefill_tokens_per_second
    age = STALE_SECONDS if load is None else min(STALE_SECONDS, now - load.seconds)
    doubt = LEAST_DOUBT_SECONDS + DOUBT_OF_COMPUTING * prefill
    doubt += age / STALE_SECONDS * (queue + replica.service_seconds / max(1, places))
    return Option(replica.id, cached_tokens, queue, prefill, round_trip_seconds, doubt, over <= 0)


def queue_memory(replica: Replica) -> float:
    """How long a prompt that was sent is taken to be still computed: as long as computing it takes."""
    pending = sum(sent.uncached_tokens for sent in replica.sent.values())
    return pending / replica.prefill_tokens_per_second


def choose(options: Sequence[Option], rng: random.Random) -> Option:
    """The soonest; of those that could be it, any, before any that has no place yet. At least one option."""
    least = min(each.seconds for each in options)
    near = [each for each in options if each.seconds - each.doubt_seconds <= least]
    return rng.choice([each for each in near if each.has_place] or near)
