"""Who has to leave the batch when there is no room for somebody else."""

from collections.abc import Sequence as Seq

from ridgeline.engine.core.foresight import Foresight
from ridgeline.engine.core.sequence import Sequence
from ridgeline.kvcache import KVCache


class Victims:
    """Of the lowest priority, whoever would be back soonest; of equals the last to come.

    Args:
        cache: tells who would make room.
        foresight: tells what it would cost.
    """

    def __init__(self, cache: KVCache, foresight: Foresight) -> None:
        self._cache = cache
        self._foresight = foresight

    def of_growth(self, sequence: Sequence, running: Seq[Sequence]) -> Sequence:
        """For a block that this one lacks: somebody from it on in the batch, it may be itself.

        The first of the batch is spared unless it is alone, so that somebody always ends.
        """
        candidates = running[running.index(sequence) :]
        spared = sequence is running[0] and len(candidates) > 1
        lowest = candidates[-1].spec.priority
        behind = [s for s in candidates[spared:] if s.spec.priority == lowest]
        # Blocks that others hold, too, would make no room.
        giving = [s for s in behind if self._cache.held_once(s.blocks)] or behind
        return self._soonest_back(giving)

    def of_priority(self, waiting: Sequence, running: Seq[Sequence]) -> Sequence | None:
        """For one that waits and finds no room; None where all of a lower priority would not make it."""
        below = [s for s in running if s.spec.priority > waiting.spec.priority]
        need = self._cache.blocks_for(len(waiting.tokens))
        if not below or need > self._cache.available + sum(len(s.blocks) for s in below):
            return None
        return self._soonest_back([s for s in below if s.spec.priority == below[-1].spec.priority])

    def _soonest_back(self, sequences: Seq[Sequence]) -> Sequence:
        return min(reversed(sequences), key=self._foresight.seconds_to_return)
