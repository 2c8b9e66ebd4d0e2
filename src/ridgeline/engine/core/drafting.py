"""Drafts of what comes next, so that one step can draw several tokens of an answer.

A step of few sequences is spent on reading weights; more tokens of the same sequence cost it little. What
may follow the last token is guessed and computed with it, and a token is drawn after each: as long as what
is drawn is what was guessed, the next one counts. Every token is drawn as it would be without drafts, with
the same random number from logits that are the same but for the order of sums: what answers are drawn from
stays as it is, whatever the temperature.
"""

from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Protocol

from ridgeline.engine.core.counters import Counters
from ridgeline.engine.core.limits import MOST_DRAFTED
from ridgeline.engine.core.plan import Row
from ridgeline.engine.core.residence import Residence
from ridgeline.engine.core.rows import launch
from ridgeline.engine.core.sequence import LaunchedRow, Sequence
from ridgeline.kvcache import KVCache

KEY_TOKENS = 3
"""Tokens that must have stood together before: two match by chance too often, four rarely."""


class Drafter(Protocol):
    """Guesses for the sequences of one scheduler."""

    def draft(self, sequence: Sequence, room: int) -> tuple[int, ...]:
        """What may follow the tokens of a sequence, nothing where nobody can say.

        Args:
            sequence: with one token left to compute, and none in flight.
            room: most tokens, at least 1.
        """
        ...

    def told(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """So many of the tokens drafted for it were drawn."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """It runs no more."""
        ...


@dataclass(slots=True)
class _Lookup:
    """Of one sequence: after which place its runs of `KEY_TOKENS` tokens came last, how many tokens have
    been looked through, and how many are drafted next time."""

    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    indexed: int = KEY_TOKENS - 1
    trusted: int = 1


class PromptLookup:
    """Drafts what followed when the last tokens stood in the prompt or the answer before.

    Code that is edited, text that is quoted and lists repeat themselves, and nothing has to be computed for
    it ("prompt lookup decoding", A. Saxena, 2023). The more was right, the more is drafted.

    Args:
        most: tokens for a sequence in a step, at least 1.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lookups: dict[str, _Lookup] = {}

    def draft(self, sequence: Sequence, room: int) -> tuple[int, ...]:
        """See `Drafter.draft`."""
        lookup = self._lookups.setdefault(sequence.spec.id, _Lookup())
        tokens, ends = sequence.tokens, lookup.ends
        # The last run is left out: it is what is looked for.
        for place in range(lookup.indexed + 1, len(tokens)):
            ends[tuple(tokens[place - KEY_TOKENS : place])] = place
        lookup.indexed = max(lookup.indexed, len(tokens) - 1)
        end = ends.get(tuple(tokens[-KEY_TOKENS:]))
        if end is None:
            return ()
        count = min(room, lookup.trusted)
        # A run that overlaps with what is looked for goes round: "ab ab ab" goes on with "ab".
        return tuple(islice(cycle(tokens[end : end + count]), count))

    def told(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """See `Drafter.told`."""
        lookup = self._lookups.get(sequence.spec.id)
        if lookup is not None:
            trusted = 2 * drafted if accepted == drafted else accepted
            lookup.trusted = max(1, min(self._most, trusted))

    def forget(self, sequence: Sequence) -> None:
        """See `Drafter.forget`."""
        self._lookups.pop(sequence.spec.id, None)


class Drafting:
    """The scheduler's hand on a drafter, if it has one: decoding rows with drafts where there is room."""

    def __init__(
        self, drafter: Drafter | None, residence: Residence, cache: KVCache, counters: Counters
    ) -> None:
        self._drafter, self._residence, self._cache, self._counters = drafter, residence, cache, counters

    def decode_rows(
        self, decoding: list[Sequence], most_tokens: int, now: float
    ) -> list[tuple[Row, LaunchedRow]]:
        """A row for each of these; with drafts where that makes no more than so many tokens, and where blocks
        are there for them."""
        rows, room = [], min(MOST_DRAFTED, most_tokens) - len(decoding)
        for place, sequence in enumerate(decoding):
            drafts = self._drafts(sequence, room // (len(decoding) - place), now)
            room -= len(drafts)
            rows.append(launch(sequence, 1, drafts))
        return rows

    def _drafts(self, sequence: Sequence, share: int, now: float) -> tuple[int, ...]:
        room = min(share, sequence.spec.max_tokens - sequence.generated - 1)
        if self._drafter is None or room <= 0:
            return ()
        drafts = self._drafter.draft(sequence, room)
        lacking = self._residence.lacks(sequence, 1 + len(drafts))
        if lacking > self._cache.available:  # nobody is put aside for what may be in vain
            return ()
        self._residence.grow(sequence, lacking, now)
        return drafts

    def took(self, launched: LaunchedRow, tokens: int) -> None:
        """So many tokens of a row were drawn and taken."""
        if self._drafter is not None and launched.drafts:
            self._drafter.told(launched.sequence, launched.drafts, tokens - 1)
            self._counters.drafted += launched.drafts
            self._counters.accepted += tokens - 1

    def forget(self, sequence: Sequence) -> None:
        """It runs no more."""
        if self._drafter is not None:
            self._drafter.forget(sequence)
