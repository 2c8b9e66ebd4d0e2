"""How large an executor's KV cache becomes, or why it cannot be."""

import logging

import torch

from ridgeline.engine.core.plan import Geometry
from ridgeline.engine.executors.memory import gib
from ridgeline.kernels.interface import KVShape
from ridgeline.models.config import ModelConfig
from ridgeline.models.errors import ModelError

logger = logging.getLogger(__name__)

BLOCK_SIZE_TOKENS = 16
SHARE_OF_AVAILABLE = 0.4
"""What the KV cache takes at most of the memory left beside the weights, unless told otherwise."""


def plan_geometry(
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    kv_memory_bytes: int | None,
    available: int,
    max_batch: int,
    max_context_tokens: int,
) -> Geometry:
    """Blocks from memory: what was asked for, else what the largest batch could use.

    Args:
        config: of the model.
        dtype: of K and V.
        kv_memory_bytes: None for `max_batch` sequences of `max_context_tokens`, at most
            `SHARE_OF_AVAILABLE` of what is available.
        available: bytes.
        max_batch: most sequences in a step.
        max_context_tokens: most tokens of a sequence; lowered to what the blocks hold.

    Raises:
        ModelError: if that is less than a block per sequence of a batch, or more than there is.
    """
    block_bytes = KVShape(
        config.layers, config.kv_heads, config.head_dim, 1, BLOCK_SIZE_TOKENS, dtype
    ).block_bytes
    wished = max_batch * -(-max_context_tokens // BLOCK_SIZE_TOKENS) * block_bytes
    room = kv_memory_bytes if kv_memory_bytes is not None else int(available * SHARE_OF_AVAILABLE)
    blocks = (room if kv_memory_bytes is not None else min(wished, room)) // block_bytes
    if blocks < max_batch:
        raise ModelError(
            f"{gib(room)} for the KV cache hold {blocks} blocks of {BLOCK_SIZE_TOKENS} tokens, fewer than "
            f"the {max_batch} sequences of a batch; --kv-memory must be at least "
            f"{max_batch * block_bytes} bytes, or --max-batch smaller."
        )
    if room > available:
        raise ModelError(
            f"--kv-memory asks for {gib(room)}, but {gib(available)} of memory are available; give less."
        )
    tokens = min(max_context_tokens, blocks * BLOCK_SIZE_TOKENS)
    if tokens < max_context_tokens:
        logger.warning("the KV cache holds %d tokens; the context is limited to that", tokens)
    return Geometry(blocks, BLOCK_SIZE_TOKENS, block_bytes, max_batch, tokens)
