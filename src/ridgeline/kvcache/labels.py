"""What front doors call the content of blocks, so that they can be told what is cached and what is not.

    blocks   | key 0 | key 1 | key 2 | key 3 | key 4 |
    labels               a               b    c, d        each where the text that it stands for ends

A label is known from when its block is complete until that content is nowhere any more, neither on the device
nor in a tier below it. Where its text ends is estimated, so it may stand at blocks of several conversations;
it is cached as long as one of them is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MOST_LABELS = 1 << 18
"""Some 100 MB, and a cache of 16 million tokens."""


class Label(NamedTuple):
    """A front door's key, and whose requests it came with: nobody else is told of it."""

    tenant: str
    key: bytes


@dataclass(frozen=True, slots=True)
class LabelChanges:
    """What is new: labels that are cached now, and labels that are not, or not any more."""

    cached: tuple[Label, ...]
    evicted: tuple[Label, ...]


class Labels:
    """Labels by the keys of their blocks. Costs nothing where there are none.

    Args:
        is_there: whether the content with a block's key is cached anywhere.
        most: labels; the oldest ones are told as evicted beyond that.
    """

    def __init__(self, is_there: Callable[[bytes], bool], most: int = MOST_LABELS) -> None:
        self._is_there, self._most = is_there, most
        self._at: dict[bytes, set[Label]] = {}
        self._blocks: dict[Label, int] = {}
        """How many blocks each stands at."""
        self._told: set[Label] = set()
        self._lost: dict[bytes, None] = {}
        self._touched: dict[Label, None] = {}
        self._doubted: set[Label] = set()

    def __len__(self) -> int:
        return len(self._blocks)

    def put(self, key: bytes, labels: Iterable[Label]) -> None:
        """These end in the block with this key, whose content is there."""
        at = self._at.setdefault(key, set())
        for label in labels:
            if label not in at:
                at.add(label)
                self._blocks[label] = self._blocks.get(label, 0) + 1
                self._touched[label] = None
        while len(self._blocks) > self._most:
            self._drop(next(iter(self._at)))

    def lost(self, key: bytes) -> None:
        """Content with this key has left some place; it may still be in another, or come back."""
        if key in self._at:
            self._lost[key] = None

    def expected(self, labels: Sequence[Label]) -> None:
        """A front door takes these to be cached, and nothing more will be done for it: where they are not,
        it is told."""
        for label in labels:
            self._touched[label] = None
        self._doubted.update(labels)

    def take(self) -> LabelChanges | None:
        """What is new since the last time; None for nothing. O(labels that may have changed)."""
        if not self._touched and not self._lost:
            return None
        for key in self._lost:
            if key in self._at and not self._is_there(key):
                self._drop(key)
        cached, evicted = [], []
        for label in self._touched:
            was = label in self._told
            if label in self._blocks:
                if not was:
                    self._told.add(label)
                    cached.append(label)
            elif was or label in self._doubted:
                self._told.discard(label)
                evicted.append(label)
        self._lost, self._touched, self._doubted = {}, {}, set()
        return LabelChanges(tuple(cached), tuple(evicted)) if cached or evicted else None

    def _drop(self, key: bytes) -> None:
        for label in self._at.pop(key):
            self._touched[label] = None
            left = self._blocks[label] - 1
            if left:
                self._blocks[label] = left
            else:
                del self._blocks[label]

    def check(self) -> None:
        """Prove that both directions agree; AssertionError if they do not."""
        counts: dict[Label, int] = {}
        for labels in self._at.values():
            for label in labels:
                counts[label] = counts.get(label, 0) + 1
        assert counts == self._blocks, "a label stands at other blocks than is known"
        assert len(counts) <= self._most, "more labels than there may be"
