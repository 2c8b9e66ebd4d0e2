"""A device that is a formula: the time of the roofline, tokens of a hash, no weights.

Under a virtual clock it drives the scheduler through thousands of requests a second of real time;
with the real clock it serves, as `--device simulated:h100` does. It is also the strictest of the
executors: it checks every plan against what it was told before (`simulated_kv.KVMismatch`,
`BadPlan`), so that a bug in scheduler or KV ledger fails a simulation and not a user.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ridgeline.engine.core.plan import (
    IN_FLIGHT,
    Admission,
    Geometry,
    Handle,
    Row,
    RowResult,
    Score,
    Snapshot,
    StepPlan,
    StepResult,
)
from ridgeline.engine.executors.clock import Clock
from ridgeline.engine.executors.simulated_kv import KVCells
from ridgeline.engine.executors.simulated_model import HashModel, extend_hashes
from ridgeline.models.errors import ModelError
from ridgeline.roofline import Hardware, ModelShape, Work, dtype_bytes, kv_value_bytes, step_cost

BLOCK_SIZE_TOKENS = 16
USABLE_MEMORY = 0.9
"""Of the device's memory; the rest is for activations, the runtime and its fragments."""


class BadPlan(AssertionError):
    """A plan contradicts the ones before it: a bug of the scheduler."""


@dataclass(slots=True)
class _Slot:
    """What is known of a sequence: its tokens, those drawn included, and their prefix hashes."""

    admission: Admission
    tokens: list[int]
    hashes: "array[int]" = field(default_factory=lambda: array("Q"))


@dataclass(slots=True)
class SimulatedHandle(Handle):
    """A launched step: its result is known at once, but not before `end_seconds`."""

    result: StepResult
    end_seconds: float


