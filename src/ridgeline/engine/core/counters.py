"""What the scheduler counts; the loop reads them after each step and hands on the differences."""

from dataclasses import dataclass, fields

from ridgeline.engine.core.sequence import Sequence
from ridgeline.kvcache import Match


@dataclass(slots=True)
class Counters:
    """Totals since start. Tokens unless the name says otherwise.

    `hit`, `evicted`, `cold` and `short` are of prompts at first admission (see `kvcache.Match`);
    `recomputed_*` is KV that existed once and had to be computed again, by cause. `drafted` tokens were
    computed before they were drawn, and `accepted` of them were.
    """

    hit: int = 0
    evicted: int = 0
    cold: int = 0
    short: int = 0
    recomputed_evicted: int = 0
    recomputed_preempted: int = 0
    preemptions: int = 0
    evicted_blocks: int = 0
    drafted: int = 0
    accepted: int = 0

    def count(self, match: Match, sequence: Sequence) -> None:
        """A sequence is admitted with this match; after a preemption it counts as recomputing."""
        if sequence.preemptions:
            self.recomputed_preempted += max(0, sequence.reached - match.hit)
            return
        self.hit += match.hit
        self.evicted += match.evicted
        self.cold += match.cold
        self.short += match.short
        self.recomputed_evicted += match.evicted

    def since(self, earlier: "Counters") -> "Counters":
        """Difference to an earlier copy."""
        return Counters(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)))

    def copy(self) -> "Counters":
        """A copy to compare with later."""
        return Counters(*(getattr(self, f.name) for f in fields(self)))
