"""Where a request is answered soonest: predicted time to first token on each replica.

    wait for a place + a step + computing what others were sent before + computing what is not cached
        + round trip

To that is added what a place in a crowded batch costs: one more sequence slows all that are there, and takes
memory from what is cached. Without it whoever has a system prompt cached would be given everybody.

All from figures that may be old or wrong, so each prediction has a doubt, and whoever could be the best
within its doubt has the same chance: bursts spread, and a signal that is stale makes choices more even
instead of stopping them. A place is one in the batch and the KV memory for prompt and answer.
"""

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgeline.fleet.core.replica import LEAST_STARTING, SLOW_START_SECONDS
from ridgeline.fleet.core.table import Bools, Floats, Table

LEAST_DOUBT_SECONDS = 0.002
DOUBT_OF_COMPUTING = 0.05
"""Share of the computed part: token counts are estimates."""

STALE_SECONDS = 10.0
"""A load told so long ago says nothing about the queue any more."""

FULL_KV = 0.98
"""Share of KV memory that is given away: answers grow longer than was foretold, and preempting costs more
than waiting."""

CROWDING = 0.1
"""Share of a usual answer's time that a place in a batch that is half full costs; more the fuller it is. A
balanced fleet matters more than a near replica, for tokens come slowly compared with a round trip."""

MOST_CROWDED = 0.9

OTHERS = 3
"""Replicas that are told beside the chosen one, as the reason."""


@dataclass(frozen=True, slots=True)
class Option:
    """A replica, and what is expected of it.

    Attributes:
        replica: its id.
        cached_tokens: of the prompt, believed to be there.
        queue_seconds: until it has a place.
        prefill_seconds: of what was sent there before, and of this prompt.
        round_trip_seconds: from the front door and back.
        crowding_seconds: what its place costs those who are there, and itself later.
        doubt_seconds: how much less it could be.
        has_place: it would begin at once.
    """

    replica: str
    cached_tokens: int
    queue_seconds: float
    prefill_seconds: float
    round_trip_seconds: float
    crowding_seconds: float
    doubt_seconds: float
    has_place: bool

    @property
    def seconds(self) -> float:
        """Predicted time to first token."""
        return self.queue_seconds + self.prefill_seconds + self.round_trip_seconds

    @property
    def cost_seconds(self) -> float:
        """That, and what the place costs: what replicas with a place are chosen by."""
        return self.seconds + self.crowding_seconds


@dataclass(frozen=True, slots=True)
class Estimates:
    """What is expected of every row of the table; all [rows]."""

    table: Table
    allowed: Bools
    cached: Floats
    queue: Floats
    prefill: Floats
    seconds: Floats
    crowding: Floats
    doubt: Floats
    has_place: Bools

    def choose(self, rng: random.Random) -> int:
        """The row of least cost, of those that have a place; of those that could be it, any.

        One without a place is chosen only where waiting for it ends sooner than anybody else begins.
        """
        ready, waiting = self.allowed & self.has_place, self.allowed & ~self.has_place
        if not ready.any():
            return self._any_near(waiting, self.seconds, rng)
        if waiting.any():
            sooner = waiting & (self.seconds + self.doubt < (self.seconds - self.doubt)[ready].min())
            if sooner.any():
                return self._any_near(sooner, self.seconds, rng)
        return self._any_near(ready, self.seconds + self.crowding, rng)

    def _any_near(self, among: Bools, cost: Floats, rng: random.Random) -> int:
        rows = np.flatnonzero(among & (cost - self.doubt <= cost[among].min()))
        return int(rows[rng.randrange(len(rows))])

    def soonest(self, but: int) -> list[int]:
        """The next best rows."""
        cost = self.seconds + self.crowding
        rows = np.flatnonzero(self.allowed)
        if len(rows) > OTHERS + 1:
            rows = rows[np.argpartition(cost[rows], OTHERS)[: OTHERS + 1]]
        order = rows[np.argsort(cost[rows], kind="stable")]
        return [int(row) for row in order if row != but][:OTHERS]

    def option(self, row: int) -> Option:
        """A row in words."""
        return Option(
            self.table.ids[row],
            int(self.cached[row]),
            float(self.queue[row]),
            float(self.prefill[row]),
            float(self.table.round_trip[row]),
            float(self.crowding[row]),
            float(self.doubt[row]),
            bool(self.has_place[row]),
        )


