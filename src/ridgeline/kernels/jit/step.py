"""A whole step of a model of the Llama family as one compiled function.

Every thread of a team runs `forward`. A part of a layer is cut into units that the threads take
one by one, so that one that is held up by the system holds up the others by a unit at most; between
parts they meet. What flows between parts:

    residual float32 --norm--> int8 --qkv--> float32 --attention--> int8 --output--> residual
    residual float32 --norm--> int8 --gate, up--> in registers --silu--> int8 --down--> residual
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from ridgeline.kernels.jit import attention
from ridgeline.kernels.jit.activations import add_16, norm_row, quantise_block, silu_mul_16
from ridgeline.kernels.jit.packing import embedding_row
from ridgeline.kernels.jit.products import BLOCK, BLOCK_BYTES, FORM_4_MINIMUM, MAX_ROWS, TILES, product
from ridgeline.kernels.jit.team import finish, take

PARTS_PER_LAYER = 9
PARTS_BESIDE_LAYERS = 4

_UNIT_BYTES = 24 << 10
"""Of weights, that a thread takes at once where little is computed with each."""

_ROWS_AT_ONCE = 42 * 6
"""Activations that stay in the second cache while the weights pass by."""

GATED_TILES = 4
"""Tiles of 16 outputs for 32 gates and as many ups: they make one block of the next product's inputs."""

LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            "input_norm qkv qkv_form qkv_bias head_norms output output_form output_bias post_norm "
            "gate_up gate_up_form gate_up_bias down down_form down_bias window"
        ).split()
    ]
)
"""Of a layer: addresses of float32 vectors (0 where the model has none) and of packed weights, and the
form of the weights before."""


class Model(NamedTuple):
    """Sizes, and what does not belong to a layer.

    Attributes:
        heads, kv_heads, head_dim: of attention.
        embedding, embedding_form: packed weights, uint8 [bytes], and how they are stored.
        head, head_form: the same, by its address.
        norm: the last one, address of float32 [hidden].
        norm_eps: of all norms.
        rotations: float32 [positions, head_dim]: cosines of the pairs of a head, then sines.
        pool: the KV cache, uint16 [blocks, layers, 2, kv_heads, 16 * head_dim].
        splits: int64 [forms, rows], see `splitting.measure_splits`.
    """

    heads: int
    kv_heads: int
    head_dim: int
    embedding: Any
    embedding_form: int
    head: int
    head_form: int
    norm: int
    norm_eps: float
    rotations: Any
    pool: Any
    splits: Any


class Quantised(NamedTuple):
    """Activations of a step as int8, in blocks of 32; see `quantise_block`.

    Attributes:
        values: int8 [tokens, columns].
        scales: float32 [tokens, blocks].
        counts: int32 [tokens, blocks], sums of the values.
        totals: float32 [tokens, blocks], the same, scaled.
    """

    values: Any
    scales: Any
    counts: Any
    totals: Any

    @classmethod
    def empty(cls, tokens: int, columns: int) -> "Quantised":
        """For so many tokens."""
        blocks = columns // BLOCK
        return cls(
            np.zeros((tokens, columns), np.int8),
            np.zeros((tokens, blocks), np.float32),
            np.zeros((tokens, blocks), np.int32),
            np.zeros((tokens, blocks), np.float32),
        )


class Batch(NamedTuple):
    """A step's tokens; see `interface.Batch`.

    Attributes:
        token_ids, positions, write_blocks: int64 [tokens].
        tables, contexts: of single tokens, int64 [singles, blocks] and [singles].
        chunks: int64 [chunks, 4]: first token, tokens, start, see `interface.Chunk`; and how many query
            tiles come before it.
        chunk_tables: int64 [chunks, blocks].
        tiles: query tiles of all chunks.
        parts: that the positions of each single token are cut into; see `attention.count_parts`.
    """

    token_ids: Any
    positions: Any
    write_blocks: Any
    tables: Any
    contexts: Any
    chunks: Any
    chunk_tables: Any
    tiles: int
    parts: int


