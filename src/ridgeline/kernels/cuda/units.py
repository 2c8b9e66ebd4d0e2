"""Which ranges of which contexts attention computes apart, planned on the host for every step.

A unit times a KV head is one program of the GPU. A batch of few sequences, or of one long and many
short ones, would leave most of the GPU idle if a program had a whole context to read, so contexts are
cut into parts of one common size: the smallest for which the units do not exceed a capacity. Only
what is longer than that is cut, and whatever the contexts are, the number of units stays bounded,
which lets a launch of fixed size be captured in a CUDA graph.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ridgeline.kernels.interface import Chunk

Counts = npt.NDArray[np.int32]

PROGRAMS_PER_PROCESSOR = 2
"""Programs that are resident on a streaming multiprocessor at once: while one waits for memory or
reduces, another computes."""

CANDIDATES = 16
"""Part sizes tried at once in the search for the smallest that fits."""


class Units(NamedTuple):
    """What `plan.Work` holds, still on the host.

    Attributes:
        units: [units, 8] int32, see `plan.UNIT_FIELDS`.
        tiles: [tiles, 4] int32, see `plan.TILE_FIELDS`.
        merges: whether any tile has several units.
    """

    units: Counts
    tiles: Counts
    merges: bool


def decode_capacity(tiles: int, kv_heads: int, processors: int) -> int:
    """How many units a batch of single tokens gets, whatever its contexts.

    Few sequences are cut until their programs just fill the GPU: one more would run alone, after all
    others. Where there is a program for every place without cutting, half as many more are enough to
    cut the contexts that are much longer than the others.

    Args:
        tiles: single tokens in the batch, padding included.
        kv_heads: KV heads on this GPU.
        processors: streaming multiprocessors of the GPU.
    """
    full = _units_that_fill(kv_heads, processors)
    return max(full, tiles + max(1, full // 2))


def decode_units(
    contexts: npt.NDArray[np.integer],
    slots: npt.NDArray[np.integer],
    *,
    tiles: int,
    capacity: int,
    align: int,
    window: int | None = None,
) -> Units:
    """Units of single tokens: tile i is token i, at position `contexts[i] - 1`.

    Args:
        contexts: [tokens], positions attended to, the token itself among them; 0 for a token that
            attends to nothing and whose output is undefined.
        slots: [tokens], rows of the block tables.
        tiles: rows of the tiles returned, at least the number of tokens; the rest is padding.
        capacity: rows of the units returned, more than `tiles`; the rest is padding.
        align: parts are cut at multiples of so many positions, counted from the first one seen.
        window: the largest window, if every layer has one.

    Raises:
        ValueError: `tiles` or `capacity` is too small.
    """
    if len(contexts) > tiles:
        raise ValueError(f"tiles: must be at least the number of tokens, {len(contexts)}, got {tiles}")
    if capacity <= tiles:
        raise ValueError(f"capacity: must exceed tiles, {tiles}, got {capacity}")
    ends = np.zeros(tiles, dtype=np.int32)
    ends[: len(contexts)] = contexts
    rows = np.zeros((tiles, 4), dtype=np.int32)
    rows[:, 0] = np.arange(tiles)
    rows[:, 1] = ends > 0
    rows[:, 2] = ends - 1
    rows[: len(slots), 3] = slots
    starts = _first_seen(ends - 1, window)
    return _cut(rows, starts, ends, _part_tokens(ends - starts, capacity, align), capacity)


def prefill_units(
    chunks: "Sequence[Chunk]",
    *,
    tile_queries: int,
    align: int,
    kv_heads: int,
    processors: int,
    window: int | None = None,
) -> Units:
    """Units of chunks, the longest first: tiles of up to `tile_queries` neighbouring queries.

    Contexts are cut only where the tiles alone do not fill the GPU.

    Args:
        chunks: at least one; their slots are rows of the block tables.
        tile_queries: most queries in a tile.
        align: parts are cut at multiples of so many positions, counted from the first one seen; no
            part is shorter but a tile's last.
        kv_heads: KV heads on this GPU.
        processors: streaming multiprocessors of the GPU.
        window: the largest window, if every layer has one.
    """
    table = np.array([(c.first, c.tokens, c.start, c.slot) for c in chunks], dtype=np.int32)
    counts = -(-table[:, 1] // tile_queries)
    first, tokens, start, slot = np.repeat(table, counts, axis=0).T
    before = _counted_from_zero(counts) * tile_queries
    queries = np.minimum(tokens - before, tile_queries)
    rows = np.stack((first + before, queries, start + before, slot), axis=1)

    starts, ends = _first_seen(rows[:, 2], window), rows[:, 2] + queries
    longest_first = np.argsort(starts - ends, kind="stable")
    rows, starts, ends = rows[longest_first], starts[longest_first], ends[longest_first]
    capacity = _units_that_fill(kv_heads, processors)
    longest = int(ends[0] - starts[0])
    part = longest if len(rows) >= capacity else _part_tokens(ends - starts, capacity, align)
    return _cut(rows, starts, ends, part, None)


def _units_that_fill(kv_heads: int, processors: int) -> int:
    return max(1, PROGRAMS_PER_PROCESSOR * processors // kv_heads)


def _first_seen(first_positions: Counts, window: int | None) -> Counts:
    """The first position that a tile's first query, and so any of its queries, attends to."""
    if window is None:
        return np.zeros_like(first_positions)
    return np.maximum(first_positions + 1 - window, 0)


