"""What an executor keeps per slot, and how a plan becomes a batch of tokens.

Block tables and token ids are arrays filled in place, so that a step costs a few operations on
integers, however long the sequences are.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ridgeline.engine.core.plan import IN_FLIGHT, Admission, Geometry, Row, StepPlan
from ridgeline.kernels.interface import Batch, Chunk, Integers
from ridgeline.models.logits import SamplingState


@dataclass(frozen=True, slots=True)
class Layout:
    """A batch, and where in it the plan's rows are.

    Attributes:
        batch: tokens in the order computed.
        first: index in the batch of each row's first token, in the order of the plan.
    """

    batch: Batch
    first: tuple[int, ...]


@dataclass(slots=True)
class Slot:
    """A sequence. `known_tokens` counts prompt and answer as far as they were drawn or given."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingState
    known_tokens: int


class Slots:
    """State of all slots of an executor."""

    def __init__(self, geometry: Geometry) -> None:
        self._block_size = geometry.block_size_tokens
        self._blocks = geometry.blocks
        self._max_batch = geometry.max_batch
        width = -(-geometry.max_context_tokens // geometry.block_size_tokens)
        self._tables = np.zeros((geometry.max_batch, width), dtype=np.int64)
        self._used = [0] * geometry.max_batch
        self._slots: list[Slot | None] = [None] * geometry.max_batch

    def apply(self, plan: StepPlan) -> None:
        """Take over releases, admissions and new blocks.

        Raises:
            ValueError: for a plan that cannot be carried out; nothing is changed then.
        """
        self._check(plan)
        for slot in plan.releases:
            self._slots[slot] = None
            self._used[slot] = 0
        for admission in plan.admissions:
            self._admit(admission)
        for row in plan.rows:
            if row.new_blocks:
                used = self._used[row.slot]
                self._tables[row.slot, used : used + len(row.new_blocks)] = row.new_blocks
                self._used[row.slot] = used + len(row.new_blocks)

    def _admit(self, admission: Admission) -> None:
        prompt, answer = (
            admission.token_ids[: admission.prompt_tokens],
            admission.token_ids[admission.prompt_tokens :],
        )
        state = SamplingState(
            admission.sampling, prompt, answer, admission.banned_token_ids, admission.min_tokens
        )
        self._slots[admission.slot] = Slot(prompt, state, len(admission.token_ids))
        self._used[admission.slot] = 0

    def _check(self, plan: StepPlan) -> None:
        taken = {i for i, slot in enumerate(self._slots) if slot is not None} - set(plan.releases)
        for admission in plan.admissions:
            if not 0 <= admission.slot < self._max_batch:
                raise ValueError(f"slot {admission.slot} is not in [0, {self._max_batch})")
            if admission.slot in taken:
                raise ValueError(f"slot {admission.slot} is admitted while it is taken")
            taken.add(admission.slot)
        fresh = {admission.slot for admission in plan.admissions} | set(plan.releases)
        width = self._tables.shape[1]
        for row in plan.rows:
            if row.slot not in taken:
                raise ValueError(f"a row names slot {row.slot}, which holds no sequence")
            used = (0 if row.slot in fresh else self._used[row.slot]) + len(row.new_blocks)
            end = row.start + len(row.token_ids)
            if used > width or end > used * self._block_size or not row.token_ids or row.start < 0:
                raise ValueError(
                    f"slot {row.slot}: positions {row.start} to {end} do not fit its {used} blocks "
                    f"of {self._block_size} (at most {width})"
                )
            if row.new_blocks and not 0 <= min(row.new_blocks) <= max(row.new_blocks) < self._blocks:
                raise ValueError(f"slot {row.slot}: a block id is not in [0, {self._blocks})")
            if IN_FLIGHT in row.token_ids:
                raise ValueError("a token in flight in a plan for an executor of depth 0")

    def lay_out(self, rows: tuple[Row, ...]) -> Layout:
        """The rows' tokens as kernels take them: single ones first, longest context first."""
        single = [i for i, row in enumerate(rows) if len(row.token_ids) == 1]
        single.sort(key=lambda i: -rows[i].start)
        several = [i for i, row in enumerate(rows) if len(row.token_ids) > 1]
        first = [0] * len(rows)
        for place, i in enumerate(single):
            first[i] = place
        slots = np.array([rows[i].slot for i in single], dtype=np.int64)
        starts = np.array([rows[i].start for i in single], dtype=np.int64)
        owners = [slots]
        tokens = [np.array([rows[i].token_ids[0] for i in single], dtype=np.int64)]
        positions, writes = [starts], [self._tables[slots, starts // self._block_size]]
        chunks, place = [], len(single)
        for i in several:
            row = rows[i]
            first[i] = place
            span = np.arange(row.start, row.start + len(row.token_ids))
            table = self._tables[row.slot]
            tokens.append(np.array(row.token_ids, dtype=np.int64))
            positions.append(span)
            owners.append(np.full(len(row.token_ids), row.slot, dtype=np.int64))
            writes.append(table[span // self._block_size])
            chunks.append(Chunk(place, len(row.token_ids), row.start, table, row.slot))
            place += len(row.token_ids)
        batch = Batch(
            np.concatenate(tokens),
            np.concatenate(positions),
            np.concatenate(owners),
            np.concatenate(writes),
            self._tables[slots],
            starts + 1,
            tuple(chunks),
        )
        return Layout(batch, tuple(first))

    def note_given(self, rows: Iterable[Row]) -> None:
        """Count tokens of the answer that were given by the plan instead of drawn here."""
        for row in rows:
            slot = self[row.slot]
            end = row.start + len(row.token_ids)
            if end > slot.known_tokens:
                for token in row.token_ids[slot.known_tokens - end :]:
                    slot.sampling.record(token)
                slot.known_tokens = end

    def __getitem__(self, slot: int) -> Slot:
        state = self._slots[slot]
        if state is None:
            raise ValueError(f"slot {slot} holds no sequence")
        return state

    def blocks(self, slot: int) -> Integers:
        """A slot's block table."""
        return self._tables[slot, : self._used[slot]]
