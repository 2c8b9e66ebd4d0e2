"""Every position that a query sees is in exactly one unit, and the units fit their capacity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.kernels.cuda.units import Units, decode_capacity, decode_units, prefill_units
from ridgeline.kernels.interface import Chunk

ALIGN = 16
WINDOWS = st.none() | st.integers(1, 300)


def chunk(first: int, tokens: int, start: int, slot: int) -> Chunk:
    return Chunk(first, tokens, start, np.zeros(0, dtype=np.int64), slot)


def check(plan: Units, window: int | None) -> None:
    """Units of a tile are neighbours, in order, disjoint, and cover what its queries see."""
    assert plan.units.dtype == plan.tiles.dtype == np.int32
    used = 0
    for first_token, queries, first_unit, parts in plan.tiles:
        units = plan.units[first_unit : first_unit + parts]
        if queries == 0:
            assert parts == 0
            continue
        assert first_unit == used and parts >= 1
        used += parts
        assert (units[:, 0] == first_token).all() and (units[:, 1] == queries).all()
        assert (units[:, 6] == (parts > 1)).all()
        first, last = units[0, 2], units[0, 2] + queries - 1
        assert (units[:, 2] == first).all() and len(set(units[:, 3])) == 1
        assert units[0, 4] == (0 if window is None else max(0, first - window + 1))
        assert units[-1, 5] == last + 1
        assert (units[:, 4] < units[:, 5]).all()
        assert (units[1:, 4] == units[:-1, 5]).all()
        assert ((units[:-1, 5] - units[0, 4]) % ALIGN == 0).all()
    assert not plan.units[used:].any()
    assert plan.merges == (plan.tiles[:, 3] > 1).any()


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=12),
    st.integers(0, 4),
    st.integers(1, 40),
    WINDOWS,
)
def test_single_tokens(contexts: list[int], padding: int, extra: int, window: int | None) -> None:
    tiles = len(contexts) + padding
    slots = np.arange(len(contexts))[::-1] + 3
    capacity = tiles + extra
    plan = decode_units(np.array(contexts), slots, tiles=tiles, capacity=capacity, align=ALIGN, window=window)
    check(plan, window)
    assert plan.units.shape == (capacity, 8) and plan.tiles.shape == (tiles, 4)
    assert plan.tiles[:, 1].tolist() == [int(c > 0) for c in contexts] + [0] * padding
    for i, context in enumerate(contexts):
        units = plan.units[plan.tiles[i, 2] :][: plan.tiles[i, 3]]
        assert (
            (units[:, 0] == i).all()
            and (units[:, 2] == context - 1).all()
            and (units[:, 3] == slots[i]).all()
        )


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8), st.integers(1, 40))
def test_no_shorter_parts_would_fit(contexts: list[int], extra: int) -> None:
    capacity = len(contexts) + extra
    plan = decode_units(
        np.array(contexts), np.zeros(len(contexts)), tiles=len(contexts), capacity=capacity, align=ALIGN
    )
    longest = int((plan.units[:, 5] - plan.units[:, 4]).max())
    shorter = (-(-longest // ALIGN) - 1) * ALIGN
    if shorter > 0:
        assert sum(-(-context // shorter) for context in contexts) > capacity


@given(
    st.lists(st.tuples(st.integers(2, 300), st.integers(0, 3000)).map(tuple), min_size=1, max_size=5),
    st.sampled_from((1, 5, 32)),
    st.sampled_from((1, 8)),
    st.sampled_from((4, 132)),
    WINDOWS,
)
def test_chunks(
    sizes: list[tuple[int, int]], tile_queries: int, kv_heads: int, processors: int, window: int | None
) -> None:
    firsts = np.cumsum([0] + [tokens for tokens, _ in sizes]) + 2
    chunks = [
        chunk(int(first), tokens, start, slot)
        for slot, (first, (tokens, start)) in enumerate(zip(firsts, sizes, strict=False))
    ]
    plan = prefill_units(
        chunks,
        tile_queries=tile_queries,
        align=ALIGN,
        kv_heads=kv_heads,
        processors=processors,
        window=window,
    )
    check(plan, window)
    positions = {}
    for first_token, queries, first_unit, _ in plan.tiles:
        unit = plan.units[first_unit]
        assert 1 <= queries <= tile_queries
        for i in range(queries):
            assert first_token + i not in positions
            positions[first_token + i] = (unit[2] + i, unit[3])
    assert positions == {c.first + i: (c.start + i, c.slot) for c in chunks for i in range(c.tokens)}
    lengths = plan.units[plan.tiles[:, 2], 5] - plan.units[plan.tiles[:, 2], 4]
    assert (np.diff(lengths) <= 0).all()
    assert len(plan.units) <= max(len(plan.tiles), 2 * processors // kv_heads)


def test_a_short_chunk_on_a_long_context_is_cut_to_fill_the_gpu() -> None:
    few = prefill_units([chunk(0, 64, 30000, 0)], tile_queries=32, align=64, kv_heads=8, processors=132)
    assert len(few.tiles) == 2 and 30 <= len(few.units) <= 33
    many = prefill_units([chunk(0, 4096, 30000, 0)], tile_queries=32, align=64, kv_heads=8, processors=132)
    assert len(many.units) == len(many.tiles) == 128 and not many.merges


def test_a_long_sequence_among_short_ones_is_cut_and_they_are_not() -> None:
    contexts = np.array([100_000] + [200] * 255)
    capacity = decode_capacity(256, 8, 132)
    plan = decode_units(contexts, np.arange(256), tiles=256, capacity=capacity, align=64)
    assert plan.tiles[0, 3] == capacity - 255 and (plan.tiles[1:, 3] == 1).all()


def test_one_sequence_just_fills_the_gpu() -> None:
    capacity = decode_capacity(1, 8, 132)
    assert capacity * 8 == 2 * 132
    plan = decode_units(np.array([33 * 640]), np.array([0]), tiles=1, capacity=capacity, align=64)
    assert ((plan.units[:, 5] - plan.units[:, 4]) == 640).all()


@pytest.mark.parametrize(("tiles", "kv_heads"), [(1, 1), (1, 512), (33, 8), (256, 8), (256, 1)])
def test_capacity_always_leaves_room_to_cut(tiles: int, kv_heads: int) -> None:
    assert decode_capacity(tiles, kv_heads, 132) > tiles


def test_too_small_a_plan_is_refused() -> None:
    contexts = np.array([5, 6])
    with pytest.raises(ValueError, match="tiles: must be at least the number of tokens, 2, got 1"):
        decode_units(contexts, contexts, tiles=1, capacity=9, align=ALIGN)
    with pytest.raises(ValueError, match="capacity: must exceed tiles, 4, got 4"):
        decode_units(contexts, contexts, tiles=4, capacity=4, align=ALIGN)
