"""Paged attention: every unit of a step's plan times every KV head is a program.

A program holds the queries of a tile and of all query heads that share a KV head, rows in all:

    row r: query r // group of the tile, query head r % group of the KV head

so that K and V are read once for the whole group. It walks over its range of the context, keeping
each row's maximum, sum and weighted values (online softmax: Milakov and Gimelshein 2018; in tiles:
Dao et al. 2022, "FlashAttention"). Where a tile has several units, a second kernel weighs what they
found (Dao et al. 2023, "Flash-Decoding").

Nothing beyond a context is read: not the block table, whose entries there may be anything, nor the
rest of the last block, which may hold what is not a number.
"""

import triton
import triton.language as tl

from ridgeline.kernels.cuda.launch import let_next_start, wait_for_earlier

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _load_cells(cells, inside, in_head, RAGGED: tl.constexpr, PADDED: tl.constexpr):
    # A mask that is always true still costs registers.
    if RAGGED and PADDED:
        return tl.load(cells, mask=inside & in_head, other=0.0)
    if RAGGED:
        return tl.load(cells, mask=inside, other=0.0)
    if PADDED:
        return tl.load(cells, mask=in_head, other=0.0)
    return tl.load(cells)


@triton.jit
def _dot(a, b, accumulator):
    if _INTERPRETED:
        # The interpreter would multiply the bits of bfloat16 as integers.
        return tl.dot(a.to(tl.float32), b.to(tl.float32), accumulator, input_precision="ieee")
    return tl.dot(a, b, accumulator, input_precision="ieee")