def places(table: Table, now: float) -> Floats:
    """Sequences that each takes at once, see `Replica.places`."""
    share = np.minimum((now - table.up_seconds) / SLOW_START_SECONDS, 1.0)
    starting = np.maximum(np.minimum(LEAST_STARTING, table.slots), np.floor(table.slots * share))
    return np.where(share >= 1.0, table.slots, starting)


def any_place(table: Table, now: float) -> bool:
    """Whether anybody has a place in its batch: quick to tell, and mostly it is no."""
    closed_until = np.maximum(table.open_until, table.full_until)
    return bool(((table.running < places(table, now)) & (closed_until <= now)).any())


def estimate(
    table: Table, allowed: Bools, prompt_tokens: int, kv_tokens: int, cached_tokens: Floats, now: float
) -> Estimates:
    """What is expected of all replicas.

    Args:
        table: of them.
        allowed: [rows], who may be chosen.
        prompt_tokens: of the request.
        kv_tokens: that it will hold at its end, cached ones included.
        cached_tokens: [rows], of the prompt.
        now: the time.
    """
    have = places(table, now)
    over = table.running - have + 1
    # The p-th in line begins when the p-th of those there ends: places free up one service time apart.
    queue = np.maximum(over, 0.0) * table.service / np.maximum(have, 1.0)
    short = _short_of_kv(table, kv_tokens - cached_tokens)
    each = table.kv_used / np.maximum(table.running, 1.0)
    refused = table.full_until > now
    ends = np.maximum(np.ceil(short / np.maximum(each, 1.0)), refused)
    queue = np.maximum(queue, ends * table.service / np.maximum(table.running, 1.0))
    has_place = (over <= 0) & (short <= 0) & ~refused
    age = np.minimum(now - table.told_seconds, STALE_SECONDS)
    told = np.where(~has_place & (age < STALE_SECONDS), table.told_wait, 0.0)
    queue = np.maximum(queue, told)
    prefill = table.base + (prompt_tokens - cached_tokens + table.pending) / table.rate
    doubt = LEAST_DOUBT_SECONDS + DOUBT_OF_COMPUTING * prefill
    crowding = _crowding(table, np.maximum(kv_tokens - cached_tokens, 0.0) / max(1, kv_tokens))
    doubt += age / STALE_SECONDS * (queue + crowding + table.service / np.maximum(have, 1.0))
    seconds = queue + prefill + table.round_trip
    return Estimates(table, allowed, cached_tokens, queue, prefill, seconds, crowding, doubt, has_place)


def _crowding(table: Table, new_share: Floats) -> Floats:
    """Seconds that one more sequence costs, by the share of batch or memory that is taken.

    Of memory it takes only what is not there already (`new_share` of what it needs), so that conversations
    are drawn to their own memory also where all is crowded.
    """
    batch = np.minimum(table.running / np.maximum(table.slots, 1.0), MOST_CROWDED)
    memory = np.minimum(table.kv_used / np.maximum(table.kv_tokens, 1.0), MOST_CROWDED)
    crowded = np.maximum(batch / (1 - batch), new_share * memory / (1 - memory))
    crowding: Floats = CROWDING * table.service * crowded
    return crowding


def _short_of_kv(table: Table, kv_tokens: Floats) -> npt.NDArray[np.float64]:
    """Tokens that must be freed before it fits; never for what has nothing running, or does not tell."""
    short = table.kv_used + kv_tokens - FULL_KV * table.kv_tokens
    return np.where((table.kv_tokens > 0) & (table.running > 0), np.maximum(short, 0.0), 0.0)
