"""What a compiled step is given: one record of addresses and sizes, and the arrays that it makes of it.

A step is entered with a single address, because passing forty arrays from Python costs as long as a
layer computes. The record's owner keeps alive what its addresses point to.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import carray, njit, types
from numba.np.numpy_support import from_dtype

from ridgeline.kernels.jit.activations import pointer_to
from ridgeline.kernels.jit.kv_pool import pool_at
from ridgeline.kernels.jit.products import BLOCK

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

ACTIVATIONS = ("values", "scales", "counts", "totals", "rounded")

_MODEL = (
    "heads kv_heads head_dim hidden ffn layers layer_records embedding embedding_bytes embedding_form "
    "head head_form vocab norm rotations max_positions pool kv_form splits split_forms split_rows"
)
_BATCH = (
    "tokens token_ids positions write_blocks singles tables table_blocks contexts chunks chunk_records "
    "chunk_tables chunk_blocks tiles parts related"
)
_WORK = (
    "residual qkv qkv_columns attended partials partial_bytes scratch scratch_bytes panels panel_bytes "
    "threads groups wide wide_head tile_configuration"
)
_OUT = "normed_tokens rows row_ids logits vocab_filled peaks"

JOB = np.dtype(
    [
        *((name, np.int64) for name in f"{_MODEL} {_BATCH} {_WORK} {_OUT}".split()),
        *((f"{kind}_{name}", np.int64) for kind in ("normed", "attention", "gated") for name in ACTIVATIONS),
        ("norm_eps", np.float64),
    ]
)
"""Counts, forms, and addresses of arrays: those of `Model`, `Batch` and `Work`, and of what comes out:

    wide, wide_head: 1 where products, and that for logits, are those of `wide`; 0 for those of
        `products`. Memory of tokens then has room for a multiple of `wide.ROWS`.

    groups: that the rows of a wide step are in, see `team.take_from`; 1 for others.
    normed_tokens: float32 [tokens, hidden], the last norm of each token; an input where only logits
        are asked for.
    row_ids: int64 [rows], which of them logits are wanted of.
    logits: float32 [rows, vocab_filled], with what fills up the head's last tile.
    peaks: int64 [rows], see `peaks.find_peak`.
"""


class Model(NamedTuple):
    """Sizes, and what does not belong to a layer.

    Attributes:
        heads, kv_heads, head_dim: of attention.
        embedding, embedding_form: packed weights, uint8 [bytes], and how they are stored.
        norm: the last one, address of float32 [hidden].
        norm_eps: of all norms.
        rotations: float32 [positions, head_dim]: cosines of the pairs of a head, then sines.
        pool: the KV cache, see `kv_pool.KVPool`.
        splits: int64 [forms, rows], see `splitting.measure_splits`.
    """

    heads: Any
    kv_heads: Any
    head_dim: Any
    embedding: Any
    embedding_form: Any
    norm: Any
    norm_eps: Any
    rotations: Any
    pool: Any
    splits: Any


class Activations(NamedTuple):
    """Of a step, as its products take them: int8 in blocks of 32, see `quantise_block`, or bfloat16.

    Attributes:
        values: int8 [tokens, columns].
        scales: float32 [tokens, blocks].
        counts: int32 [tokens, blocks], sums of the values.
        totals: float32 [tokens, blocks], the same, scaled.
        rounded: uint16 [tokens, columns], the bfloat16 of `wide.round_block`.
    """

    values: Any
    scales: Any
    counts: Any
    totals: Any
    rounded: Any


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
        related: 1 where single tokens attend to one another, else 0.
    """

    token_ids: Any
    positions: Any
    write_blocks: Any
    tables: Any
    contexts: Any
    chunks: Any
    chunk_tables: Any
    tiles: Any
    parts: Any
    related: Any


class Work(NamedTuple):
    """Memory of a step, for as many tokens as it may have; reused from step to step.

    Attributes:
        residual: float32 [tokens, hidden].
        normed: of the residual.
        qkv: float32 [tokens, (heads + 2 * kv_heads) * head_dim], filled up to whole tiles.
        attended: float32 [tokens, heads * head_dim].
        values: what was attended, as activations.
        gated: silu(gate) * up, the same.
        partials: what parts of a token's positions give, uint8 [tasks, parts, attention.part_bytes].
        scratch: uint8 [threads, scratch_bytes].
        panels: uint8 [threads, panel_bytes], for products in tiles; empty where the step has none.
    """

    residual: Any
    normed: Any
    qkv: Any
    attended: Any
    values: Any
    gated: Any
    partials: Any
    scratch: Any
    panels: Any