@triton.jit
def _attend_range(
    accumulator, maximum, total, query, positions, keys, table, block_stride, start, end, scale,
    HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, VALUES: tl.constexpr,
    WINDOW: tl.constexpr, COLUMNS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    # Without MASKED, the range is a multiple of COLUMNS and every row sees all of it.
    PADDED_DIM: tl.constexpr = query.shape[1]
    dims = tl.arange(0, PADDED_DIM)
    in_head = (dims < HEAD_DIM)[None, :]
    # Block ids are read an iteration ahead: a load that waits for another is not pipelined.
    seen = start + tl.arange(0, COLUMNS)
    blocks = tl.load(table + seen // BLOCK_SIZE, mask=seen < end, other=0)
    for first in range(start, end, COLUMNS):
        seen = first + tl.arange(0, COLUMNS)
        inside = seen < end
        offsets = blocks.to(tl.int64) * block_stride + (seen % BLOCK_SIZE) * HEAD_DIM
        cells = keys + offsets[:, None] + dims[None, :]
        key = _load_cells(cells, inside[:, None], in_head, MASKED, PADDED_DIM != HEAD_DIM)
        value = _load_cells(cells + VALUES, inside[:, None], in_head, MASKED, PADDED_DIM != HEAD_DIM)
        # Only where they are stored in fewer bits.
        key, value = key.to(query.dtype), value.to(query.dtype)
        blocks = tl.load(table + (seen + COLUMNS) // BLOCK_SIZE, mask=seen + COLUMNS < end, other=0)

        scores = _dot(query, tl.trans(key), tl.zeros((query.shape[0], COLUMNS), tl.float32))
        if MASKED:
            visible = (seen[None, :] <= positions[:, None]) & inside[None, :]
            if WINDOW is not None:
                visible = visible & (seen[None, :] > positions[:, None] - WINDOW)
            scores = tl.where(visible, scores, float("-inf"))
        larger = tl.maximum(maximum, tl.max(scores, 1) * scale)
        anchor = larger
        if MASKED:
            # A row that has seen nothing yet would subtract infinity from itself.
            anchor = tl.where(larger == float("-inf"), 0.0, larger)
        weights = tl.exp2(scores * scale - anchor[:, None])
        rescale = tl.exp2(maximum - anchor)
        total = total * rescale + tl.sum(weights, 1)
        accumulator = accumulator * rescale[:, None]
        accumulator = _dot(weights.to(value.dtype), value, accumulator)
        maximum = larger
    return accumulator, maximum, total


@triton.jit(do_not_specialize=["table_stride"])
def attend_units_kernel(
    qkv, pool, tables, units, output, accumulators, maxima, totals, table_stride, block_stride, scale,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, WINDOW: tl.constexpr,
    TILE_QUERIES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT_WIDTH: tl.constexpr,
    OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """Grid (kv_heads, units): heads vary fastest, so that the longest units start first.

    Pointers and constants: see `attention.attend`. `table_stride` is between rows of `tables`,
    `block_stride` between blocks of `pool`, both in elements; `scale` is that of the scores times
    log2(e).
    """
    let_next_start(OVERLAP)
    kv_head = tl.program_id(0)
    unit = tl.program_id(1)
    fields = units + unit * UNIT_WIDTH
    first_token = tl.load(fields)
    queries = tl.load(fields + 1)
    first_position = tl.load(fields + 2)
    slot = tl.load(fields + 3)
    start = tl.load(fields + 4)
    end = tl.load(fields + 5)
    split = tl.load(fields + 6)
    wait_for_earlier(OVERLAP)
    if queries == 0:
        return

    HEADS: tl.constexpr = GROUP * KV_HEADS
    VALUES: tl.constexpr = KV_HEADS * BLOCK_SIZE * HEAD_DIM
    rows = tl.arange(0, ROWS)
    stored = rows < queries * GROUP
    # Rows beyond the tile repeat its last query, so that only storing them needs a mask.
    index = tl.minimum(rows // GROUP, queries - 1)
    positions = first_position + index
    tokens = (first_token + index).to(tl.int64)
    heads = kv_head * GROUP + rows % GROUP
    dims = tl.arange(0, PADDED_DIM)
    in_head = (dims < HEAD_DIM)[None, :]
    cells = tokens * ((HEADS + 2 * KV_HEADS) * HEAD_DIM) + heads * HEAD_DIM
    query = tl.load(qkv + cells[:, None] + dims[None, :], mask=in_head, other=0.0)
    keys = pool + kv_head * (BLOCK_SIZE * HEAD_DIM)
    table = tables + slot.to(tl.int64) * table_stride

    accumulator = tl.zeros((ROWS, PADDED_DIM), tl.float32)
    maximum = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    if WINDOW is not None:
        start = tl.maximum(start, first_position - (WINDOW - 1))
    # The bulk of a chunk's context needs no mask and has a loop of its own. A single token's has not:
    # reading is what takes time there, and every loop starts with an empty pipeline.
    if TILE_QUERIES > 1:
        if WINDOW is not None:
            hidden = first_position + queries - WINDOW - start
            bulk = tl.minimum(start + tl.cdiv(tl.maximum(hidden, 0), COLUMNS) * COLUMNS, end)
            accumulator, maximum, total = _attend_range(
                accumulator, maximum, total, query, positions, keys, table, block_stride, start, bulk, scale,
                HEAD_DIM, BLOCK_SIZE, VALUES, WINDOW, COLUMNS, True,
            )  # fmt: skip
            start = tl.maximum(start, bulk)
        seen_by_all = tl.maximum(tl.minimum(end, first_position + 1) - start, 0)
        edge = start + seen_by_all // COLUMNS * COLUMNS
        accumulator, maximum, total = _attend_range(
            accumulator, maximum, total, query, positions, keys, table, block_stride, start, edge, scale,
            HEAD_DIM, BLOCK_SIZE, VALUES, WINDOW, COLUMNS, False,
        )  # fmt: skip
        start = edge
    accumulator, maximum, total = _attend_range(
        accumulator, maximum, total, query, positions, keys, table, block_stride, start, end, scale,
        HEAD_DIM, BLOCK_SIZE, VALUES, WINDOW, COLUMNS, True,
    )  # fmt: skip

    mask = stored[:, None] & in_head
    if split == 0:
        cells = tokens * (HEADS * HEAD_DIM) + heads * HEAD_DIM
        result = accumulator / total[:, None]
        tl.store(output + cells[:, None] + dims[None, :], result.to(output.dtype.element_ty), mask=mask)
    else:
        partial = (unit * KV_HEADS + kv_head).to(tl.int64) * (TILE_QUERIES * GROUP) + rows
        tl.store(accumulators + partial[:, None] * HEAD_DIM + dims[None, :], accumulator, mask=mask)
        tl.store(maxima + partial, maximum, mask=stored)
        tl.store(totals + partial, total, mask=stored)


@triton.jit
def merge_units_kernel(
    tiles, accumulators, maxima, totals, output,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
    TILE_QUERIES: tl.constexpr, PARTS: tl.constexpr, TILE_WIDTH: tl.constexpr,
    OVERLAP: tl.constexpr = False,
):  # fmt: skip
    """Grid (tiles, kv_heads * TILE_QUERIES * GROUP): a program is one head of one query.

    So few long contexts have enough programs here too; those without anything to merge end at once.
    """
    let_next_start(OVERLAP)
    TILE_ROWS: tl.constexpr = TILE_QUERIES * GROUP
    fields = tiles + tl.program_id(0) * TILE_WIDTH
    first_token = tl.load(fields)
    queries = tl.load(fields + 1)
    first_unit = tl.load(fields + 2)
    parts = tl.load(fields + 3)
    kv_head = tl.program_id(1) // TILE_ROWS
    row = tl.program_id(1) % TILE_ROWS
    wait_for_earlier(OVERLAP)
    if (parts <= 1) | (row >= queries * GROUP):
        return

    dims = tl.arange(0, PADDED_DIM)
    in_head = dims < HEAD_DIM
    accumulator = tl.zeros((PADDED_DIM,), tl.float32)
    maximum = tl.max(tl.full((PARTS,), float("-inf"), tl.float32), 0)
    total = tl.sum(tl.zeros((PARTS,), tl.float32), 0)
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS)
        partial = ((first_unit + part) * KV_HEADS + kv_head).to(tl.int64) * TILE_ROWS + row
        found = tl.load(maxima + partial, mask=part < parts, other=float("-inf"))
        # A part all of which a window hides has seen nothing.
        useful = found > float("-inf")
        larger = tl.maximum(maximum, tl.max(found, 0))
        anchor = tl.where(larger == float("-inf"), 0.0, larger)
        weights = tl.exp2(found - anchor)
        rescale = tl.exp2(maximum - anchor)
        sums = tl.load(totals + partial, mask=useful, other=0.0)
        cells = accumulators + partial[:, None] * HEAD_DIM + dims[None, :]
        values = tl.load(cells, mask=useful[:, None] & in_head[None, :], other=0.0)
        total = total * rescale + tl.sum(weights * sums, 0)
        accumulator = accumulator * rescale + tl.sum(weights[:, None] * values, 0)
        maximum = larger

    token = (first_token + row // GROUP).to(tl.int64)
    head = kv_head * GROUP + row % GROUP
    cells = output + (token * (GROUP * KV_HEADS) + head) * HEAD_DIM + dims
    tl.store(cells, (accumulator / total).to(output.dtype.element_ty), mask=in_head)
