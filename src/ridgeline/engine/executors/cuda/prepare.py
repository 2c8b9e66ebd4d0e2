"""The host's part of a step: from a plan's rows to arrays of integers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgeline.engine.core.plan import Row
from ridgeline.engine.executors.cuda.arrays import ExtraArrays, StepArrays
from ridgeline.engine.executors.cuda.sampling import CudaSlot, DrawingRow, SlotSettings, adjustments
from ridgeline.engine.executors.slots import Extension, Layout, Slots
from ridgeline.kernels.cuda.kernels import CudaAttention
from ridgeline.kernels.cuda.units import Units

HostArray = npt.NDArray[Any]

_NONE = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a step's results those of a row of the plan are.

    Attributes:
        logits: which row of logits; None where the row draws nothing.
        top: alternatives wanted for the token drawn; None where it is not scored.
        prompt_scores: how many positions of its prompt are scored.
        prompt_top: with how many alternatives.
    """

    logits: int | None
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
        places: one per row of the plan.
    """

    arrays: StepArrays[HostArray]
    extras: ExtraArrays[HostArray]
    decode_tiles: int
    special: bool
    places: tuple[Place, ...]

    @property
    def top(self) -> int:
        """Alternatives wanted by the scored row with the most."""
        return max((place.top or 0 for place in self.places), default=0)

    @property
    def prompt_top(self) -> int:
        """The same for prompts."""
        return max((place.prompt_top for place in self.places), default=0)


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
        self, rows: tuple[Row, ...], layout: Layout, slots: Slots[CudaSlot], grown: Sequence[Extension]
    ) -> Prepared:
        """All of a step; `grown` is what its plan appended to the block tables."""
        is_decode = not layout.batch.chunks
        places = _places(rows, layout, slots, self._vocab)
        draws = [
            DrawingRow(place.logits, row.slot, slots[row.slot], row.start + len(row.token_ids))
            for place, row in zip(places, rows, strict=True)
            if place.logits is not None
        ]
        special = any(row.state.is_special(row.position) for row in draws)
        special |= any(place.prompt_scores for place in places)
        tiles = padded_batch(len(rows)) if is_decode else 0
        arrays = self._decode(layout, draws, tiles) if is_decode else self._mixed(rows, layout, draws)
        given = [
            (row.slot, token)
            for row in rows
            for token in slots[row.slot].note(row)
            if slots[row.slot].penalised
        ]
        scored = _prompt_tokens(rows, layout, slots, places)
        extras = self._extras(grown, given, draws if special else [], *scored)
        return Prepared(arrays, extras, tiles, special, places)

    def _decode(self, layout: Layout, draws: Sequence[DrawingRow], tiles: int) -> StepArrays[HostArray]:
        """Single tokens only, padded: row i of the logits is token i."""
        batch = layout.batch
        draw_slots = np.full(tiles, -1, dtype=np.int32)
        draw_slots[[row.row for row in draws]] = [row.slot for row in draws]
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

    def _mixed(
        self, rows: tuple[Row, ...], layout: Layout, draws: Sequence[DrawingRow]
    ) -> StepArrays[HostArray]:
        """Any step: rows of logits are those that draw, in the order of the plan."""
        batch, singles = layout.batch, len(layout.batch.contexts)
        ends = (first + len(row.token_ids) for row, first in zip(rows, layout.first, strict=True))
        last = [end - 1 for row, end in zip(rows, ends, strict=True) if row.sample]
        units = None
        if singles:
            units = self._attention.single_units(batch.contexts, batch.slots[:singles], singles)
        return self._arrays(
            batch.token_ids,
            batch.positions,
            batch.slots,
            last=np.array(last, dtype=np.int32),
            draw_slots=np.array([row.slot for row in draws], dtype=np.int32),
            drawn_for=np.array([row.position for row in draws], dtype=np.int64),
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
        given: Sequence[tuple[int, int]],
        draws: Sequence[DrawingRow],
        prompt_index: HostArray,
        prompt_target: HostArray,
    ) -> ExtraArrays[HostArray]:
        changes = adjustments(draws, self._vocab)
        return ExtraArrays[HostArray](
            table_index=_join([np.arange(len(g.blocks)) + g.slot * self._width + g.start for g in grown]),
            table_block=_join([np.array(g.blocks) for g in grown]),
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


def _places(rows: tuple[Row, ...], layout: Layout, slots: Slots[CudaSlot], vocab: int) -> tuple[Place, ...]:
    """In a step of single tokens the rows of logits are the batch's, in others the plan's that draw."""
    is_decode, drawn, places = not layout.batch.chunks, 0, []
    for row, first in zip(rows, layout.first, strict=True):
        state = slots[row.slot]
        logits, top, count = None, None, 0
        if row.sample:
            logits = first if is_decode else drawn
            drawn += 1
            top = state.sampling.logprobs
        if row.score_prompt:
            count = max(0, min(len(row.token_ids), state.prompt_tokens - 1 - row.start))
        prompt_top = (state.sampling.prompt_logprobs or 0) if count else 0
        places.append(Place(logits, None if top is None else min(top, vocab), count, min(prompt_top, vocab)))
    return tuple(places)


def _prompt_tokens(
    rows: tuple[Row, ...], layout: Layout, slots: Slots[CudaSlot], places: Sequence[Place]
) -> tuple[HostArray, HostArray]:
    """Tokens of the batch whose successor in the prompt is to be scored, and that successor."""
    index: list[HostArray] = []
    target: list[HostArray] = []
    for row, first, place in zip(rows, layout.first, places, strict=True):
        if place.prompt_scores:
            following = row.start + 1
            index.append(np.arange(first, first + place.prompt_scores))
            target.append(np.array(slots[row.slot].token_ids[following : following + place.prompt_scores]))
    return _join(index), _join(target)


def _pad(values: HostArray, size: int, filler: int) -> HostArray:
    padded = np.full(size, filler, dtype=values.dtype)
    padded[: len(values)] = values
    return padded


def _join(parts: Sequence[HostArray]) -> HostArray:
    return np.concatenate(parts).astype(np.int32) if parts else _NONE
