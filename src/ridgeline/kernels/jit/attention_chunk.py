"""Causal attention of several tokens of a sequence over its earlier positions and their own: prefill.

Work is cut into tiles of tokens. For a tile, K and V are turned into float32 some positions at a
time, and the query heads of all its tokens are rows of products with them.
"""

from numba import njit

from ridgeline.kernels.jit.activations import floats_at
from ridgeline.kernels.jit.attention_ir import ROWS, multiply, widen
from ridgeline.kernels.jit.attention_state import (
    LINE_BYTES,
    absorb_row,
    aligned,
    begin,
    finish,
    state_bytes,
    tile_vectors,
)
from ridgeline.kernels.jit.attention_storing import BLOCK_TOKENS

_SPAN_BLOCKS = 4
_SPAN_TOKENS = _SPAN_BLOCKS * BLOCK_TOKENS
"""Positions turned into float32 at a time: with heads of 64 they leave room in the first cache."""

_SPAN_BYTES = 4 * _SPAN_TOKENS


@njit(error_model="numpy")
def tile_tokens(group: int) -> int:
    """Tokens of a query tile: with their query heads, some 100 rows that share each span of K and V."""
    return max(16, min(64, 96 // group))


@njit(error_model="numpy")
def query_tiles(tokens: int, group: int) -> int:
    """Tiles of a chunk of so many tokens."""
    return -(-tokens // tile_tokens(group))


@njit(error_model="numpy")
def _rows(group: int) -> int:
    """Of a tile, those that fill up its last product among them."""
    return -(-tile_tokens(group) * group // ROWS) * ROWS


@njit(error_model="numpy")
def chunk_scratch_bytes(group: int, head_dim: int) -> int:
    """Of the scratch that `attend_chunk` needs."""
    rows = _rows(group)
    return (
        LINE_BYTES
        + state_bytes(rows, head_dim)
        + 4 * rows * head_dim
        + 2 * _SPAN_BYTES * head_dim
        + ROWS * _SPAN_BYTES
    )


@njit(error_model="numpy")
def _copy_queries(qkv, first, count, column, width, rows, head_dim, queries):  # type: ignore[no-untyped-def]
    """`width` elements of each token, one after the other; zeros to the end of the rows."""
    target = floats_at(queries, rows * head_dim)
    for i in range(count):
        source = floats_at(qkv.ctypes.data + (first + i) * qkv.strides[0] + 4 * column, width)
        for j in range(width):
            target[i * width + j] = source[j]
    target[count * width :] = 0


@njit(error_model="numpy")
def _widen_span(pool, layer, kv_head, table, block, blocks, keys, values, head_dim):  # type: ignore[no-untyped-def]
    """Some blocks as float32: `keys` [head_dim, span], `values` [span, head_dim]."""
    base = pool.ctypes.data + layer * pool.strides[1] + kv_head * pool.strides[3]
    for i in range(blocks):
        place = base + table[block + i] * pool.strides[0]
        widen(place, head_dim, keys + LINE_BYTES * i, _SPAN_BYTES)
        widen(place + pool.strides[2], head_dim, values + LINE_BYTES * head_dim * i, LINE_BYTES)


@njit(error_model="numpy")
def _score_rows(queries, keys, scores, vectors, head_dim):  # type: ignore[no-untyped-def]
    column = 0
    while column < vectors:
        part = tile_vectors(_SPAN_BLOCKS - column)
        at = LINE_BYTES * column
        multiply(
            ROWS, part, queries, 4 * head_dim, keys + at, _SPAN_BYTES, head_dim, scores + at, _SPAN_BYTES, 0
        )
        column += part


@njit(error_model="numpy")
def _add_values(weights, values, tokens, out, head_dim):  # type: ignore[no-untyped-def]
    column = 0
    while column < head_dim:
        part = tile_vectors((head_dim - column) // 16)
        at = 4 * column
        multiply(
            ROWS, part, weights, _SPAN_BYTES, values + at, 4 * head_dim, tokens, out + at, 4 * head_dim, 1
        )
        column += 16 * part


@njit(nogil=True, error_model="numpy")
def attend_chunk(  # type: ignore[no-untyped-def]
    tile, kv_head, first, tokens, start, qkv, pool, layer, table, window, out, scratch
):
    """Attention of one query tile of a chunk with the query heads of one KV head.

    Args:
        tile: which, from 0 to `query_tiles`.
        kv_head: which.
        first: row of `qkv` and `out` of the chunk's first token.
        tokens: of the chunk.
        start: position of the first one. K and V of all positions up to the last are in the pool.
        qkv: float32 [tokens, (heads + 2 * kv_heads) * head_dim], after `rotate_and_store`.
        pool: uint16 [blocks, layers, 2, kv_heads, 16 * head_dim].
        layer: whose cache.
        table: int64 [blocks], of the sequence.
        window: a token attends to the last so many positions, itself among them; 0 for all.
        out: float32 [tokens, heads * head_dim].
        scratch: address of `chunk_scratch_bytes`, the calling thread's own.
    """
    kv_heads, head_dim = pool.shape[3], pool.shape[4] // BLOCK_TOKENS
    group = (qkv.shape[1] // head_dim - 2 * kv_heads) // kv_heads
    column, width = kv_head * group * head_dim, group * head_dim
    rows = _rows(group)
    state = aligned(scratch)
    queries = state + state_bytes(rows, head_dim)
    keys = queries + 4 * rows * head_dim
    values = keys + _SPAN_BYTES * head_dim
    scores = values + _SPAN_BYTES * head_dim
    skipped = tile * tile_tokens(group)
    count = min(tile_tokens(group), tokens - skipped)
    _copy_queries(qkv, first + skipped, count, column, width, rows, head_dim, queries)
    begin(state, rows, head_dim)
    position, end = start + skipped, start + skipped + count
    low = max(0, position - window + 1) if window > 0 else 0
    block = low // BLOCK_TOKENS
    while block * BLOCK_TOKENS < end:
        blocks = min(_SPAN_BLOCKS, -(-end // BLOCK_TOKENS) - block)
        _widen_span(pool, layer, kv_head, table, block, blocks, keys, values, head_dim)
        span = block * BLOCK_TOKENS
        row = 0
        while row < count * group:
            # A row that only fills up the product is taken for one of the last token.
            earliest = position + row // group
            latest = position + min(row + ROWS - 1, count * group - 1) // group
            seen_low = max(0, earliest - window + 1 - span) if window > 0 else 0
            seen_high = min(_SPAN_TOKENS, latest + 1 - span)
            if seen_low < seen_high:
                _score_rows(queries + 4 * head_dim * row, keys, scores, blocks, head_dim)
                for i in range(ROWS):
                    at = position + min(row + i, count * group - 1) // group - span
                    bottom = at - window + 1 if window > 0 else 0
                    absorb_row(
                        state, rows, head_dim, row + i, scores + _SPAN_BYTES * i, _SPAN_BLOCKS, bottom, at + 1
                    )
                _add_values(
                    scores + 4 * seen_low,
                    values + 4 * head_dim * seen_low,
                    seen_high - seen_low,
                    state + 4 * head_dim * row,
                    head_dim,
                )
            row += ROWS
        block += blocks
    for i in range(count):
        place = out.ctypes.data + (first + skipped + i) * out.strides[0] + 4 * column
        finish(state, rows, head_dim, i * group, group, place)
