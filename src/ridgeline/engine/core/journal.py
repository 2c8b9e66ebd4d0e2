"""The scheduler's journal: what it did with each sequence, and why, as events for whoever asks later.

Nothing is written for a token that is decoded, so that a step costs the same with it as without: a
sequence carries a `Story`, and events are made where it changes its state.
"""

from collections.abc import Iterable
from typing import Literal

from ridgeline.engine.core.forecast import Forecast
from ridgeline.engine.core.sequence import Prefill, Sequence
from ridgeline.kvcache import Eviction, KVCache, Match
from ridgeline.protocol import Event, FinishReason, Refusal, Told
from ridgeline.protocol.timeline import (
    ANOTHER_USER,
    Admitted,
    Awaited,
    Evicted,
    Finished,
    FirstToken,
    LoadBegun,
    Loaded,
    LoadTrouble,
    Matched,
    NotLoaded,
    Preempted,
    Prefilled,
    Queued,
    Refused,
    Saved,
    WaitReason,
)

MOST_CULPRITS = 4
"""Requests named in one event as having made others give way."""


class Journal:
    """Events that nobody has read yet, by sequence."""

    def __init__(self) -> None:
        self._untold: dict[str, list[Event]] = {}

    def take(self) -> list[Told]:
        """What is new; the journal is empty afterwards."""
        if not self._untold:
            return []
        told = [Told(name, tuple(events)) for name, events in self._untold.items()]
        self._untold = {}
        return told

    def _note(self, sequence: Sequence, event: Event) -> None:
        self._untold.setdefault(sequence.spec.id, []).append(event)

    # --- waiting -------------------------------------------------------------------------------

    def queued(
        self, sequence: Sequence, ahead: int, running: int, forecast: Forecast | None, now: float
    ) -> None:
        """It came into the line."""
        spec = sequence.spec
        sequence.story.since = sequence.arrived_seconds
        expected = (
            ()
            if forecast is None
            else (forecast.wait_seconds, forecast.first_token_seconds, forecast.cached_tokens)
        )
        event = Queued(now, len(spec.prompt), spec.max_tokens, ahead, running, *expected)
        self._note(sequence, event)

    def held_up(self, sequence: Sequence, why: WaitReason, now: float) -> bool:
        """It could not come into the batch, for this reason; whether it is another than before."""
        story = sequence.story
        if story.why == why:
            return False
        story.wait_for(why, now)
        return True

    def awaits(self, sequence: Sequence, others: Iterable[Sequence], match: Match, now: float) -> None:
        """It lets another compute what both begin with."""
        if not self.held_up(sequence, "same_prefix", now):
            return
        key = sequence.keys[len(match.blocks)]
        other = next((s for s in others if key in s.announced), None)
        by = "" if other is None else _name(sequence, other.spec.id, other.spec.tenant)
        self._note(sequence, Awaited(now, by, len(sequence.tokens) - match.hit))

    # --- copies --------------------------------------------------------------------------------

    def load_begun(self, sequence: Sequence, tier: str, tokens: int, seconds: float, now: float) -> None:
        """Blocks are being read from a tier."""
        self._note(sequence, LoadBegun(now, tier, tokens, seconds))

    def loaded(
        self,
        sequence: Sequence,
        tier: str,
        tokens: tuple[int, int],
        seconds: tuple[float, float],
        why: LoadTrouble | None,
        now: float,
    ) -> None:
        """They came, or did not: tokens that came and that did not, seconds expected and taken."""
        self._note(sequence, Loaded(now, tier, *tokens, *seconds, why))

    def not_loaded(
        self, sequence: Sequence, tier: str, tokens: int, seconds: tuple[float, float], now: float
    ) -> None:
        """A tier has them, but computing takes less: seconds to read, and to compute."""
        story = sequence.story
        if story.declined != (tier, tokens):  # asked anew in each step that it waits
            story.declined = (tier, tokens)
            self._note(sequence, NotLoaded(now, tier, tokens, *seconds))

    def saved(self, sequence: Sequence, tier: str, blocks: int, now: float) -> None:
        """Copies of its blocks were ordered."""
        self._note(sequence, Saved(now, tier, blocks))

    # --- in the batch --------------------------------------------------------------------------

    def admitted(self, sequence: Sequence, match: Match, cache: KVCache, now: float) -> None:
        """It comes into the batch; before its blocks are taken."""
        story = sequence.story
        story.wait_for("line", now)
        again = sequence.preemptions > 0
        size = cache.block_size
        loaded = {tier: blocks * size for tier, blocks in sequence.reloaded.items() if blocks}
        evictions: tuple[Evicted, ...] = ()
        room_tokens = None
        if match.evicted:
            first = len(match.blocks)
            gone = cache.evictions(sequence.keys[first : first + match.evicted // size])
            evictions = _culprits(sequence, gone, size)
            earliest = min((why.order for why, _ in gone if why is not None), default=None)
            room_tokens = None if earliest is None else (cache.evicted_blocks - earliest) * size
        matched = Matched(
            now,
            max(0, match.hit - sum(loaded.values())),
            loaded,
            match.evicted,
            match.cold,
            match.short,
            evictions,
            room_tokens,
            max(0, sequence.reached - match.hit) if again else 0,
        )
        self._note(sequence, matched)
        self._note(sequence, Admitted(now, story.waited, again))
        story.waited = {}
        sequence.prefill = Prefill(match.hit, now)

    def computed(self, sequence: Sequence, last: bool, now: float) -> None:
        """A chunk was computed; the first, second, fourth, ... of them is told, and the last."""
        prefill = sequence.prefill
        assert prefill is not None, "it is not computing its prompt"
        prefill.steps += 1
        if last:
            self.prefill_ends(sequence, now)
        elif prefill.steps & (prefill.steps - 1) == 0:
            self._note(sequence, _prefilled(sequence, prefill, False, now))

    def prefill_ends(self, sequence: Sequence, now: float) -> None:
        """All is computed, or it has to stop in the midst of it."""
        prefill, sequence.prefill = sequence.prefill, None
        if prefill is not None and prefill.steps:
            self._note(sequence, _prefilled(sequence, prefill, True, now))

    def first_token(self, sequence: Sequence, now: float) -> None:
        """The answer begins."""
        expected = None if sequence.forecast is None else sequence.forecast.first_token_seconds
        self._note(sequence, FirstToken(now, now - sequence.arrived_seconds, expected))

    def preempted(self, sequence: Sequence, whom: Sequence, seconds: float, now: float) -> None:
        """It has to leave the batch for `whom`, which may be itself; before it lets go of its blocks."""
        self.prefill_ends(sequence, now)
        story = sequence.story
        story.why, story.since = "line", now
        by = _name(sequence, whom.spec.id, whom.spec.tenant)
        why: Literal["blocks", "priority"] = (
            "priority" if whom.spec.priority < sequence.spec.priority else "blocks"
        )
        blocks = len(sequence.blocks)
        self._note(sequence, Preempted(now, by, why, blocks, sequence.computed, seconds))

    # --- the end -------------------------------------------------------------------------------

    def finished(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        """The answer is over."""
        first = sequence.first_token_seconds
        decode_seconds = 0.0 if first is None else now - first
        self._note(sequence, Finished(now, reason, sequence.generated, decode_seconds))

    def failed(self, sequence: Sequence, refusal: Refusal, now: float) -> None:
        """It was pushed out of the line, or a step broke."""
        self._note(sequence, Refused(now, refusal.code, refusal.message, refusal.retry_after_seconds))


def _prefilled(sequence: Sequence, prefill: Prefill, done: bool, now: float) -> Prefilled:
    return Prefilled(now, prefill.first, sequence.computed, prefill.steps, now - prefill.since_seconds, done)


def _name(reader: Sequence, sequence_id: str, tenant: str) -> str:
    """Whom the reader may know by name: the request without the number of the answer."""
    return sequence_id.rpartition("/")[0] or sequence_id if tenant == reader.spec.tenant else ANOTHER_USER


def _culprits(
    sequence: Sequence, gone: list[tuple[Eviction | None, int]], block_size: int
) -> tuple[Evicted, ...]:
    """Who made these blocks go, the most first."""
    by_name: dict[str, Evicted] = {}
    for why, blocks in gone:
        name = "" if why is None or not why.by else _name(sequence, why.by, why.tenant)
        tokens, seconds, price = blocks * block_size, 0.0 if why is None else why.seconds, why and why.price
        if (so_far := by_name.get(name)) is not None:
            tokens += so_far.tokens
            seconds = max(seconds, so_far.seconds)
            prices = [p for p in (price, so_far.price) if p is not None]
            price = max(prices, default=None)
        by_name[name] = Evicted(tokens, name, seconds, price)
    ordered = sorted(by_name.values(), key=lambda evicted: -evicted.tokens)
    return tuple(ordered[:MOST_CULPRITS])
