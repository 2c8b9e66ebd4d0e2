"""What a GPU's memory goes to: weights, the tensors of a step, a margin, and KV blocks for the rest.

    | weights | largest step | margin |            KV blocks            |
    0                                                             free bytes

The step is computed from the model's sizes, not tried out: a trial would cost time at every start and
tell what the allocator did that once.
"""

from dataclasses import dataclass

import torch

from ridgeline.engine.core.plan import Geometry
from ridgeline.engine.executors.kv_size import BLOCK_SIZE_TOKENS, block_bytes_of, plan_geometry
from ridgeline.engine.executors.memory import gib
from ridgeline.models.config import ModelConfig
from ridgeline.models.errors import ModelError

MARGIN = 0.08
"""Of all the device's memory. It holds what nobody can compute beforehand: gaps between allocations,
CUDA graphs, compiled kernels, workspaces of cuBLAS. Other engines leave as much (vLLM takes 0.92 of
the device by default); running out in the middle of an answer costs more than the blocks would bring.
"""

_FLOAT32_BYTES = _INT32_BYTES = 4
_LOGIT_COPIES = 3
"""Float32 tensors of [rows, vocab] beside the logits when rows ask for log probabilities or
penalties: a copy of them, its log softmax, counts of tokens."""

_GRAPHED_BATCHES = 6.5
"""Rows of logits that the graphs of all batch sizes keep, over the rows of the largest: with four
sizes to every doubling, 3.25 * (1 + 1/2 + 1/4 + ...)."""

_SPLITS_PER_PROCESSOR = 4
"""Ranges of long contexts computed apart at the same time, at most, beside one for each sequence."""


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The largest step that is ever computed.

    Attributes:
        max_batch: sequences, and so rows of logits.
        max_batch_tokens: tokens.
        max_context_tokens: of a sequence.
    """

    max_batch: int
    max_batch_tokens: int
    max_context_tokens: int


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of a device.

    Attributes:
        total_bytes: all of it.
        free_bytes: what can still be allocated, with or without the weights, as is said where it is
            used.
        processors: multiprocessors.
    """

    total_bytes: int
    free_bytes: int
    processors: int

    @property
    def margin_bytes(self) -> int:
        """What is left alone; see `MARGIN`."""
        return int(MARGIN * self.total_bytes)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def step_bytes(config: ModelConfig, dtype: torch.dtype, limits: StepLimits, processors: int) -> int:
    """Bytes of all that a step needs beside weights and KV blocks, and of the tables that stay.

    Every tensor of a layer counts as if all were held at once. That is more than are, by half or
    so, which makes up for blocks that the allocator cannot join.
    """
    tokens, batch = limits.max_batch_tokens, limits.max_batch
    query = config.heads * config.head_dim
    qkv = query + 2 * config.kv_heads * config.head_dim
    # residual, two norms, the products of attention and of the feed-forward network; and what is
    # between: q, k and v, the heads' outputs, gate and up, their product
    activations = tokens * (5 * config.hidden + qkv + query + 3 * config.ffn) * dtype.itemsize
    logits = int(batch * (1 + _LOGIT_COPIES + _GRAPHED_BATCHES)) * config.vocab * _FLOAT32_BYTES
    splits = batch + _SPLITS_PER_PROCESSOR * processors
    partials = splits * config.heads * (config.head_dim + 2) * _FLOAT32_BYTES
    rotary = limits.max_context_tokens * config.head_dim * _FLOAT32_BYTES
    tables = batch * -(-limits.max_context_tokens // BLOCK_SIZE_TOKENS) * _INT32_BYTES
    return activations + logits + partials + rotary + tables


def check_model_fits(
    name: str,
    config: ModelConfig,
    dtype: torch.dtype,
    limits: StepLimits,
    memory: GpuMemory,
    *,
    kv_dtype: str | None = None,
) -> None:
    """Refuse, before anything is read, a model that would leave no room for a block per sequence.

    Args:
        name: of the model.
        config: its sizes.
        dtype: of weights and computation.
        limits: of its steps.
        memory: free without the weights.
        kv_dtype: of K and V; None: `dtype`.

    Raises:
        ModelError: with what is needed, what there is, and what would help.
    """
    weights = config.shape().parameters() * dtype.itemsize
    step = step_bytes(config, dtype, limits, memory.processors)
    blocks = limits.max_batch * block_bytes_of(config, kv_dtype or _name(dtype))
    usable = max(0, memory.free_bytes - memory.margin_bytes)
    if weights + step + blocks <= usable:
        return
    narrower = " or --dtype bfloat16" if dtype.itemsize > 2 else ""
    raise ModelError(
        f"{name} needs {gib(weights)} for its weights in {_name(dtype)}, {gib(step)} "
        f"to compute steps and {gib(blocks)} for a KV block per sequence, but {gib(usable)} of GPU memory "
        f"can be used ({gib(memory.free_bytes)} are free, {gib(memory.margin_bytes)} of them kept as a "
        f"margin); choose a smaller model{narrower}, lower --max-batch-tokens or --max-batch, or, where "
        "another model has taken the rest, give --kv-memory."
    )


def plan_gpu_geometry(
    config: ModelConfig,
    dtype: torch.dtype,
    limits: StepLimits,
    memory: GpuMemory,
    kv_memory_bytes: int | None,
    *,
    kv_dtype: str | None = None,
) -> Geometry:
    """Blocks for all that the weights, the largest step and the margin leave, or what was asked for.

    More blocks than running sequences need keep earlier conversations warm, so there are never too
    many. Whoever asks for a size may take the margin too.

    Args:
        config: of the model.
        dtype: of weights and computation.
        limits: of its steps.
        memory: free beside the weights, which have been loaded.
        kv_memory_bytes: what was asked for; None takes what is left.
        kv_dtype: of K and V; None: `dtype`.

    Raises:
        ModelError: if that is less than a block per sequence of a batch, or more than there is.
    """
    available = max(0, memory.free_bytes - step_bytes(config, dtype, limits, memory.processors))
    return plan_geometry(
        config,
        kv_dtype or _name(dtype),
        kv_memory_bytes=kv_memory_bytes,
        available=available,
        max_batch=limits.max_batch,
        max_context_tokens=limits.max_context_tokens,
        default_bytes=max(0, available - memory.margin_bytes),
        kind="GPU memory",
    )
