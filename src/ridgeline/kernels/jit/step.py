"""A whole step of a model of the Llama family as one compiled function.

Every thread of a team runs `forward`. A part of a layer is cut into units that the threads take
one by one, so that one that is held up by the system holds up the others by a unit at most; between
parts they meet. What flows between parts:

    residual float32 --norm--> int8 --qkv--> float32 --attention--> int8 --output--> residual
    residual float32 --norm--> int8 --gate, up--> in registers --silu--> int8 --down--> residual

Where there are tokens enough and the processor has tiles, it is bfloat16 in place of int8; see `wide`.
"""

from numba import njit

from ridgeline.kernels.jit import attention
from ridgeline.kernels.jit.activations import floats_at, norm_factor, norm_row
from ridgeline.kernels.jit.ir import provided
from ridgeline.kernels.jit.packing import embedding_row
from ridgeline.kernels.jit.peaks import SCRATCH_BYTES, find_peak
from ridgeline.kernels.jit.products import BLOCK
from ridgeline.kernels.jit.step_attention import attend, merge, store_all, stored_before
from ridgeline.kernels.jit.step_job import (
    batch_of,
    floats_of,
    job_at,
    layers_of,
    model_of,
    normed_of,
    panels_of,
    peaks_of,
    row_ids_of,
    work_of,
)
from ridgeline.kernels.jit.step_products import (
    GATED_BYTES,
    Matrix,
    address_of,
    convert,
    finish_rows,
    gate,
    multiply,
    take_rows,
    wide_address,
)
from ridgeline.kernels.jit.team import finish, take
from ridgeline.kernels.jit.wide import configure, norm_blocks, release

PARTS_PER_LAYER = 9
PARTS_BESIDE_LAYERS = 5

_NORMS_AT_ONCE = 4
"""Tokens that a thread norms before it looks for others: a few microseconds."""


@njit
def _norms(shared, part, residual, tokens, weight, eps, scratch, wide, normed, thread, groups):
    """Norm each token, and make activations of it."""
    hidden, done = residual.shape[1], 0
    first, end, _ = take_rows(shared, part, thread, tokens, groups, _NORMS_AT_ONCE, 1)
    while first >= 0:
        for row in range(first, end):
            source = address_of(residual, row, 0)
            if wide:
                floats_at(scratch, 1)[0] = norm_factor(source, hidden, eps)
                norm_blocks(source, weight, scratch, hidden // BLOCK, wide_address(normed, row, 0))
            else:
                norm_row(source, weight, hidden, eps, scratch)
                convert(scratch, row, 0, hidden, 0, normed)
        done += 1
        first, end, _ = take_rows(shared, part, thread, tokens, groups, _NORMS_AT_ONCE, 1)
    finish_rows(shared, part, done, tokens, groups, _NORMS_AT_ONCE, 1)


def scratch_bytes(model_hidden: int, group: int, head_dim: int) -> int:
    """Of memory that each thread needs."""
    return max(SCRATCH_BYTES, GATED_BYTES, 4 * model_hidden, attention.scratch_bytes(group, head_dim))


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
def _head(shared, part, job, hidden, splits, thread):
    """Logits of some rows of `hidden`, and their peaks. Takes three parts."""
    row_ids = row_ids_of(job)
    normed = normed_of(job, job.rows)
    done = 0
    row = take(shared, part)
    while row < job.rows:
        convert(address_of(hidden, row_ids[row], 0), row, 0, job.hidden, job.wide_head, normed)
        done += 1
        row = take(shared, part)
    finish(shared, part, done, job.rows)
    logits = floats_of(job.logits, job.rows, job.vocab_filled)
    matrix, panels = Matrix(job.head_form, job.head, 0), panels_of(job, job.wide_head)
    multiply(shared, part + 1, matrix, normed, splits, job.rows, logits, 0, panels, thread, 1)
    peaks, place = peaks_of(job), job.scratch + thread * job.scratch_bytes
    done = 0
    row = take(shared, part + 2)
    while row < job.rows:
        peaks[row] = find_peak(address_of(logits, row, 0), job.vocab, place)
        done += 1
        row = take(shared, part + 2)
    finish(shared, part + 2, done, job.rows)


def _head_entry(thread, shared, address):
    job = job_at(address)
    if job.wide_head:
        configure(job.tile_configuration)
    hidden = floats_of(job.normed_tokens, job.tokens, job.hidden)
    _head(shared, 0, job, hidden, model_of(job).splits, thread)
    if job.wide_head:
        release()


@njit
def _layer(shared, part, index, layer, model, batch, work, thread, groups):
    scratch, panels, wide = address_of(work.scratch, thread, 0), work.panels, work.panels.shape[0]
    tokens = batch.token_ids.shape[0]
    residual, normed, splits, eps = work.residual, work.normed, model.splits, model.norm_eps
    _norms(shared, part, residual, tokens, layer.input_norm, eps, scratch, wide, normed, thread, groups)
    qkv = Matrix(layer.qkv_form, layer.qkv, layer.qkv_bias)
    multiply(shared, part + 1, qkv, normed, splits, tokens, work.qkv, 0, panels, thread, groups)
    # Single tokens that nobody else attends to in this step are stored where they are attended to.
    first = 0 if stored_before(batch) else batch.contexts.shape[0]
    store_all(shared, part + 2, first, tokens, index, layer, model, batch, work, thread, groups)
    attend(shared, part + 3, index, layer, model, batch, work, scratch)
    if batch.parts > 1:
        merge(shared, part + 4, model, batch, work)
    output = Matrix(layer.output_form, layer.output, layer.output_bias)
    multiply(shared, part + 5, output, work.values, splits, tokens, residual, 1, panels, thread, groups)
    _norms(shared, part + 6, residual, tokens, layer.post_norm, eps, scratch, wide, normed, thread, groups)
    gate_up = Matrix(layer.gate_up_form, layer.gate_up, layer.gate_up_bias)
    gate(shared, part + 7, gate_up, normed, splits, tokens, scratch, work.gated, panels, thread, groups)
    down = Matrix(layer.down_form, layer.down, layer.down_bias)
    multiply(shared, part + 8, down, work.gated, splits, tokens, residual, 1, panels, thread, groups)


def _forward_entry(thread, shared, address):
    job = job_at(address)
    model, batch, work, layers = model_of(job), batch_of(job), work_of(job), layers_of(job)
    tokens, residual = job.tokens, work.residual
    if job.wide:
        configure(job.tile_configuration)
    _embed(shared, 0, model, batch, residual)
    part = 1
    for index in range(layers.shape[0]):
        _layer(shared, part, index, layers[index], model, batch, work, thread, job.groups)
        part += PARTS_PER_LAYER
    hidden = floats_of(job.normed_tokens, tokens, job.hidden)
    done = 0
    row = take(shared, part)
    while row < tokens:
        norm_row(
            address_of(residual, row, 0), model.norm, job.hidden, model.norm_eps, address_of(hidden, row, 0)
        )
        done += 1
        row = take(shared, part)
    finish(shared, part, done, tokens)
    _head(shared, part + 1, job, hidden, model.splits, thread)
    if job.wide:
        release()


def forward() -> int:
    """Address of the function of a step, for `Team.run`: compiled now, unless it has been kept.

    Its job is a record of `step_job.JOB`: it stores K and V of the tokens, and gives their last norms
    and the logits of some.
    """
    return int(provided("ridgeline_step_forward", _forward_entry).address)


def head() -> int:
    """The same for a function that gives logits alone, of tokens whose last norms are in the job."""
    return int(provided("ridgeline_step_head", _head_entry).address)
