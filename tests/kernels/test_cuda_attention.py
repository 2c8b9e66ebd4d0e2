"""Attention over blocks as GPUs compute it, in Triton's interpreter, beside the plain one.

All memory that a step does not own holds what is not a number, and what a block table has beyond a
context and wholly before a window are ids that no pool has: reading either shows.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from paged_batches import BLOCK_SIZE, Sequences, attention_spec

from ridgeline.kernels.cuda.attention import Partials, attend, chunk_queries, context_align
from ridgeline.kernels.cuda.plan import DevicePlan, Work
from ridgeline.kernels.cuda.tiles import tile_shape
from ridgeline.kernels.cuda.units import Units, decode_units, prefill_units
from ridgeline.kernels.interface import AttentionSpec, Batch, Integers
from ridgeline.kernels.reference import ReferenceAttention

BLOCKS = 24
CPU = torch.device("cpu")
GARBAGE = (10**6, -1)
STORED = (None, torch.float8_e4m3fn)
"""What K and V are stored in, where it is another dtype than that of the rest."""
TOLERANCES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def spec_of(
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    windows: tuple[int | None, ...] = (None,),
    stored: torch.dtype | None = None,
) -> AttentionSpec:
    spec = attention_spec(heads, kv_heads, head_dim, stored or dtype, blocks=BLOCKS, windows=windows)
    # Nothing is rotated.
    return replace(spec, inverse_frequencies=(0.0,) * (head_dim // 2), dtype=dtype)


def with_garbage(table: Integers, first_seen: int, context: int, width: int) -> Integers:
    used = slice(first_seen // BLOCK_SIZE, -(-context // BLOCK_SIZE))
    row = np.resize(np.array(GARBAGE), width)
    row[used] = table[used]
    return row


def device_plan(
    batch: Batch, singles: Units | None, chunks: Units | None, queries: int, window: int | None
) -> DevicePlan:
    """Slots are rows of the tables, those of single tokens first; `window` is that of the layer."""
    tables = [
        (table, context - 1, context) for table, context in zip(batch.tables, batch.contexts, strict=True)
    ]
    tables += [(chunk.blocks, chunk.start, chunk.start + chunk.tokens) for chunk in batch.chunks]
    width = max(len(table) for table, _, _ in tables) + 1
    rows = np.stack(
        [
            with_garbage(table, 0 if window is None else max(0, int(first) + 1 - window), int(context), width)
            for table, first, context in tables
        ]
    )
    works = [
        Work(torch.from_numpy(u.units), torch.from_numpy(u.tiles), n, u.merges)
        for u, n in ((singles, 1), (chunks, queries))
        if u is not None
    ]
    unused = torch.empty(0, dtype=torch.int32)
    return DevicePlan(unused, unused, torch.from_numpy(rows.astype(np.int32)), tuple(works))


class Case:
    """A batch whose contexts are in two pools: as the kernels keep them, and as the plain one does."""

    def __init__(self, spec: AttentionSpec, batch: Batch, size: float = 1.0) -> None:
        torch.manual_seed(0)
        self.spec, self.batch = spec, batch
        kv = spec.kv
        self.reference = ReferenceAttention(spec)
        self.pool = torch.full(
            (BLOCKS, kv.layers, 2, kv.kv_heads, BLOCK_SIZE, kv.head_dim), float("nan"), dtype=kv.dtype
        )
        width = (spec.heads + 2 * kv.kv_heads) * kv.head_dim
        self.qkv = (size * torch.randn(len(batch.positions), width)).to(spec.computed_dtype)
        contexts = [*zip(batch.tables, batch.contexts, strict=True)]
        contexts += [(chunk.blocks, chunk.start + chunk.tokens) for chunk in batch.chunks]
        for table, context in contexts:
            for position in range(int(context)):
                block, offset = int(table[position // BLOCK_SIZE]), position % BLOCK_SIZE
                if self.pool[block, 0, 0, 0, offset, 0].float().isnan():  # else shared, and written
                    stored = torch.randn(kv.layers, 2, kv.kv_heads, kv.head_dim).to(kv.dtype)
                    self.pool[block, :, :, :, offset] = stored
                    self.reference.pool[:, block, offset] = stored.flatten(1, 2)
        # The step's own K and V are in qkv for the plain one, which stores them itself.
        own = self.qkv[:, spec.heads * kv.head_dim :].view(-1, 2, kv.kv_heads, kv.head_dim)
        for i, (block, position) in enumerate(zip(batch.write_blocks, batch.positions, strict=True)):
            self.pool[int(block), :, :, :, int(position) % BLOCK_SIZE] = own[i].to(kv.dtype)

    def wanted(self, layer: int = 0) -> torch.Tensor:
        return self.reference.attend(layer, self.qkv.clone(), None, self.reference.plan(self.batch))

    def got(
        self,
        *,
        layer: int = 0,
        extra: int = 3,
        tiles: int | None = None,
        align: int = BLOCK_SIZE,
        processors: int = 1,
        window: int | None = None,
    ) -> torch.Tensor:
        """`extra` units beyond one for each single token; `processors` decide how chunks are cut."""
        spec, batch = self.spec, self.batch
        queries = chunk_queries(spec, 227 * 1024)
        count = len(batch.contexts)
        tiles = tiles or max(count, 1)
        singles = chunks = None
        if count:
            singles = decode_units(
                batch.contexts,
                np.arange(count),
                tiles=tiles,
                capacity=tiles + extra,
                align=align,
                window=window,
            )
        if batch.chunks:
            chunks = prefill_units(
                [replace(chunk, slot=count + i) for i, chunk in enumerate(batch.chunks)],
                tile_queries=queries,
                align=align,
                kv_heads=spec.kv.kv_heads,
                processors=processors,
                window=window,
            )
        plan = device_plan(batch, singles, chunks, queries, spec.window(layer))
        partials = Partials(spec, tiles + extra, CPU)
        for buffer in partials.buffers(1):
            buffer.fill_(float("nan"))
        qkv = self.qkv.clone()
        qkv[:, spec.heads * spec.kv.head_dim :] = float("nan")
        return attend(qkv, self.pool[:, layer], plan, spec.heads, spec.window(layer), partials)

    def check(self, *, layer: int = 0, **options: int | None) -> None:
        tolerance = TOLERANCES[self.spec.computed_dtype]
        got = self.got(layer=layer, **options)
        torch.testing.assert_close(got, self.wanted(layer), atol=tolerance, rtol=tolerance)


def decode(contexts: list[int]) -> Batch:
    return Sequences(contexts, BLOCKS).batch({i: c - 1 for i, c in enumerate(contexts)}, {})


@pytest.mark.parametrize("group", [1, 3, 4, 7, 16])
def test_single_tokens(group: int) -> None:
    Case(spec_of(2 * group, 2, 16, torch.float32), decode([100, 33, 32, 17, 1])).check()


@pytest.mark.parametrize("head_dim", [8, 16, 64, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_sizes_of_heads(head_dim: int, dtype: torch.dtype, stored: torch.dtype | None) -> None:
    sequences = Sequences([70, 50], BLOCKS)
    batch = sequences.batch({0: 69}, {1: (45, 5)})
    Case(spec_of(2, 1, head_dim, dtype, stored=stored), batch).check(extra=1)


@pytest.mark.parametrize("group", [1, 3, 4, 7, 16])
@pytest.mark.parametrize("processors", [1, 7], ids=["whole", "split"])
def test_chunks(group: int, processors: int) -> None:
    sequences = Sequences([11, 2, 69], BLOCKS)
    batch = sequences.batch({}, {0: (0, 11), 1: (0, 2), 2: (62, 7)})
    Case(spec_of(group, 1, 16, torch.float32), batch).check(processors=processors)


@pytest.mark.parametrize("window", [1, 5, 40, 1000])
@pytest.mark.parametrize("known", [False, True], ids=["full-plan", "window-plan"])
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_windows(window: int, known: bool, stored: torch.dtype | None) -> None:
    sequences = Sequences([70, 21, 130], BLOCKS)
    batch = sequences.batch({0: 69, 1: 20}, {2: (100, 30)})
    case = Case(spec_of(2, 1, 16, torch.float32, (window, None), stored), batch)
    case.check(processors=2, window=window if known else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cut_or_not_is_the_same(dtype: torch.dtype) -> None:
    sequences = Sequences([150, 40, 60], BLOCKS)
    case = Case(spec_of(4, 1, 32, dtype), sequences.batch({0: 149, 1: 39}, {2: (50, 10)}))
    whole = case.got(extra=1, align=256, processors=1)
    cut = case.got(extra=30, processors=32)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(cut, whole, atol=tolerance, rtol=tolerance)


def test_more_parts_than_are_merged_at_once() -> None:
    case = Case(spec_of(8, 1, 256, torch.float32), decode([16 * 12]))
    plan = decode_units(case.batch.contexts, np.array([0]), tiles=1, capacity=12, align=BLOCK_SIZE)
    assert plan.tiles[0, 3] == 12
    case.check(extra=11)


def test_padding_leaves_the_rest_alone() -> None:
    case = Case(spec_of(4, 2, 16, torch.float32), decode([40, 3]))
    case.check(tiles=5, extra=7)


def test_a_token_without_context_is_left_out() -> None:
    batch = decode([40, 20, 3])
    case = Case(spec_of(4, 2, 16, torch.float32), batch)
    wanted = case.wanted()
    batch.contexts[1] = 0
    got = case.got()
    torch.testing.assert_close(got[[0, 2]], wanted[[0, 2]], atol=2e-5, rtol=2e-5)


def test_sequences_that_share_blocks() -> None:
    sequences = Sequences([50, 40, 40], BLOCKS)
    sequences.tables[1, :2] = sequences.tables[2, :2] = sequences.tables[0, :2]
    batch = sequences.batch({0: 49, 1: 39}, {2: (35, 5)})
    Case(spec_of(4, 2, 16, torch.float32), batch).check()


def test_large_scores_do_not_overflow() -> None:
    Case(spec_of(2, 1, 16, torch.float32), decode([70, 5]), size=100).check(extra=5)


def test_what_no_kernel_can_do_is_refused() -> None:
    case = Case(spec_of(17, 1, 16, torch.float32), decode([5]))
    with pytest.raises(ValueError, match="A tile has 1 queries of 17 heads; there is room for 16 rows"):
        case.got()
    with pytest.raises(ValueError, match="Heads have 512 elements; the kernel takes up to 256"):
        Case(spec_of(1, 1, 512, torch.float32), decode([5])).got()
    with pytest.raises(
        ValueError, match="The GPU grants 65,536 bytes of shared memory; the kernel needs 101,376"
    ):
        tile_shape(128, torch.bfloat16, 64 * 1024, singles=True)


@pytest.mark.parametrize("head_dim", [8, 64, 96, 128, 256])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shared_kib", [99, 163, 227])
@pytest.mark.parametrize("stored", STORED, ids=str)
def test_every_gpu_has_a_shape(
    head_dim: int, dtype: torch.dtype, shared_kib: int, stored: torch.dtype | None
) -> None:
    spec = spec_of(16, 1, head_dim, dtype, stored=stored)
    for singles in (True, False):
        shape, hopper = (
            tile_shape(head_dim, dtype, shared_kib * 1024, singles=singles, hopper=on_hopper, kv_dtype=stored)
            for on_hopper in (False, True)
        )
        align = context_align(spec, singles=singles)
        assert hopper.rows == shape.rows >= 16
        assert align % shape.columns == align % hopper.columns == align % BLOCK_SIZE == 0
    assert chunk_queries(spec, shared_kib * 1024) >= 1


def test_room_for_single_tokens_stays_where_it_is() -> None:
    partials = Partials(spec_of(4, 2, 16, torch.float32), 3, CPU)
    held = partials.buffers(12)
    assert len(partials.buffers(13).maxima) == 13
    assert partials.buffers(12).accumulators.data_ptr() == held.accumulators.data_ptr()
