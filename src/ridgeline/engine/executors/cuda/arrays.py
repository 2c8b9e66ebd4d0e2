"""A step's integers, packed so that one copy brings them to the device.

    | token_ids | positions | slots | rows | ... | chunk tiles |     int32, floats as their bits

The order is that of the fields of `StepArrays`; sizes alone say where each lies, so that a graph
captured over one buffer serves every step of the same sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ridgeline.engine.executors.cuda.device import Device
from ridgeline.kernels.cuda.plan import TILE_FIELDS, UNIT_FIELDS, DevicePlan, Work
from ridgeline.kernels.cuda.sampling import DrawSettings

Ints = npt.NDArray[np.int32]
Array = TypeVar("Array")

_FLOATS = frozenset("temperature top_p min_p uniform bias repetition presence frequency".split())
_ALIGN = 4
"""Integers; Triton reads 16 bytes at once from what is aligned so."""


@dataclass(frozen=True)
class StepArrays(Generic[Array]):
    """What a step computes, on the host (numpy) or on the device (torch).

    Attributes:
        token_ids: [tokens]; negative for one in flight.
        positions: [tokens]; negative for padding.
        slots: [tokens].
        last: [rows], index among the tokens of each row that may draw.
        draw_slots: [rows]; negative for a row that draws nothing.
        temperature: [rows], and so on: how rows draw.
        single_units: [units * 8] of single tokens, see `Work`.
        single_tiles: [tiles * 4].
        chunk_units: of chunks.
        chunk_tiles: of chunks.
    """

    token_ids: Array
    positions: Array
    slots: Array
    last: Array
    draw_slots: Array
    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    uniform: Array
    single_units: Array
    single_tiles: Array
    chunk_units: Array
    chunk_tiles: Array


@dataclass(frozen=True)
class ExtraArrays(Generic[Array]):
    """What few steps need beside; the indices are of the step's rows that may draw.

    Attributes:
        table_index: flat index (slot * width + block) into the block tables.
        table_block: the block that is written there.
        known: tokens of the sequences with penalties that the plan admits, one after the other.
        given_slots: slots with penalties whose answer is continued with tokens that were not drawn.
        given: those tokens.
        scored: rows that want log probabilities.
        bias_index: flat index (row * vocab + token) of logits.
        bias: what is added there.
        banned: flat index of tokens that must not be drawn.
        penalised: rows whose earlier tokens count.
        penalised_slots: theirs.
        repetition: penalties of those rows.
        presence: the same.
        frequency: the same.
        prompt_index: tokens of the step whose successor in the prompt is to be scored.
        prompt_target: that successor.
    """

    table_index: Array
    table_block: Array
    known: Array
    given_slots: Array
    given: Array
    scored: Array
    bias_index: Array
    bias: Array
    banned: Array
    penalised: Array
    penalised_slots: Array
    repetition: Array
    presence: Array
    frequency: Array
    prompt_index: Array
    prompt_target: Array


Group = TypeVar("Group", StepArrays[Any], ExtraArrays[Any])

Sizes = tuple[int, ...]
"""Length of each field, in order."""


def sizes_of(arrays: Group) -> Sizes:
    """Lengths of the fields."""
    return tuple(len(part) for part in parts_of(arrays))


def parts_of(arrays: Group) -> list[Any]:
    """The fields in order."""
    return [getattr(arrays, field.name) for field in fields(arrays)]


def packed_length(sizes: Sequence[int]) -> int:
    """Integers that arrays of these sizes take."""
    return sum(_padded(size) for size in sizes)


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def pack(parts: Sequence[npt.NDArray[Any]], target: Ints) -> None:
    """Write arrays one behind the other, each from an aligned place on; float32 as its bits."""
    place = 0
    for part in parts:
        target[place : place + len(part)] = part.view(np.int32) if part.dtype == np.float32 else part
        place += _padded(len(part))


def unpack(kind: type[Group], buffer: torch.Tensor, sizes: Sizes) -> Group:
    """Views of a packed buffer."""
    views, place = {}, 0
    for field, size in zip(fields(kind), sizes, strict=True):
        view = buffer[place : place + size]
        views[field.name] = view.view(torch.float32) if field.name in _FLOATS else view
        place += _padded(size)
    return kind(**views)


def device_plan(arrays: StepArrays[torch.Tensor], tables: torch.Tensor, chunk_queries: int) -> DevicePlan:
    """What attention takes; `chunk_queries` is the size of the chunks' tiles."""
    works = []
    for units, tiles, queries in (
        (arrays.single_units, arrays.single_tiles, 1),
        (arrays.chunk_units, arrays.chunk_tiles, chunk_queries),
    ):
        if len(tiles):
            tables_of = units.view(-1, len(UNIT_FIELDS)), tiles.view(-1, len(TILE_FIELDS))
            merges = len(tables_of[0]) > len(tables_of[1])
            works.append(Work(*tables_of, queries, merges))
    return DevicePlan(arrays.positions, arrays.slots, tables, tuple(works))


def draw_settings(arrays: StepArrays[torch.Tensor]) -> DrawSettings:
    """How the rows draw."""
    return DrawSettings(
        temperature=arrays.temperature,
        top_k=arrays.top_k,
        top_p=arrays.top_p,
        min_p=arrays.min_p,
        uniform=arrays.uniform,
        slot=arrays.draw_slots,
    )


class Staging:
    """Two host buffers used in turn, so that a step is prepared while another's is still read.

    Whoever uses a buffer must have waited for the step that used it before.
    """

    def __init__(self, device: Device, integers: int) -> None:
        self._device = device
        self._buffers = [device.pinned(integers), device.pinned(integers)]

    def take(self, turn: int, integers: int) -> torch.Tensor:
        """Buffer `turn`, 0 or 1, of at least this size, with anything in it."""
        if len(self._buffers[turn]) < integers:
            self._buffers[turn] = self._device.pinned(2 * integers)
        return self._buffers[turn]
