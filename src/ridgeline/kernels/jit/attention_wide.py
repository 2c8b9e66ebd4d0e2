"""`attention_chunk` on a processor with AMX tiles: products of queries, keys, weights and values in bfloat16.

Scores, sums and outputs are float32. Some positions at a time K and V become panels, see `wide`, which
all rows of the query tile meet; a row is a query head of a token.
"""

import numpy as np
from numba import njit

from ridgeline.kernels.jit.activations import floats_at
from ridgeline.kernels.jit.attention_chunk import tile_tokens
from ridgeline.kernels.jit.attention_int8_moving import pair_int8_keys, pair_int8_values
from ridgeline.kernels.jit.attention_ir import divide
from ridgeline.kernels.jit.attention_math import LINE_BYTES, LOWEST
from ridgeline.kernels.jit.attention_moving import pair_rows
from ridgeline.kernels.jit.attention_state import aligned
from ridgeline.kernels.jit.attention_weighing import ROWS as WEIGHED_ROWS
from ridgeline.kernels.jit.attention_weighing import weigh_tile
from ridgeline.kernels.jit.kv_pool import BLOCK_TOKENS, INT8, keys_at, scales_of, values_after
from ridgeline.kernels.jit.products import BLOCK
from ridgeline.kernels.jit.wide import BLOCK_PANEL_BYTES, ROWS, TILE_BYTES, multiply_panel, round_row

SPAN = 256
"""Positions whose scores are computed before their values are added."""

_ROW_BYTES = TILE_BYTES // 16