def _counted_from_zero(counts: Counts) -> Counts:
    """0, 1 .. counts[0] - 1, 0, 1 .. counts[1] - 1 and so on."""
    ends = np.cumsum(counts, dtype=np.int32)
    return np.arange(ends[-1], dtype=np.int32) - np.repeat(ends - counts, counts)


def _part_tokens(lengths: Counts, capacity: int, align: int) -> int:
    """The smallest multiple of `align` for which the parts of all lengths are at most `capacity`.

    There is one, as `capacity` is at least the number of lengths. A bound on it is known where
    capacity exceeds that number by `extra`: cutting adds at most length / size parts to a tile's one,
    sum / size in all, so that sum / extra, rounded up, fits.
    """
    steps = -(-lengths // align)
    most = int(steps.max())
    extra = capacity - len(steps)
    low, high = 1, max(1, most)
    if extra > 0:
        total = int(steps.sum())
        low = max(low, -(-total // capacity))
        high = max(low, min(high, -(-total // extra)))
    # Division in floats is several times as fast, and its ceiling exact for integers of this size.
    wanted = steps.astype(np.float64)
    while low < high:
        candidates = np.arange(low, high, -(-(high - low) // CANDIDATES))
        fits = np.ceil(wanted / candidates[:, None]).sum(axis=1) <= capacity
        index = int(fits.argmax()) if fits[-1] else len(candidates)
        if index > 0:
            low = int(candidates[index - 1]) + 1
        if index < len(candidates):
            high = int(candidates[index])
    return high * align


def _cut(rows: Counts, starts: Counts, ends: Counts, part_tokens: int, capacity: int | None) -> Units:
    """Cut starts .. ends of each tile; `rows` are the first four of `plan.UNIT_FIELDS` of each."""
    parts = -(-(ends - starts) // part_tokens)
    count = int(parts.sum())
    units = np.zeros((count if capacity is None else capacity, 8), dtype=np.int32)
    used = units[:count]
    used[:, :4] = np.repeat(rows, parts, axis=0)
    used[:, 4] = np.repeat(starts, parts) + _counted_from_zero(parts) * part_tokens
    used[:, 5] = np.minimum(used[:, 4] + part_tokens, np.repeat(ends, parts))
    used[:, 6] = np.repeat(parts > 1, parts)
    tiles = np.stack((rows[:, 0], rows[:, 1], np.cumsum(parts) - parts, parts), axis=1, dtype=np.int32)
    return Units(units, tiles, bool((parts > 1).any()))