def kv_geometry(
    shape: ModelShape,
    hardware: Hardware,
    *,
    dtype: str,
    kv_dtype: str | None,
    kv_memory_bytes: int | None,
    max_batch: int,
    max_context_tokens: int,
) -> Geometry:
    """Blocks that fit beside the weights.

    Raises:
        ModelError: the weights, or one block beside them, do not fit.
    """
    usable = int(USABLE_MEMORY * hardware.memory_bytes)
    weights = int(shape.parameters() * dtype_bytes(dtype))
    block_bytes = BLOCK_SIZE_TOKENS * shape.kv_bytes_per_token(
        kv_value_bytes(kv_dtype or dtype, shape.head_dim)
    )
    room = usable - weights
    wanted = room if kv_memory_bytes is None else kv_memory_bytes
    if wanted > room or wanted < block_bytes:
        raise ModelError(
            f"The weights take {weights / 1e9:.1f} GB in {dtype} and the KV cache needs "
            f"{max(wanted, block_bytes) / 1e9:.3g} GB, but of the memory of {hardware.name} "
            f"{usable / 1e9:.1f} GB can be used: choose a device with more memory, a narrower "
            f"dtype, or another --kv-memory (one block takes {block_bytes} bytes)."
        )
    return Geometry(wanted // block_bytes, BLOCK_SIZE_TOKENS, block_bytes, max_batch, max_context_tokens)


class SimulatedExecutor:
    """Implements `Executor` for one device of the hardware catalogue.

    Args:
        shape: sizes of the model that is pretended.
        hardware: the device that is pretended.
        dtype: of weights and arithmetic; the device must compute in it.
        vocab_size: ids drawn are below it.
        kv_memory_bytes: memory of the KV cache; None: what the weights leave of 0.9 of the device.
        max_batch: slots.
        max_context_tokens: longest prompt and answer.
        depth: steps launched ahead; 1 is how a GPU is driven.
        clock: real, or virtual for simulations.
        kv_dtype: of the KV cache; None: `dtype`.
        allowed_token_ids, eos_token_id, mean_answer_tokens: see `HashModel`.

    Raises:
        ModelError: weights and KV cache do not fit, or the device has no such dtype.
    """

    def __init__(
        self,
        shape: ModelShape,
        hardware: Hardware,
        *,
        dtype: str,
        vocab_size: int,
        kv_memory_bytes: int | None,
        max_batch: int,
        max_context_tokens: int,
        depth: int,
        clock: Clock,
        kv_dtype: str | None = None,
        allowed_token_ids: Sequence[int] | None = None,
        eos_token_id: int | None = None,
        mean_answer_tokens: float = 200.0,
    ) -> None:
        if depth not in (0, 1):
            raise ValueError(f"depth must be 0 or 1, it is {depth}")
        try:
            hardware.peak_flops(dtype)
        except ValueError as error:
            raise ModelError(f"{error}: choose another --dtype or device.") from None
        self.geometry = kv_geometry(
            shape,
            hardware,
            dtype=dtype,
            kv_dtype=kv_dtype,
            kv_memory_bytes=kv_memory_bytes,
            max_batch=max_batch,
            max_context_tokens=max_context_tokens,
        )
        self.depth = depth
        self._model = HashModel(
            vocab_size,
            allowed_token_ids=allowed_token_ids,
            eos_token_id=eos_token_id,
            mean_answer_tokens=mean_answer_tokens,
        )
        self.fingerprint = self._model.fingerprint
        self.dtype, self.kernels = dtype, f"simulated-{hardware.name}"
        self._shape, self._hardware, self._kv_dtype = shape, hardware, kv_dtype
        self._clock = clock
        self._kv = KVCells(self.geometry.blocks, self.geometry.block_size_tokens)
        self._slots: dict[int, _Slot] = {}
        self._busy_until = 0.0

    def launch(self, plan: StepPlan) -> SimulatedHandle:
        """Start a step; it ends when the device has done all before it, and it.

        Raises:
            BadPlan, KVMismatch: the plan is wrong; slots of its rows may be released afterwards.
        """
        for slot in plan.releases:
            self._release(slot)
        for admission in plan.admissions:
            self._admit(admission)
        result = StepResult(self._compute(plan.rows), self._seconds(plan.rows))
        self._busy_until = max(self._clock.now(), self._busy_until) + result.device_seconds
        return SimulatedHandle(plan, result, self._busy_until)

    def collect(self, handle: Handle) -> StepResult:
        """Wait for the end of the step on the clock."""
        assert isinstance(handle, SimulatedHandle)
        self._clock.wait_until(handle.end_seconds)
        return handle.result

    def read_blocks(self, blocks: Sequence[int]) -> Snapshot:
        """See `Executor.read_blocks`: prefix hashes, in the place of K and V."""
        contents = [np.frombuffer(self._kv.content(block), np.uint8) for block in blocks]
        return lambda: contents

    def write_blocks(self, blocks: Sequence[int], contents: Sequence[Any]) -> None:
        """See `Executor.write_blocks`."""
        for block, content in zip(blocks, contents, strict=True):
            if len(content) != 8 * self.geometry.block_size_tokens:
                raise ValueError(
                    f"a block has {8 * self.geometry.block_size_tokens} bytes, not {len(content)}"
                )
            self._kv.restore(block, array("Q", bytes(content)))

    def close(self) -> None:
        """Forget all sequences and blocks."""
        self._slots.clear()
        self._kv = KVCells(self.geometry.blocks, self.geometry.block_size_tokens)

    def _release(self, slot: int) -> None:
        if slot not in self._slots:
            raise BadPlan(f"slot {slot} is released but free")
        del self._slots[slot]
        self._kv.close(slot)

    def _admit(self, admission: Admission) -> None:
        slot, tokens = admission.slot, list(admission.token_ids)
        if slot in self._slots or not 0 <= slot < self.geometry.max_batch:
            raise BadPlan(f"slot {slot} of {self.geometry.max_batch} is admitted but not free")
        if len(tokens) > self.geometry.max_context_tokens:
            raise BadPlan(f"slot {slot} has {len(tokens)} tokens, more than the context allows")
        state = self._slots[slot] = _Slot(admission, tokens)
        extend_hashes(state.hashes, tokens)
        self._kv.open(slot)

    def _compute(self, rows: tuple[Row, ...]) -> tuple[RowResult, ...]:
        """All reads of cached KV come first, then all writes, then reads of what was touched."""
        if len({row.slot for row in rows}) != len(rows):
            raise BadPlan("a slot has two rows in one step")
        for row in rows:
            state = self._state(row)
            self._check_tokens(row, state)
            self._kv.append(row.slot, row.new_blocks)
            self._kv.read(row.slot, state.hashes, row.start)
        hashes = [self._hashes(row) for row in rows]
        touched: set[int] = set()
        for row, own in zip(rows, hashes, strict=True):
            end = row.start + len(row.token_ids)
            touched.update(self._kv.write(row.slot, own, row.start, end))
            if row.drafts:
                self._kv.doubt(row.slot, end - row.drafts)
        for row, own in zip(rows, hashes, strict=True):
            if row.slot in touched:
                self._kv.read(row.slot, own, row.start + len(row.token_ids))
        return tuple(self._result(row) for row in rows)

    def _hashes(self, row: Row) -> "array[int]":
        """Of a sequence's prefixes, those that end in drafts among them."""
        known = self._slots[row.slot].hashes
        if not row.drafts:
            return known
        hashes = known[:]
        extend_hashes(hashes, row.token_ids[-row.drafts :])
        return hashes

    def _state(self, row: Row) -> _Slot:
        if row.slot not in self._slots:
            raise BadPlan(f"slot {row.slot} has a row but was never admitted")
        return self._slots[row.slot]

    def _check_tokens(self, row: Row, state: _Slot) -> None:
        count = len(row.known)
        known = state.tokens[row.start : row.start + count]
        given = [own if token == IN_FLIGHT else token for token, own in zip(row.known, known, strict=False)]
        if not known or len(known) != count or given != known:
            raise BadPlan(
                f"slot {row.slot} computes {list(row.token_ids)} at {row.start}, where {known} stands"
            )
        if row.sample and row.start + len(known) != len(state.tokens):
            raise BadPlan(f"slot {row.slot} samples before its last token is computed")
        if row.drafts and (count != 1 or not row.sample or self.depth):
            raise BadPlan(f"slot {row.slot} has drafts beside {count} tokens, at depth {self.depth}")

    def _result(self, row: Row) -> RowResult:
        state, end = self._slots[row.slot], row.start + len(row.known)
        admission = state.admission
        scores = tuple(
            self._model.score(state.hashes[p], state.tokens[p + 1], admission.sampling)
            for p in range(row.start, min(end, admission.prompt_tokens - 1))
            if row.score_prompt
        )
        if not row.sample:
            return RowResult(prompt_scores=scores)
        tokens: list[int] = []
        own: list[Score] = []
        for draft in (*row.token_ids[len(row.known) :], None):
            generated = len(state.tokens) - admission.prompt_tokens
            banned = admission.banned_token_ids if generated < admission.min_tokens else ()
            token, score = self._model.draw(state.hashes[-1], admission.sampling, banned)
            state.tokens.append(token)
            extend_hashes(state.hashes, (token,))
            tokens.append(token)
            own += () if score is None else (score,)
            if token != draft:
                break
        return RowResult(tuple(tokens), tuple(own), scores)

    def _seconds(self, rows: tuple[Row, ...]) -> float:
        logit_rows = sum(row.logit_rows for row in rows)
        work = Work.of((span for row in rows for span in row.spans), logit_rows)
        return step_cost(self._shape, self._hardware, self.dtype, work, kv_dtype=self._kv_dtype).seconds
