"""What an executor keeps per slot, and how a plan becomes a batch of tokens.

Block tables are arrays filled in place, so that a step costs a few operations on integers, however
long the sequences are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from ridgeline.engine.core.plan import IN_FLIGHT, Admission, Geometry, Row, StepPlan
from ridgeline.kernels.interface import Batch, Chunk, Contents, Integers

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Layout:
    """A batch, and where in it the plan's rows are.

    Attributes:
        batch: tokens in the order computed.
        first: index in the batch of each row's first token, in the order of the plan.
        places: of rows with drafts, where each of their tokens is; by the place of the row in the plan.
    """

    batch: Batch
    first: tuple[int, ...]
    places: dict[int, tuple[int, ...]]

    def drawing(self, rows: Sequence[Row]) -> list[tuple[int, ...]]:
        """Where the tokens are after which a row may draw; nothing for those that do not."""
        last = (first + len(row.token_ids) - 1 for first, row in zip(self.first, rows, strict=True))
        return [
            self.places.get(i, (place,)) if row.sample else ()
            for i, (row, place) in enumerate(zip(rows, last, strict=True))
        ]


@dataclass(frozen=True, slots=True)
class Extension:
    """Blocks that a plan appends to a slot's table, from index `start` on."""

    slot: int
    start: int
    blocks: tuple[int, ...]


class Slots(Generic[State]):
    """State of all slots of an executor.

    Args:
        geometry: of its cache.
        state_of: what to keep of a sequence beside its block table.
        device_tables: the tables that kernels read are elsewhere, kept up to date by what `apply`
            returns; batches carry none. Such an executor may also have tokens in flight.
    """

    def __init__(
        self, geometry: Geometry, state_of: Callable[[Admission], State], *, device_tables: bool = False
    ) -> None:
        self._state_of = state_of
        self._device_tables = device_tables
        self._block_size = geometry.block_size_tokens
        self._blocks = geometry.blocks
        self._max_batch = geometry.max_batch
        self.width = -(-geometry.max_context_tokens // geometry.block_size_tokens)
        self._tables = np.zeros((geometry.max_batch, self.width), dtype=np.int64)
        self._used = [0] * geometry.max_batch
        self._slots: list[State | None] = [None] * geometry.max_batch

    def apply(self, plan: StepPlan) -> list[Extension]:
        """Take over releases, admissions and new blocks; tells where the tables have grown.

        Raises:
            ValueError: for a plan that cannot be carried out; nothing is changed then.
        """
        self._check(plan)
        for slot in plan.releases:
            self._slots[slot] = None
            self._used[slot] = 0
        for admission in plan.admissions:
            self._slots[admission.slot] = self._state_of(admission)
            self._used[admission.slot] = 0
        grown = []
        for row in plan.rows:
            if row.new_blocks:
                used = self._used[row.slot]
                self._tables[row.slot, used : used + len(row.new_blocks)] = row.new_blocks
                self._used[row.slot] = used + len(row.new_blocks)
                grown.append(Extension(row.slot, used, row.new_blocks))
        return grown

    def _check(self, plan: StepPlan) -> None:
        taken = {i for i, slot in enumerate(self._slots) if slot is not None} - set(plan.releases)
        for admission in plan.admissions:
            if not 0 <= admission.slot < self._max_batch:
                raise ValueError(f"slot {admission.slot} is not in [0, {self._max_batch})")
            if admission.slot in taken:
                raise ValueError(f"slot {admission.slot} is admitted while it is taken")
            taken.add(admission.slot)
        fresh = {admission.slot for admission in plan.admissions} | set(plan.releases)
        for row in plan.rows:
            if row.slot not in taken:
                raise ValueError(f"a row names slot {row.slot}, which holds no sequence")
            used = (0 if row.slot in fresh else self._used[row.slot]) + len(row.new_blocks)
            end = row.start + len(row.token_ids)
            if used > self.width or end > used * self._block_size or not row.token_ids or row.start < 0:
                raise ValueError(
                    f"slot {row.slot}: positions {row.start} to {end} do not fit its {used} blocks "
                    f"of {self._block_size} (at most {self.width})"
                )
            if row.new_blocks and not 0 <= min(row.new_blocks) <= max(row.new_blocks) < self._blocks:
                raise ValueError(f"slot {row.slot}: a block id is not in [0, {self._blocks})")
            if IN_FLIGHT in row.token_ids and not self._device_tables:
                raise ValueError("a token in flight in a plan for an executor of depth 0")
            if row.drafts and (self._device_tables or row.drafts != len(row.token_ids) - 1):
                raise ValueError(f"slot {row.slot}: drafts follow one token, on executors of depth 0 only")

    def lay_out(self, rows: tuple[Row, ...]) -> Layout:
        """The rows' tokens as kernels take them: single ones first, longest context first.

        Drafts are single tokens, too: then all is computed of them as it would be without guessing.
        """
        single = [
            (-row.start - k, i, k)
            for i, row in enumerate(rows)
            if row.drafts or len(row.token_ids) == 1
            for k in range(len(row.token_ids))
        ]
        single.sort()
        several = [i for i, row in enumerate(rows) if len(row.token_ids) > 1 and not row.drafts]
        first = [0] * len(rows)
        places: dict[int, list[int]] = {
            i: [0] * len(row.token_ids) for i, row in enumerate(rows) if row.drafts
        }
        for place, (_, i, k) in enumerate(single):
            if k == 0:
                first[i] = place
            if i in places:
                places[i][k] = place
        slots = np.array([rows[i].slot for _, i, _ in single], dtype=np.int64)
        starts = np.array([-before for before, _, _ in single], dtype=np.int64)
        tokens = [np.array([rows[i].token_ids[k] for _, i, k in single], dtype=np.int64)]
        owners, positions, chunks, place = [slots], [starts], [], len(single)
        for i in several:
            row = rows[i]
            first[i] = place
            owners.append(np.full(len(row.token_ids), row.slot, dtype=np.int64))
            positions.append(np.arange(row.start, row.start + len(row.token_ids)))
            tokens.append(np.array(row.token_ids, dtype=np.int64))
            chunks.append(Chunk(place, len(row.token_ids), row.start, self._tables[row.slot], row.slot))
            place += len(row.token_ids)
        owner, position = np.concatenate(owners), np.concatenate(positions)
        # Tables of the length that is needed: a long context's has thousands of entries.
        blocks = 0 if self._device_tables or not single else int(starts[0]) // self._block_size + 1
        batch = Batch(
            np.concatenate(tokens),
            position,
            owner,
            owner[:0] if self._device_tables else self._tables[owner, position // self._block_size],
            self._tables[slots, :blocks],
            starts + 1,
            tuple(chunks),
            related=bool(places),
        )
        return Layout(batch, tuple(first), {i: tuple(each) for i, each in places.items()})

    def __getitem__(self, slot: int) -> State:
        state = self._slots[slot]
        if state is None:
            raise ValueError(f"slot {slot} holds no sequence")
        return state

    def blocks(self, slot: int) -> Integers:
        """A slot's block table."""
        return self._tables[slot, : self._used[slot]]


def checked(contents: Sequence[Any], block_bytes: int) -> list[Contents]:
    """Contents of blocks as arrays of bytes.

    Raises:
        ValueError: one has another length than a block.
    """
    for content in contents:
        if len(content) != block_bytes:
            raise ValueError(f"a block has {block_bytes} bytes, not {len(content)}")
    return [np.asarray(content, np.uint8) for content in contents]
