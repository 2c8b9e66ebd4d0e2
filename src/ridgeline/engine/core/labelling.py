"""The scheduler's hand on labels: which blocks of a sequence carry what front doors call its text.

submit: marks by block --> found in the cache, or published: put --> ended: what was not is told as evicted
                                     answer's marks, after the end: put at the blocks that it left behind
"""

from collections import OrderedDict
from collections.abc import Iterable

from ridgeline.engine.core.copies import Copies
from ridgeline.engine.core.sequence import Mark, Sequence
from ridgeline.kvcache import KVCache, Label, LabelChanges, Labels

REMEMBERED = 256
"""Sequences that have ended and whose answers may still be marked."""


class Labelling:
    """Labels of sequences that came from front doors; does nothing for others.

    Args:
        cache: the device's ledger.
        copies: to the tiers below it.
    """

    def __init__(self, cache: KVCache, copies: Copies | None) -> None:
        self._cache = cache
        self._ledgers = () if copies is None else copies.tiers.ledgers
        self.labels = Labels(self._is_there)
        cache.on_lost(self.labels.lost)
        for ledger in self._ledgers:
            ledger.on_lost(self.labels.lost)
        self._ended: OrderedDict[str, tuple[str, list[bytes]]] = OrderedDict()

    def _is_there(self, key: bytes) -> bool:
        return self._cache.block_of(key) is not None or any(ledger.has(key) for ledger in self._ledgers)

    def take(self) -> LabelChanges | None:
        """What front doors have not been told yet."""
        return self.labels.take()

    def begin(self, sequence: Sequence) -> None:
        """It has come: its marks are sorted by block."""
        sequence.labels = self._by_block(sequence.spec.tenant, sequence.spec.marks)

    def placed(self, sequence: Sequence, first: int, end: int) -> None:
        """Its blocks from `first` to `end` are in the cache, complete."""
        if not sequence.labels:
            return
        for index in range(first, end):
            labels = sequence.labels.get(index)
            if labels is not None:
                self.labels.put(sequence.keys[index], labels)

    def ended(self, sequence: Sequence) -> None:
        """It is over; before it gives its blocks back."""
        if not sequence.labels:
            return
        for index, labels in sequence.labels.items():
            if index >= sequence.published:
                self.labels.expected(labels)
        self._ended[sequence.spec.id] = (sequence.spec.tenant, sequence.keys[: sequence.published])
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def mark(self, sequence_id: str, marks: Iterable[Mark]) -> None:
        """Marks of a sequence that has ended, its answer included."""
        tenant, keys = self._ended.pop(sequence_id, ("", []))
        for index, labels in self._by_block(tenant, marks).items():
            if index < len(keys) and self._is_there(keys[index]):
                self.labels.put(keys[index], labels)
            else:
                self.labels.expected(labels)

    def _by_block(self, tenant: str, marks: Iterable[Mark]) -> dict[int, list[Label]]:
        found: dict[int, list[Label]] = {}
        for mark in marks:
            found.setdefault((mark.end_tokens - 1) // self._cache.block_size, []).append(
                Label(tenant, mark.key)
            )
        return found
