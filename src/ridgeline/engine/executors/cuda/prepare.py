"""The host's part of a step: from a plan's rows to arrays of integers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgeline.engine.core.plan import Admission, Row
from ridgeline.engine.executors.cuda.arrays import ExtraArrays, StepArrays
from ridgeline.engine.executors.cuda.sampling import CudaSlot, DrawingRow, SlotSettings, adjustments
from ridgeline.engine.executors.slots import Extension, Layout, Slots
from ridgeline.kernels.cuda.kernels import CudaAttention
from ridgeline.kernels.cuda.units import Units

HostArray = npt.NDArray[Any]

_NONE = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Scored:
    """What of a row of the plan is to be scored.

    Attributes:
        top: alternatives wanted for the token drawn; None where it is not scored.
        prompt_scores: how many positions of its prompt are scored.
        prompt_top: with how many alternatives.
    """

    top: int | None = None
    prompt_scores: int = 0
    prompt_top: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step, ready to be packed.

    Attributes:
        arrays: what every step has.
        extras: what few have; scored rows and prompts are in the order of the plan.
        decode_tiles: the batch size that a step of single tokens is padded to; 0 for other steps.
        special: whether some row needs more than the drawing kernel, or the prompt is scored.
        logits: [rows of the plan], which row of logits each draws from; -1: it draws nothing.
        scored: one per row of the plan; empty where nothing is.
    """

    arrays: StepArrays[HostArray]
    extras: ExtraArrays[HostArray]
    decode_tiles: int
    special: bool
    logits: npt.NDArray[np.int64]
    scored: tuple[Scored, ...]

    @property
    def top(self) -> int:
        """Alternatives wanted by the scored row with the most."""
        return max((row.top or 0 for row in self.scored), default=0)

    @property
    def prompt_top(self) -> int:
        """The same for prompts."""
        return max((row.prompt_top for row in self.scored), default=0)


