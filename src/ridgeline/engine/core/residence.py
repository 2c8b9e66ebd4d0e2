"""Where a sequence's KV lives: what of it is cached, whether it fits, what it takes and gives back.

blocks | match.blocks (shared) | allocated, announced | allocated as the answer grows |
       0                  match.hit             known tokens
"""

from collections.abc import Iterable

from ridgeline.engine.core.labelling import Labelling
from ridgeline.engine.core.limits import ExpectedOutput
from ridgeline.engine.core.sequence import Sequence
from ridgeline.kvcache import KVCache, Match, extend_keys, root_key


class Residence:
    """The scheduler's hand on the KV ledger; keeps `Sequence.blocks`, `keys` and `announced`."""

    def __init__(
        self,
        cache: KVCache,
        expected: ExpectedOutput,
        watermark: float,
        shared: frozenset[bytes],
        labelling: Labelling,
    ) -> None:
        self._cache = cache
        self._labelling = labelling
        self._shared = shared
        self._expected = expected
        self._watermark_blocks = max(1, round(watermark * cache.total))

    def match(self, sequence: Sequence) -> Match:
        """What the cache has of a waiting sequence; keys are computed once per token."""
        self._extend_keys(sequence)
        if sequence.scores_prompt:
            return Match((), 0, 0, 0, short=len(sequence.tokens))
        return self._cache.match(sequence.keys, sequence.tokens)

    def is_being_computed(self, sequence: Sequence, match: Match) -> bool:
        """Whether a running sequence is about to publish the first block that is missing here."""
        first = len(match.blocks)
        return (
            not sequence.scores_prompt
            and first < (len(sequence.tokens) - 1) // self._cache.block_size
            and self._cache.is_coming(sequence.keys[first])
        )

    def expected_growth(self, sequences: Iterable[Sequence]) -> int:
        """Blocks that these will still take beyond those they hold, as far as can be expected."""
        return sum(max(0, self._final_blocks(s) - len(s.blocks)) for s in sequences)

    def expected_need(self, sequence: Sequence) -> int:
        """Blocks that a waiting one will take, an answer included.

        What is in use by others it finds. That is looked up only for those who were granted a place and
        begin in a moment: a long line of others is taken to need all.
        """
        final = self._final_blocks(sequence)
        if not sequence.spec.begin_at_once:
            return final
        found = self.match(sequence).blocks
        return final - len(found) + self._cache.idle_among(found)

    def has_room(self, sequence: Sequence, match: Match, growth: int | None) -> bool:
        """Whether prompt and expected answer fit beside what runs, keeping the watermark.

        `growth` is what the running ones are expected to take yet; None when nothing runs: then
        there is nothing to wait for, and whatever fits at all is let in.
        """
        known = self._cache.blocks_for(len(sequence.tokens))
        need = known - len(match.blocks)
        available = self._cache.available - self._cache.idle_among(match.blocks)
        if growth is None:
            return need <= available
        own_growth = max(0, self._final_blocks(sequence) - known)
        return need + own_growth + growth + self._watermark_blocks <= available

    def move_in(self, sequence: Sequence, match: Match, now: float) -> None:
        """Hold the cached prefix and take blocks for all other known tokens."""
        shared = len(match.blocks)
        if sequence.admitted_seconds is None and not sequence.scores_prompt:
            self._cache.wanted(sequence.keys, now)
        self._cache.hold(match.blocks)
        need = self._cache.blocks_for(len(sequence.tokens)) - shared
        sequence.blocks = [*match.blocks, *self._allocate(need, sequence, now)]
        sequence.computed = match.hit
        sequence.published = shared
        sequence.announced = sequence.keys[shared:]
        self._cache.announce(sequence.announced)
        self._labelling.placed(sequence, 0, shared)

    def lacks(self, sequence: Sequence, tokens: int = 1) -> int:
        """Blocks that so many more tokens need beyond those held."""
        return self._cache.blocks_for(sequence.next_position + tokens) - len(sequence.blocks)

    def grow(self, sequence: Sequence, blocks: int, now: float) -> None:
        """Take further blocks; raises OutOfBlocks."""
        if blocks > 0:
            sequence.blocks += self._allocate(blocks, sequence, now)

    def _allocate(self, count: int, sequence: Sequence, now: float) -> list[int]:
        return self._cache.allocate(count, now, sequence.spec.id, sequence.spec.tenant)

    def publish(self, sequence: Sequence) -> None:
        """Make blocks findable whose last token's KV is written."""
        size = self._cache.block_size
        full = sequence.computed // size
        if full == sequence.published:
            return
        self._extend_keys(sequence)
        for i in range(sequence.published, full):
            tokens = tuple(sequence.tokens[i * size : (i + 1) * size])
            parent = sequence.keys[i - 1] if i else None
            self._cache.publish(sequence.blocks[i], sequence.keys[i], tokens, i, parent)
        self._labelling.placed(sequence, sequence.published, full)
        done = sequence.announced[: full - sequence.published]
        self._cache.retract(done)
        sequence.announced = sequence.announced[len(done) :]
        sequence.published = full

    def move_out(self, sequence: Sequence, now: float) -> None:
        """Give everything back; what was published stays cached until its room is needed."""
        self._cache.retract(sequence.announced)
        self._cache.release(sequence.blocks, now)
        sequence.announced, sequence.blocks = [], []
        sequence.computed = sequence.scheduled = sequence.drawing = 0
        sequence.published = sequence.told_blocks = 0

    def _extend_keys(self, sequence: Sequence) -> None:
        spec = sequence.spec
        # No name of a tenant has this sign, so no two pairs make the same root.
        root = root_key(f"{spec.tenant}\0{spec.cache_salt}" if spec.cache_salt else spec.tenant)
        extend_keys(sequence.keys, root, sequence.tokens, self._cache.block_size, self._shared)

    def _final_blocks(self, sequence: Sequence) -> int:
        output = self._expected.total(sequence.generated, sequence.spec.max_tokens)
        return self._cache.blocks_for(len(sequence.spec.prompt) + output)