_to_ints = pointer_to(types.int64)
_to_ints32 = pointer_to(types.int32)
_to_bytes = pointer_to(types.uint8)
_to_quants = pointer_to(types.int8)
_to_halves = pointer_to(types.uint16)
_to_floats = pointer_to(types.float32)
_to_layer = pointer_to(from_dtype(LAYER))
_to_job = pointer_to(from_dtype(JOB))


@njit
def job_at(address):
    """The record at an address."""
    return carray(_to_job(address), 1)[0]


@njit
def floats_of(address, rows, columns):
    """The float32 matrix at an address."""
    return carray(_to_floats(address), (rows, columns))


@njit
def row_ids_of(job):
    """Whose logits are wanted."""
    return carray(_to_ints(job.row_ids), job.rows)


@njit
def peaks_of(job):
    """Where the largest logits are told."""
    return carray(_to_ints(job.peaks), job.rows)


@njit
def layers_of(job):
    """Records of `LAYER`."""
    return carray(_to_layer(job.layer_records), job.layers)


@njit
def model_of(job):
    """See `Model`."""
    return Model(
        job.heads,
        job.kv_heads,
        job.head_dim,
        carray(_to_bytes(job.embedding), job.embedding_bytes),
        job.embedding_form,
        job.norm,
        job.norm_eps,
        floats_of(job.rotations, job.max_positions, job.head_dim),
        pool_at(job.pool, job.kv_form, job.layers, job.kv_heads, job.head_dim),
        carray(_to_ints(job.splits), (job.split_forms, job.split_rows)),
    )


@njit
def batch_of(job):
    """See `Batch`."""
    return Batch(
        carray(_to_ints(job.token_ids), job.tokens),
        carray(_to_ints(job.positions), job.tokens),
        carray(_to_ints(job.write_blocks), job.tokens),
        carray(_to_ints(job.tables), (job.singles, job.table_blocks)),
        carray(_to_ints(job.contexts), job.singles),
        carray(_to_ints(job.chunk_records), (job.chunks, 4)),
        carray(_to_ints(job.chunk_tables), (job.chunks, job.chunk_blocks)),
        job.tiles,
        job.parts,
        job.related,
    )


@njit
def _activations(values, scales, counts, totals, rounded, tokens, columns):
    shape = (tokens, columns // BLOCK)
    return Activations(
        carray(_to_quants(values), (tokens, columns)),
        carray(_to_floats(scales), shape),
        carray(_to_ints32(counts), shape),
        carray(_to_floats(totals), shape),
        carray(_to_halves(rounded), (tokens, columns)),
    )


@njit
def normed_of(job, tokens):
    """`Work.normed`, for so many tokens."""
    return _activations(
        job.normed_values,
        job.normed_scales,
        job.normed_counts,
        job.normed_totals,
        job.normed_rounded,
        tokens,
        job.hidden,
    )


@njit
def panels_of(job, wide):
    """See `Work.panels`."""
    return carray(_to_bytes(job.panels), (job.threads if wide else 0, job.panel_bytes))


@njit
def work_of(job):
    """See `Work`."""
    tokens, width = job.tokens, job.heads * job.head_dim
    return Work(
        floats_of(job.residual, tokens, job.hidden),
        normed_of(job, tokens),
        floats_of(job.qkv, tokens, job.qkv_columns),
        floats_of(job.attended, tokens, width),
        _activations(
            job.attention_values,
            job.attention_scales,
            job.attention_counts,
            job.attention_totals,
            job.attention_rounded,
            tokens,
            width,
        ),
        _activations(
            job.gated_values,
            job.gated_scales,
            job.gated_counts,
            job.gated_totals,
            job.gated_rounded,
            tokens,
            job.ffn,
        ),
        carray(_to_bytes(job.partials), job.partial_bytes),
        carray(_to_bytes(job.scratch), (job.threads, job.scratch_bytes)),
        panels_of(job, job.wide),
    )
