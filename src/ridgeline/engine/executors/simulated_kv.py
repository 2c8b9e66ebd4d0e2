"""KV blocks that remember what was written, so that reading anything else is noticed.

K and V of a position follow from all tokens up to it, and so does the hash of that prefix: a cell
holds the hash in their place. A row may rely only on cells with the hashes of its own prefix. A
block shared too early, freed too early, reused while somebody reads it, or listed in the wrong
order is found in the step that a real device would have computed nonsense in.
"""

from array import array
from dataclasses import dataclass, field


class KVMismatch(AssertionError):
    """A row relies on KV that is not there: a bug of the scheduler or of the KV ledger."""


@dataclass(slots=True)
class Table:
    """A slot's block table.

    Attributes:
        blocks: in the order of positions.
        verified: positions known to hold this sequence's prefix since nobody else wrote there.
    """

    blocks: list[int] = field(default_factory=list)
    verified: int = 0


class KVCells:
    """All blocks of a device and the tables of its slots."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self._blocks = blocks
        self._size = block_size
        self._cells: dict[int, array[int]] = {}
        self._tables: dict[int, Table] = {}
        self._readers: dict[int, set[int]] = {}

    def open(self, slot: int) -> None:
        """A sequence takes the slot, with an empty table."""
        self._tables[slot] = Table()

    def close(self, slot: int) -> None:
        """The slot's table is dropped; what its blocks hold stays until it is overwritten."""
        for block in self._tables.pop(slot).blocks:
            self._readers[block].discard(slot)

    def append(self, slot: int, blocks: tuple[int, ...]) -> None:
        """Extend the slot's table."""
        table = self._tables[slot]
        for block in blocks:
            if not 0 <= block < self._blocks:
                raise KVMismatch(f"slot {slot} is given block {block} of {self._blocks}")
            readers = self._readers.setdefault(block, set())
            if slot in readers:
                raise KVMismatch(f"slot {slot} is given block {block} twice")
            readers.add(slot)
            table.blocks.append(block)

    def read(self, slot: int, hashes: "array[int]", end: int) -> None:
        """Prove that positions [0, end) hold this prefix; KVMismatch says where they do not."""
        table, size = self._tables[slot], self._size
        if end > len(table.blocks) * size:
            raise KVMismatch(f"slot {slot} has {len(table.blocks)} blocks, too few for {end} positions")
        # From the beginning of the block that verification had come to.
        for base in range(table.verified // size * size, end, size):
            block, stop = table.blocks[base // size], min(base + size, end)
            cells = self._cells.get(block)
            if cells is None or cells[: stop - base] != hashes[base:stop]:
                raise KVMismatch(self._explain(slot, block, hashes, base, stop))
        table.verified = max(table.verified, end)

    def write(self, slot: int, hashes: "array[int]", start: int, end: int) -> list[int]:
        """Positions [start, end) are computed. Returns other slots whose blocks were written to."""
        table, size = self._tables[slot], self._size
        if end > len(table.blocks) * size:
            raise KVMismatch(f"slot {slot} has {len(table.blocks)} blocks, too few for {end} positions")
        touched: list[int] = []
        while start < end:
            index, offset = divmod(start, size)
            stop = min(end, (index + 1) * size)
            block = table.blocks[index]
            cells = self._cells.get(block)
            if cells is None:
                cells = self._cells[block] = array("Q", bytes(8 * size))
            cells[offset : offset + stop - start] = hashes[start:stop]
            touched += [other for other in self._readers[block] if other != slot]
            start = stop
        for other in touched:
            self._tables[other].verified = 0
        table.verified = max(table.verified, end)
        return touched

    def doubt(self, slot: int, start: int) -> None:
        """What was written from this position on may not be what the sequence goes on with."""
        table = self._tables[slot]
        table.verified = min(table.verified, start)

    def content(self, block: int) -> "array[int]":
        """A copy of what was written into a block."""
        cells = self._cells.get(block)
        return array("Q", bytes(8 * self._size)) if cells is None else array("Q", cells)

    def restore(self, block: int, content: "array[int]") -> None:
        """A block gets what was once read of another."""
        for slot in self._readers.get(block, ()):
            self._tables[slot].verified = 0
        self._cells[block] = content

    def _explain(self, slot: int, block: int, hashes: "array[int]", base: int, stop: int) -> str:
        cells = self._cells.get(block, array("Q", bytes(8 * self._size)))
        wrong = next(p for p in range(base, stop) if cells[p - base] != hashes[p])
        what = "another prefix" if cells[wrong - base] else "nothing"
        return (
            f"slot {slot} relies on position {wrong}, which is in block {block} at {wrong - base}, "
            f"but {what} was written there"
        )
