"""Tiers under a virtual clock, which may be slow, lose what they were given, or hand out something else."""

import heapq
import itertools

from ridgeline.engine.core.copies import (
    Copies,
    Discovered,
    Drop,
    Fetched,
    Load,
    Record,
    Restore,
    Save,
    Stored,
)
from ridgeline.kvcache import LoadTime, TierLedger, Tiers


class FakeTiers:
    """Carries orders out on an executor; answers come when `advance` reaches their time.

    `sizes` are blocks by tier; `delays` seconds that a copy takes, `faults` functions that are asked
    before each copy and return one of the names below, or None.
    """

    WRITE_FAULTS = ("fails", "half")
    READ_FAULTS = ("lost", "other", "fails", "late")

    def __init__(self, executor, cache, costs, sizes, *, load_seconds=1e-9, most_on_the_way=1000):
        self.executor = executor
        self.stores = {name: {} for name in sizes}
        ledgers = [TierLedger(name, blocks, LoadTime(load_seconds)) for name, blocks in sizes.items()]
        again = lambda start, count: costs.recompute_seconds(count, start)  # noqa: E731
        self.copies = Copies(cache, Tiers(ledgers, again, cache.block_size), most_on_the_way)
        self.write_seconds = self.read_seconds = 1e-6
        self.write_fault = self.read_fault = lambda: None
        self.restored = 0
        self._answers = []
        self._count = itertools.count()

    def carry_out(self, order, now):
        match order:
            case Restore(blocks, contents):
                self.executor.write_blocks(blocks, contents)
                self.restored += len(blocks)
            case Drop(tier, keys):
                for key in keys:
                    self.stores[tier].pop(key, None)
            case Save(tier, blocks, keys, tokens):
                self._save(tier, keys, tokens, self.executor.read_blocks(blocks)(), now)
            case Load(ticket, tier, keys):
                self._load(ticket, tier, keys, now)

    def _save(self, tier, keys, tokens, contents, now):
        fault = self.write_fault()
        done = {"fails": 0, "half": len(keys) // 2}.get(fault, len(keys))
        for key, own, content in list(zip(keys, tokens, contents, strict=True))[:done]:
            self.stores[tier][key] = Record(own, bytes(content))
        self._answer(now + self.write_seconds, Stored(tier, keys[:done], keys[done:]))

    def _load(self, ticket, tier, keys, now):
        fault = self.read_fault()
        records = [self.stores[tier].get(key) for key in keys]
        if fault == "lost":
            records[len(records) // 2] = None
        elif fault == "other":
            records[-1] = Record((7,) * len(records[-1].tokens) if records[-1] else (), b"")
        elif fault == "fails":
            records = []
        if None in records:
            records = records[: records.index(None) + 1]
        took = self.read_seconds * (1e9 if fault == "late" else 1)
        self._answer(now + took, Fetched(ticket, tuple(records), took))

    def discover(self, tier, now):
        self._answer(now, Discovered(tier, tuple(self.stores[tier])))

    def _answer(self, when, message):
        heapq.heappush(self._answers, (when, next(self._count), message))

    def due(self, now):
        """Answers that have come by now."""
        while self._answers and self._answers[0][0] <= now:
            yield heapq.heappop(self._answers)[2]

    @property
    def next_seconds(self):
        return self._answers[0][0] if self._answers else None