@njit(error_model="numpy")
def _rows(group: int) -> int:
    """Of a query tile, filled up."""
    return -(-tile_tokens(group) * group // ROWS) * ROWS


@njit(error_model="numpy")
def wide_scratch_bytes(group: int, head_dim: int) -> int:
    """Of the scratch that `attend_chunk_wide` needs."""
    row_bytes = (4 + 2) * head_dim + LINE_BYTES + 4
    return _rows(group) * row_bytes + 4 * SPAN * head_dim + ROWS * SPAN * 6 + 2 * head_dim + 8 * LINE_BYTES


@njit(error_model="numpy")
def _take_queries(qkv, first, count, column, group, head_dim, queries):
    """Those of some tokens as bfloat16, in the tiles that products take."""
    steps = head_dim // BLOCK
    for row in range(count * group):
        source = qkv.ctypes.data + (first + row // group) * qkv.strides[0]
        source += 4 * (column + row % group * head_dim)
        target = queries + row // 16 * steps * TILE_BYTES + row % 16 * _ROW_BYTES
        for step in range(steps):
            round_row(source + 4 * BLOCK * step, 2, target + step * TILE_BYTES)


@njit(error_model="numpy")
def _key_panels(base, pool, table, block, blocks, head_dim, panels):
    """A panel for every two blocks: their positions are its outputs, the elements of a head its inputs."""
    steps = head_dim // BLOCK
    for i in range(blocks):
        source = base + table[block + i] * pool.block_bytes
        panel = panels + i // 2 * steps * BLOCK_PANEL_BYTES + i % 2 * TILE_BYTES
        for step in range(steps):
            target = panel + step * BLOCK_PANEL_BYTES
            if pool.form == INT8:
                rows = source + step * BLOCK * BLOCK_TOKENS
                pair_int8_keys(rows, BLOCK // 2, scales_of(pool, source), target)
            else:
                pair_rows(source + step * BLOCK * 2 * BLOCK_TOKENS, 2 * BLOCK_TOKENS, BLOCK // 2, target)


@njit(error_model="numpy")
def _pair_values(rows, row_bytes, low, high, zeros, pairs):
    """16 positions of a tile, those from `low` to before `high` as they are and the others 0."""
    floats_at(pairs, 16 * (BLOCK_TOKENS // 2))[:] = 0
    if low >= high:
        return
    first = -(-low // 2)
    if low % 2:
        pair_rows(zeros, rows + row_bytes * low - zeros, 1, pairs + LINE_BYTES * (low // 2))
    pair_rows(rows + row_bytes * 2 * first, row_bytes, max(0, high // 2 - first), pairs + LINE_BYTES * first)
    if high % 2:
        last = rows + row_bytes * (high - 1)
        pair_rows(last, zeros - last, 1, pairs + LINE_BYTES * (high // 2))


@njit(error_model="numpy")
def _value_panels(base, pool, table, block, low, high, head_dim, zeros, panels):
    """A panel for every 32 elements of a head: they are its outputs, positions its inputs.

    Positions of the span before `low` and from `high` on may never have been written, and become 0.
    """
    panel_bytes = SPAN // BLOCK * BLOCK_PANEL_BYTES
    for i in range(2 * -(-high // BLOCK)):
        begin = max(0, min(BLOCK_TOKENS, low - BLOCK_TOKENS * i))
        end = max(0, min(BLOCK_TOKENS, high - BLOCK_TOKENS * i))
        source = base + values_after(pool)
        if end:
            source += table[block + i] * pool.block_bytes
        for tile in range(head_dim // 16):
            panel = panels + tile // 2 * panel_bytes + tile % 2 * TILE_BYTES
            panel += i // 2 * BLOCK_PANEL_BYTES + i % 2 * (TILE_BYTES // 2)
            if pool.form == INT8:
                scales = scales_of(pool, source)
                pair_int8_values(source + 32 * tile, 2 * head_dim, begin, end, scales, panel)
            elif begin == 0 and end == BLOCK_TOKENS:
                pair_rows(source + 32 * tile, 2 * head_dim, BLOCK_TOKENS // 2, panel)
            else:
                _pair_values(source + 32 * tile, 2 * head_dim, begin, end, zeros, panel)


@njit(error_model="numpy")
def _bound(row, rows, group, at, window, bounds):
    """From where and to before where each row sees a span: `ROWS` beginnings, then as many ends."""
    for i in range(ROWS):
        # A row that only fills up the last ones is taken for one of the last token.
        token = at + min(row + i, rows - 1) // group
        bounds[i] = max(0, token + 1 - window) if window > 0 else 0
        bounds[ROWS + i] = min(SPAN, token + 1)


@njit(error_model="numpy")
def _attend_rows(
    row,
    rows,
    group,
    at,
    window,
    head_dim,
    queries,
    keys,
    values,
    out,
    sums,
    largest,
    scores,
    weights,
    bounds,
):
    """Bring the softmaxes of `ROWS` rows up to date with a span that begins `at` before the first token."""
    earliest, latest = at + row // group, at + (min(row + ROWS, rows) - 1) // group
    high = min(SPAN, latest + 1)
    if high <= 0 or (window > 0 and earliest + 1 - window >= SPAN):
        return
    steps, score_bytes, tile_bytes = -(-high // BLOCK), 4 * SPAN, head_dim // BLOCK * TILE_BYTES
    for step in range(steps):
        multiply_panel(
            2,
            queries + row // 16 * tile_bytes,
            _ROW_BYTES,
            TILE_BYTES,
            tile_bytes,
            keys + step * (head_dim // BLOCK) * BLOCK_PANEL_BYTES,
            head_dim // BLOCK,
            scores + 4 * BLOCK * step,
            score_bytes,
            0,
        )
    hides = earliest + 1 < steps * BLOCK or (window > 0 and latest + 1 > window)
    if hides:
        _bound(row, rows, group, at, window, bounds)
    for i in range(0, ROWS, WEIGHED_ROWS):
        weigh_tile(
            scores + score_bytes * i,
            score_bytes,
            2 * steps,
            hides,
            bounds.ctypes.data + 8 * i,
            bounds.ctypes.data + 8 * (ROWS + i),
            largest + 4 * (row + i),
            sums + LINE_BYTES * (row + i),
            out + 4 * head_dim * (row + i),
            head_dim // 16,
            weights + 2 * SPAN * i,
            2 * SPAN,
        )
    for column in range(0, head_dim, BLOCK):
        multiply_panel(
            2,
            weights,
            2 * SPAN,
            2 * BLOCK,
            2 * SPAN * 16,
            values + column // BLOCK * (SPAN // BLOCK) * BLOCK_PANEL_BYTES,
            steps,
            out + 4 * (head_dim * row + column),
            4 * head_dim,
            1,
        )


@njit(nogil=True, error_model="numpy")
def attend_chunk_wide(tile, kv_head, first, tokens, start, qkv, pool, layer, table, window, out, scratch):
    """See `attention_chunk.attend_chunk`; heads must be a multiple of 32, and this thread's tiles ready."""
    kv_heads, head_dim = pool.kv_heads, pool.head_dim
    group = (qkv.shape[1] // head_dim - 2 * kv_heads) // kv_heads
    column = kv_head * group * head_dim
    all_rows = _rows(group)
    attended = aligned(scratch)
    sums = attended + 4 * all_rows * head_dim
    largest = sums + LINE_BYTES * all_rows
    queries = aligned(largest + 4 * all_rows)
    keys = aligned(queries + 2 * all_rows * head_dim)
    values = keys + 2 * SPAN * head_dim
    scores = values + 2 * SPAN * head_dim
    weights = scores + 4 * ROWS * SPAN
    zeros = weights + 2 * ROWS * SPAN
    bounds = np.empty(2 * ROWS, np.int64)
    skipped = tile * tile_tokens(group)
    count = min(tile_tokens(group), tokens - skipped)
    rows = count * group
    filled = -(-rows // ROWS) * ROWS
    floats_at(attended, filled * head_dim)[:] = 0
    floats_at(sums, filled * 16)[:] = 0
    floats_at(largest, filled)[:] = LOWEST
    floats_at(zeros, head_dim // 2)[:] = 0
    floats_at(queries, filled * head_dim // 2)[:] = 0
    _take_queries(qkv, first + skipped, count, column, group, head_dim, queries)
    base = keys_at(pool, layer, kv_head)
    position, end = start + skipped, start + skipped + count
    block = max(0, position - window + 1) // BLOCK_TOKENS if window > 0 else 0
    while block * BLOCK_TOKENS < end:
        positions = min(SPAN, end - block * BLOCK_TOKENS)
        blocks = -(-positions // BLOCK_TOKENS)
        _key_panels(base, pool, table, block, blocks, head_dim, keys)
        at = position - block * BLOCK_TOKENS
        low = max(0, at + 1 - window) if window > 0 else 0
        _value_panels(base, pool, table, block, low, positions, head_dim, zeros, values)
        for row in range(0, rows, ROWS):
            _attend_rows(
                row, rows, group, at, window, head_dim, queries, keys, values, attended, sums, largest,
                scores, weights, bounds,
            )  # fmt: skip
        block += blocks
    for i in range(rows):
        place = out.ctypes.data + (first + skipped + i // group) * out.strides[0]
        place += 4 * (column + i % group * head_dim)
        divide(attended + 4 * head_dim * i, head_dim // 16, sums + LINE_BYTES * i, place)