def padded_batch(rows: int) -> int:
    """The batch size that a step of so many single tokens is computed at.

    Powers of two up to 8, then multiples of 8, from 64 on in steps of at most a quarter: few enough
    sizes to record each, and seldom more than an eighth computed for nothing.
    """
    if rows <= 8:
        return 1 << (rows - 1).bit_length()
    step = max(8, 1 << ((rows - 1).bit_length() - 3))
    return -(-rows // step) * step


class Preparer:
    """Makes arrays of plans.

    Args:
        attention: divides contexts into units.
        settings: of all slots.
        vocab: rows of the head.
        width: blocks of a table.
    """

    def __init__(self, attention: CudaAttention, settings: SlotSettings, vocab: int, width: int) -> None:
        self._attention = attention
        self._settings = settings
        self._vocab = vocab
        self._width = width

    def prepare(
        self,
        rows: tuple[Row, ...],
        layout: Layout,
        slots: Slots[CudaSlot],
        grown: Sequence[Extension],
        counted: Sequence[Admission] = (),
    ) -> Prepared:
        """All of a step.

        Args:
            rows: of its plan.
            layout: of these rows.
            slots: after the plan was applied.
            grown: what the plan appended to the block tables.
            counted: what it admits with penalties.
        """
        is_decode = not layout.batch.chunks
        table = _RowTable.of(rows, layout)
        tiles = padded_batch(len(rows)) if is_decode else 0
        logits = np.where(table.sample, table.first if is_decode else np.cumsum(table.sample) - 1, -1)
        arrays = self._decode(layout, table, tiles) if is_decode else self._mixed(layout, table)
        if not self._settings.may_be_special[table.slot].any():
            return Prepared(arrays, self._extras(grown, counted), tiles, False, logits, ())
        draws = [
            DrawingRow(index, row.slot, slots[row.slot], row.start + len(row.token_ids))
            for index, row in zip(logits.tolist(), rows, strict=True)
            if index >= 0
        ]
        scored = _scored(rows, slots, self._vocab)
        special = any(row.state.is_special(row.position) for row in draws)
        special |= any(row.prompt_scores for row in scored)
        given = [
            (row.slot, token)
            for row in rows
            for token in slots[row.slot].note(row)
            if slots[row.slot].penalised
        ]
        prompt = _prompt_tokens(rows, layout, slots, scored)
        extras = self._extras(grown, counted, given, draws if special else (), *prompt)
        return Prepared(arrays, extras, tiles, special, logits, scored)

    def _decode(self, layout: Layout, table: "_RowTable", tiles: int) -> StepArrays[HostArray]:
        """Single tokens only, padded: row i of the logits is token i."""
        batch = layout.batch
        draw_slots = np.full(tiles, -1, dtype=np.int32)
        draw_slots[table.first[table.sample]] = table.slot[table.sample]
        units = self._attention.single_units(batch.contexts, batch.slots, tiles)
        return self._arrays(
            _pad(batch.token_ids, tiles, 0),
            _pad(batch.positions, tiles, -1),
            _pad(batch.slots, tiles, 0),
            last=_NONE,
            draw_slots=draw_slots,
            drawn_for=_pad(batch.contexts, tiles, 0),
            singles=units,
            chunks=None,
        )

    def _mixed(self, layout: Layout, table: "_RowTable") -> StepArrays[HostArray]:
        """Any step: rows of logits are those that draw, in the order of the plan."""
        batch, singles = layout.batch, len(layout.batch.contexts)
        units = None
        if singles:
            units = self._attention.single_units(batch.contexts, batch.slots[:singles], singles)
        return self._arrays(
            batch.token_ids,
            batch.positions,
            batch.slots,
            last=(table.first + table.count - 1)[table.sample],
            draw_slots=table.slot[table.sample],
            drawn_for=(table.start + table.count)[table.sample],
            singles=units,
            chunks=self._attention.chunk_units(batch.chunks),
        )

    def _arrays(
        self,
        token_ids: HostArray,
        positions: HostArray,
        slots: HostArray,
        *,
        last: HostArray,
        draw_slots: HostArray,
        drawn_for: npt.NDArray[np.int64],
        singles: Units | None,
        chunks: Units | None,
    ) -> StepArrays[HostArray]:
        settings = self._settings
        # A row that draws nothing (slot -1) reads some slot's settings; what it draws is not kept.
        owner = np.maximum(draw_slots, 0)
        return StepArrays(
            token_ids=token_ids,
            positions=positions,
            slots=slots,
            last=last,
            draw_slots=draw_slots,
            temperature=np.where(draw_slots < 0, np.float32(0), settings.temperature[owner]),
            top_k=settings.top_k[owner],
            top_p=settings.top_p[owner],
            min_p=settings.min_p[owner],
            uniform=settings.uniforms(owner, drawn_for),
            single_units=_NONE if singles is None else singles.units.reshape(-1),
            single_tiles=_NONE if singles is None else singles.tiles.reshape(-1),
            chunk_units=_NONE if chunks is None else chunks.units.reshape(-1),
            chunk_tiles=_NONE if chunks is None else chunks.tiles.reshape(-1),
        )

    def _extras(
        self,
        grown: Sequence[Extension],
        counted: Sequence[Admission],
        given: Sequence[tuple[int, int]] = (),
        draws: Sequence[DrawingRow] = (),
        prompt_index: HostArray = _NONE,
        prompt_target: HostArray = _NONE,
    ) -> ExtraArrays[HostArray]:
        changes = adjustments(draws, self._vocab)
        return ExtraArrays[HostArray](
            table_index=_join([np.arange(len(g.blocks)) + g.slot * self._width + g.start for g in grown]),
            table_block=_join([np.array(g.blocks) for g in grown]),
            known=_join([np.array(admission.token_ids) for admission in counted]),
            given_slots=np.array([slot for slot, _ in given], dtype=np.int32),
            given=np.array([token for _, token in given], dtype=np.int32),
            scored=changes.scored,
            bias_index=changes.bias_index,
            bias=changes.bias,
            banned=changes.banned,
            penalised=changes.penalised,
            penalised_slots=changes.penalised_slots,
            repetition=changes.repetition,
            presence=changes.presence,
            frequency=changes.frequency,
            prompt_index=prompt_index,
            prompt_target=prompt_target,
        )


@dataclass(frozen=True, slots=True)
class _RowTable:
    """The rows of a plan, column by column; `first` is the place of a row's first token in the batch."""

    slot: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    sample: npt.NDArray[np.bool_]
    first: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: tuple[Row, ...], layout: Layout) -> "_RowTable":
        return cls(
            np.array([row.slot for row in rows], dtype=np.int64),
            np.array([row.start for row in rows], dtype=np.int64),
            np.array([len(row.token_ids) for row in rows], dtype=np.int64),
            np.array([row.sample for row in rows], dtype=np.bool_),
            np.array(layout.first, dtype=np.int64),
        )


def _scored(rows: tuple[Row, ...], slots: Slots[CudaSlot], vocab: int) -> tuple[Scored, ...]:
    scored = []
    for row in rows:
        state = slots[row.slot]
        top = state.sampling.logprobs if row.sample else None
        count = 0
        if row.score_prompt:
            count = max(0, min(len(row.token_ids), state.prompt_tokens - 1 - row.start))
        prompt_top = (state.sampling.prompt_logprobs or 0) if count else 0
        scored.append(Scored(None if top is None else min(top, vocab), count, min(prompt_top, vocab)))
    return tuple(scored)


def _prompt_tokens(
    rows: tuple[Row, ...], layout: Layout, slots: Slots[CudaSlot], scored: Sequence[Scored]
) -> tuple[HostArray, HostArray]:
    """Tokens of the batch whose successor in the prompt is to be scored, and that successor."""
    index: list[HostArray] = []
    target: list[HostArray] = []
    for row, first, wanted in zip(rows, layout.first, scored, strict=True):
        if wanted.prompt_scores:
            following = row.start + 1
            index.append(np.arange(first, first + wanted.prompt_scores))
            target.append(np.array(slots[row.slot].token_ids[following : following + wanted.prompt_scores]))
    return _join(index), _join(target)


def _pad(values: HostArray, size: int, filler: int) -> HostArray:
    padded = np.full(size, filler, dtype=values.dtype)
    padded[: len(values)] = values
    return padded


def _join(parts: Sequence[HostArray]) -> HostArray:
    return np.concatenate(parts).astype(np.int32) if parts else _NONE
