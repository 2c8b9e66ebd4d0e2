"""The parts of a step that are attention: K and V into the cache, queries over it, what comes of it."""

from numba import njit

from ridgeline.kernels.jit import attention
from ridgeline.kernels.jit.step_products import address_of, convert, finish_rows, take_rows
from ridgeline.kernels.jit.team import finish, take

_TOKENS_AT_ONCE = 16
"""Whose keys and values a thread stores: they share lines of the cache."""


@njit
def _store(token, kv_head, index, layer, model, batch, work):
    attention.rotate_and_store_group(
        token,
        kv_head,
        work.qkv,
        batch.positions,
        batch.write_blocks,
        model.rotations,
        layer.head_norms,
        model.norm_eps,
        model.pool,
        index,
        model.heads,
        model.kv_heads,
        model.head_dim,
        model.head_dim**-0.5,
    )


@njit
def store_all(shared, part, first, end, index, layer, model, batch, work, thread, groups):
    """Rotate and store the tokens from `first` to before `end`."""
    tokens, done, heads = end - first, 0, model.kv_heads
    begin, last, kv_head = take_rows(shared, part, thread, tokens, groups, _TOKENS_AT_ONCE, heads)
    while begin >= 0:
        for token in range(first + begin, first + last):
            _store(token, kv_head, index, layer, model, batch, work)
        done += 1
        begin, last, kv_head = take_rows(shared, part, thread, tokens, groups, _TOKENS_AT_ONCE, heads)
    finish_rows(shared, part, done, tokens, groups, _TOKENS_AT_ONCE, heads)


@njit
def stored_before(batch):
    """Whether single tokens are stored before anything attends to them, by whichever thread."""
    return batch.parts > 1 or batch.related > 0


@njit
def _attend_tile(unit, index, layer, model, batch, work, scratch):
    """A query tile of a chunk, and its output as activations. Later tiles take longer and come first."""
    tile, kv_head = batch.tiles - 1 - unit // model.kv_heads, unit % model.kv_heads
    chunk = batch.chunks.shape[0] - 1
    while batch.chunks[chunk, 3] > tile:
        chunk -= 1
    first, tokens, start, before = batch.chunks[chunk]
    tile -= before
    table = batch.chunk_tables[chunk]
    if work.panels.shape[0]:
        attention.attend_chunk_wide(
            tile,
            kv_head,
            first,
            tokens,
            start,
            work.qkv,
            model.pool,
            index,
            table,
            layer.window,
            work.attended,
            scratch,
        )
    else:
        attention.attend_chunk(
            tile,
            kv_head,
            first,
            tokens,
            start,
            work.qkv,
            model.pool,
            index,
            table,
            layer.window,
            work.attended,
            scratch,
        )
    size = attention.tile_tokens(model.heads // model.kv_heads)
    for token in range(first + tile * size, first + min((tile + 1) * size, tokens)):
        _convert_heads(token, kv_head, model, work)


@njit
def _convert_heads(token, kv_head, model, work):
    width = model.heads // model.kv_heads * model.head_dim
    column = kv_head * width
    convert(
        address_of(work.attended, token, 4 * column), token, column, width, work.panels.shape[0], work.values
    )


@njit
def attend(shared, part, index, layer, model, batch, work, scratch):
    """Attention of all tokens, and its output as activations."""
    kv_heads = model.kv_heads
    singles, parts = batch.contexts.shape[0], batch.parts
    chunk_units = batch.tiles * kv_heads
    units, done = chunk_units + singles * kv_heads * parts, 0
    partial_bytes = attention.part_bytes(model.heads // kv_heads, model.head_dim)
    unit = take(shared, part)
    while unit < units:
        if unit < chunk_units:
            _attend_tile(unit, index, layer, model, batch, work, scratch)
        else:
            task = (unit - chunk_units) // parts
            token, kv_head = task // kv_heads, task % kv_heads
            table, context = batch.tables[token], batch.contexts[token]
            if parts == 1:
                if not stored_before(batch):
                    _store(token, kv_head, index, layer, model, batch, work)
                attention.attend_single(
                    token,
                    kv_head,
                    work.qkv,
                    model.pool,
                    index,
                    table,
                    context,
                    layer.window,
                    work.attended,
                    scratch,
                )
                _convert_heads(token, kv_head, model, work)
            else:
                piece = (unit - chunk_units) % parts
                partial = work.partials.ctypes.data + (task * parts + piece) * partial_bytes
                attention.attend_part(
                    token,
                    kv_head,
                    piece,
                    parts,
                    work.qkv,
                    model.pool,
                    index,
                    table,
                    context,
                    layer.window,
                    partial,
                    scratch,
                )
        done += 1
        unit = take(shared, part)
    finish(shared, part, done, units)


@njit
def merge(shared, part, model, batch, work):
    """Make one of the parts of single tokens' positions."""
    group = model.heads // model.kv_heads
    size = batch.parts * attention.part_bytes(group, model.head_dim)
    units, done = batch.contexts.shape[0] * model.kv_heads, 0
    unit = take(shared, part)
    while unit < units:
        token, kv_head = unit // model.kv_heads, unit % model.kv_heads
        partials = work.partials.ctypes.data + unit * size
        attention.merge_parts(token, kv_head, batch.parts, partials, group, model.head_dim, work.attended)
        _convert_heads(token, kv_head, model, work)
        done += 1
        unit = take(shared, part)
    finish(shared, part, done, units)
