"""Causal attention of several tokens of a sequence over its earlier positions and their own: prefill.

Work is cut into tiles of tokens. For a tile, K and V are turned into float32 some positions at a
time, and the query heads of all its tokens are rows of products with them.
"""

from numba import njit

from ridgeline.kernels.jit.activations import floats_at
from ridgeline.kernels.jit.attention_int8_moving import widen_int8_keys, widen_int8_values
from ridgeline.kernels.jit.attention_ir import divide
from ridgeline.kernels.jit.attention_math import LINE_BYTES, LOWEST
from ridgeline.kernels.jit.attention_moving import widen
from ridgeline.kernels.jit.attention_rows import ROWS, SPAN, SPAN_VECTORS
from ridgeline.kernels.jit.attention_span import attend_span
from ridgeline.kernels.jit.attention_state import aligned
from ridgeline.kernels.jit.kv_pool import BLOCK_TOKENS, INT8, keys_at, values_after

_SPAN_BYTES = 4 * SPAN


@njit(error_model="numpy")
def tile_tokens(group: int) -> int:
    """Tokens of a query tile: with their query heads, some 100 rows that share each span of K and V."""
    return max(16, min(96, 288 // group))


@njit(error_model="numpy")
def query_tiles(tokens: int, group: int) -> int:
    """Tiles of a chunk of so many tokens."""
    return -(-tokens // tile_tokens(group))


@njit(error_model="numpy")
def _row_blocks(group: int) -> int:
    """Of `ROWS` rows, in a tile; the last one may have rows that only fill it up."""
    return -(-tile_tokens(group) * group // ROWS)


@njit(error_model="numpy")
def chunk_scratch_bytes(group: int, head_dim: int) -> int:
    """Of the scratch that `attend_chunk` needs."""
    row_bytes = 8 * head_dim + LINE_BYTES
    span_bytes = 2 * _SPAN_BYTES * head_dim + ROWS * _SPAN_BYTES
    return _row_blocks(group) * (ROWS * row_bytes + LINE_BYTES) + span_bytes + 2 * LINE_BYTES


@njit(error_model="numpy")
def _copy_queries(qkv, first, count, column, width, queries):
    """`width` elements of each token, one after the other."""
    for i in range(count):
        source = floats_at(qkv.ctypes.data + (first + i) * qkv.strides[0] + 4 * column, width)
        target = floats_at(queries + 4 * width * i, width)
        for j in range(width):
            target[j] = source[j]


@njit(error_model="numpy")
def _widen_span(pool, layer, kv_head, table, block, blocks, keys, values, head_dim):
    """Some blocks as float32: `keys` [head_dim, span], `values` [span, head_dim]."""
    base, to_values = keys_at(pool, layer, kv_head), values_after(pool)
    for i in range(blocks):
        place = base + table[block + i] * pool.block_bytes
        row = values + LINE_BYTES * head_dim * i
        if pool.form == INT8:
            widen_int8_keys(place, head_dim, keys + LINE_BYTES * i, _SPAN_BYTES)
            widen_int8_values(place + to_values, head_dim, row)
        else:
            widen(place, head_dim, keys + LINE_BYTES * i, _SPAN_BYTES)
            widen(place + to_values, head_dim, row, LINE_BYTES)


@njit(nogil=True, error_model="numpy")
def attend_chunk(tile, kv_head, first, tokens, start, qkv, pool, layer, table, window, out, scratch):
    """Attention of one query tile of a chunk with the query heads of one KV head.

    Args:
        tile: which, from 0 to `query_tiles`.
        kv_head: which.
        first: row of `qkv` and `out` of the chunk's first token.
        tokens: of the chunk.
        start: position of the first one. K and V of all positions up to the last are in the pool.
        qkv: float32 [tokens, (heads + 2 * kv_heads) * head_dim], after `rotate_and_store`.
        pool: the KV cache, see `kv_pool.KVPool`.
        layer: whose cache.
        table: int64 [blocks], of the sequence.
        window: a token attends to the last so many positions, itself among them; 0 for all.
        out: float32 [tokens, heads * head_dim].
        scratch: address of `chunk_scratch_bytes`, the calling thread's own.
    """
    kv_heads, head_dim = pool.kv_heads, pool.head_dim
    group = (qkv.shape[1] // head_dim - 2 * kv_heads) // kv_heads
    column, width = kv_head * group * head_dim, group * head_dim
    row_blocks = _row_blocks(group)
    attended = aligned(scratch)
    sums = attended + 4 * row_blocks * ROWS * head_dim
    largest = sums + LINE_BYTES * row_blocks * ROWS
    queries = largest + LINE_BYTES * row_blocks
    keys = queries + 4 * row_blocks * ROWS * head_dim
    values = keys + _SPAN_BYTES * head_dim
    scores = values + _SPAN_BYTES * head_dim
    skipped = tile * tile_tokens(group)
    count = min(tile_tokens(group), tokens - skipped)
    _copy_queries(qkv, first + skipped, count, column, width, queries)
    floats_at(attended, row_blocks * ROWS * (head_dim + 16))[:] = 0
    floats_at(largest, row_blocks * 16)[:] = LOWEST
    position, end = start + skipped, start + skipped + count
    block = max(0, position - window + 1) // BLOCK_TOKENS if window > 0 else 0
    while block * BLOCK_TOKENS < end:
        blocks = min(SPAN_VECTORS, -(-end // BLOCK_TOKENS) - block)
        _widen_span(pool, layer, kv_head, table, block, blocks, keys, values, head_dim)
        at = position - block * BLOCK_TOKENS
        attend_span(
            count * group, group, at, window, head_dim, queries, keys, values, attended, sums, largest, scores
        )
        block += blocks
    for i in range(count * group):
        place = out.ctypes.data + (first + skipped + i // group) * out.strides[0]
        place += 4 * (column + i % group * head_dim)
        divide(attended + 4 * head_dim * i, head_dim // 16, sums + LINE_BYTES * i, place)