class Work(NamedTuple):
    """Memory of a step, for as many tokens as it may have; reused from step to step.

    Attributes:
        residual: float32 [tokens, hidden].
        normed: of the residual.
        qkv: float32 [tokens, (heads + 2 * kv_heads) * head_dim].
        attended: float32 [tokens, heads * head_dim].
        values: what was attended, as int8.
        gated: silu(gate) * up, as int8.
        partials: what parts of a token's positions give, uint8 [tasks, parts, attention.part_bytes].
        scratch: uint8 [threads, scratch_bytes].
    """

    residual: Any
    normed: Quantised
    qkv: Any
    attended: Any
    values: Quantised
    gated: Quantised
    partials: Any
    scratch: Any


@njit(inline="always")
def _address(array, row, offset_bytes):
    return array.ctypes.data + row * array.strides[0] + offset_bytes


@njit
def _quantise(source, row, column, columns, into):
    """Quantise `columns` float32 at the address `source` into a row, from a column on."""
    for block in range(columns // BLOCK):
        at = column // BLOCK + block
        quantise_block(
            source + 4 * BLOCK * block,
            _address(into.values, row, column + BLOCK * block),
            _address(into.scales, row, 4 * at),
            _address(into.counts, row, 4 * at),
            _address(into.totals, row, 4 * at),
        )


@njit
def _tiles(form, x, splits, first, rows, weights, tile, out, out_stride, accumulate):
    """`TILES` tiles of outputs, from `tile` on, of rows of activations."""
    blocks = x.scales.shape[1]
    stride = BLOCK_BYTES[form] * blocks
    sums_address = x.totals.ctypes.data if form == FORM_4_MINIMUM else x.counts.ctypes.data
    done = 0
    while done < rows:
        part = splits[form, min(rows - done, splits.shape[1] - 1)]
        row = first + done
        product(
            form,
            part,
            _address(x.values, row, 0),
            x.values.shape[1],
            _address(x.scales, row, 0),
            sums_address + row * 4 * blocks,
            4 * blocks,
            weights + tile * stride,
            stride,
            blocks,
            out + done * out_stride,
            out_stride,
            accumulate,
        )
        done += part


@njit
def multiply(shared, part, form, x, splits, tokens, weights, bias, out, accumulate):
    """A product of int8 activations with packed weights, into or onto float32 `out` [tokens, outputs]."""
    pairs = out.shape[1] // (16 * TILES)
    pair_bytes = TILES * BLOCK_BYTES[form] * x.scales.shape[1]
    grain = max(1, _UNIT_BYTES // pair_bytes) if tokens <= MAX_ROWS else 1
    columns = -(-pairs // grain)
    chunks = -(-tokens // _ROWS_AT_ONCE)
    units, done = columns * chunks, 0
    unit = take(shared, part)
    while unit < units:
        first = unit // columns * _ROWS_AT_ONCE
        rows = min(tokens - first, _ROWS_AT_ONCE)
        begin = unit % columns * grain
        end = min(begin + grain, pairs)
        for tile in range(TILES * begin, TILES * end, TILES):
            place = _address(out, first, 64 * tile)
            _tiles(form, x, splits, first, rows, weights, tile, place, out.strides[0], accumulate)
        if bias:
            for row in range(first, first + rows):
                for tile in range(TILES * begin, TILES * end):
                    add_16(bias + 64 * tile, _address(out, row, 64 * tile))
        done += 1
        unit = take(shared, part)
    finish(shared, part, done, units)


@njit
def _gate(shared, part, form, x, splits, tokens, weights, bias, scratch, gated):
    """The product with gate and up, silu(gate) * up, and that as int8."""
    columns = gated.scales.shape[1]
    chunks = -(-tokens // _ROWS_AT_ONCE)
    units, done = columns * chunks, 0
    unit = take(shared, part)
    while unit < units:
        begin = unit // columns * _ROWS_AT_ONCE
        column = unit % columns
        end = min(tokens, begin + _ROWS_AT_ONCE)
        first = begin
        while first < end:
            rows = splits[form, min(end - first, splits.shape[1] - 1)]
            for tile in range(0, GATED_TILES, TILES):
                place = scratch + 64 * tile
                _tiles(
                    form,
                    x,
                    splits,
                    first,
                    rows,
                    weights,
                    GATED_TILES * column + tile,
                    place,
                    64 * GATED_TILES,
                    0,
                )
            for row in range(rows):
                place = scratch + row * 64 * GATED_TILES
                if bias:
                    for tile in range(GATED_TILES):
                        add_16(bias + 64 * (GATED_TILES * column + tile), place + 64 * tile)
                silu_mul_16(place, place + 128, place)
                silu_mul_16(place + 64, place + 192, place + 64)
                _quantise(place, first + row, BLOCK * column, BLOCK, gated)
            first += rows
        done += 1
        unit = take(shared, part)
    finish(shared, part, done, units)


@njit
def _norms(shared, part, residual, tokens, weight, eps, scratch, normed):
    """Norm each token, and make int8 of it."""
    hidden = residual.shape[1]
    done = 0
    row = take(shared, part)
    while row < tokens:
        norm_row(_address(residual, row, 0), weight, hidden, eps, scratch)
        _quantise(scratch, row, 0, hidden, normed)
        done += 1
        row = take(shared, part)
    finish(shared, part, done, tokens)


def scratch_bytes(model_hidden: int, group: int, head_dim: int) -> int:
    """Of memory that each thread needs."""
    gated = 64 * GATED_TILES * MAX_ROWS
    return max(gated, 4 * model_hidden, attention.scratch_bytes(group, head_dim))


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
def _store_all(shared, part, first, end, index, layer, model, batch, work):
    """Rotate and store the tokens from `first` to before `end`."""
    units, done = (end - first) * model.kv_heads, 0
    unit = take(shared, part)
    while unit < units:
        _store(first + unit // model.kv_heads, unit % model.kv_heads, index, layer, model, batch, work)
        done += 1
        unit = take(shared, part)
    finish(shared, part, done, units)


@njit
def _attend_tile(unit, index, layer, model, batch, work, scratch):
    """A query tile of a chunk, and its output as int8. Later tiles take longer and come first."""
    tile, kv_head = batch.tiles - 1 - unit // model.kv_heads, unit % model.kv_heads
    chunk = batch.chunks.shape[0] - 1
    while batch.chunks[chunk, 3] > tile:
        chunk -= 1
    first, tokens, start, before = batch.chunks[chunk]
    tile -= before
    table = batch.chunk_tables[chunk]
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
        _quantise_heads(token, kv_head, model, work)


@njit
def _quantise_heads(token, kv_head, model, work):
    width = model.heads // model.kv_heads * model.head_dim
    column = kv_head * width
    _quantise(_address(work.attended, token, 4 * column), token, column, width, work.values)


@njit
def _attend(shared, part, index, layer, model, batch, work, scratch):
    """Attention of all tokens, and its output as int8."""
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
                _quantise_heads(token, kv_head, model, work)
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
def _merge(shared, part, model, batch, work):
    """Make one of the parts of single tokens' positions."""
    group = model.heads // model.kv_heads
    size = batch.parts * attention.part_bytes(group, model.head_dim)
    units, done = batch.contexts.shape[0] * model.kv_heads, 0
    unit = take(shared, part)
    while unit < units:
        token, kv_head = unit // model.kv_heads, unit % model.kv_heads
        partials = work.partials.ctypes.data + unit * size
        attention.merge_parts(token, kv_head, batch.parts, partials, group, model.head_dim, work.attended)
        _quantise_heads(token, kv_head, model, work)
        done += 1
        unit = take(shared, part)
    finish(shared, part, done, units)


@njit
def _embed(shared, part, model, batch, residual):
    tokens, columns = batch.token_ids.shape[0], residual.shape[1]
    done = 0
    row = take(shared, part)
    while row < tokens:
        embedding_row(model.embedding, model.embedding_form, columns, batch.token_ids[row], residual[row])
        done += 1
        row = take(shared, part)
    finish(shared, part, done, tokens)


@njit
def _head(shared, part, model, hidden, rows, normed, logits):
    """Logits of some rows of `hidden`. Takes two parts."""
    done = 0
    row = take(shared, part)
    while row < rows.shape[0]:
        _quantise(_address(hidden, rows[row], 0), row, 0, hidden.shape[1], normed)
        done += 1
        row = take(shared, part)
    finish(shared, part, done, rows.shape[0])
    splits, tokens = model.splits, rows.shape[0]
    multiply(shared, part + 1, model.head_form, normed, splits, tokens, model.head, 0, logits, 0)


@njit(nogil=True, cache=True)
def head(thread, shared, model, hidden, rows, normed, logits):
    """Logits of the tokens after some of a step's.

    Args:
        thread, shared: see `Team.run`.
        model: as for `forward`.
        hidden: float32 [tokens, hidden], from `forward`.
        rows: int64 [rows], which of them.
        normed: `Quantised`, for at least as many rows.
        logits: float32 [rows, vocabulary, padded].
    """
    _head(shared, 0, model, hidden, rows, normed, logits)


@njit(nogil=True, cache=True)
def forward(thread, shared, model, layers, batch, work, hidden, rows, logits):
    """A step: its tokens to `hidden`, normed, with their K and V stored, and the logits of some rows.

    Args:
        thread, shared: see `Team.run`.
        model: see `Model`.
        layers: records of `LAYER`.
        batch: see `Batch`.
        work: see `Work`.
        hidden: float32 [tokens, hidden].
        rows: int64 [rows], whose logits are wanted.
        logits: float32 [rows, vocabulary, padded].
    """
    tokens = batch.token_ids.shape[0]
    scratch = _address(work.scratch, thread, 0)
    residual, normed, splits, eps = work.residual, work.normed, model.splits, model.norm_eps
    _embed(shared, 0, model, batch, residual)
    part = 1
    for index in range(layers.shape[0]):
        layer = layers[index]
        _norms(shared, part, residual, tokens, layer.input_norm, eps, scratch, normed)
        multiply(
            shared, part + 1, layer.qkv_form, normed, splits, tokens, layer.qkv, layer.qkv_bias, work.qkv, 0
        )
        # Single tokens whose positions are not cut are stored where they are attended to.
        first = 0 if batch.parts > 1 else batch.contexts.shape[0]
        _store_all(shared, part + 2, first, tokens, index, layer, model, batch, work)
        _attend(shared, part + 3, index, layer, model, batch, work, scratch)
        if batch.parts > 1:
            _merge(shared, part + 4, model, batch, work)
        multiply(
            shared,
            part + 5,
            layer.output_form,
            work.values,
            splits,
            tokens,
            layer.output,
            layer.output_bias,
            residual,
            1,
        )
        _norms(shared, part + 6, residual, tokens, layer.post_norm, eps, scratch, normed)
        _gate(
            shared,
            part + 7,
            layer.gate_up_form,
            normed,
            splits,
            tokens,
            layer.gate_up,
            layer.gate_up_bias,
            scratch,
            work.gated,
        )
        multiply(
            shared,
            part + 8,
            layer.down_form,
            work.gated,
            splits,
            tokens,
            layer.down,
            layer.down_bias,
            residual,
            1,
        )
        part += PARTS_PER_LAYER
    done = 0
    row = take(shared, part)
    while row < tokens:
        norm_row(_address(residual, row, 0), model.norm, residual.shape[1], eps, _address(hidden, row, 0))
        done += 1
        row = take(shared, part)
    finish(shared, part, done, tokens)
    _head(shared, part + 1, model, hidden, rows, normed, logits)
