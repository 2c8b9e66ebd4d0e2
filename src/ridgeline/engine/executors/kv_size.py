"""How large an executor's KV cache becomes, or why it cannot be."""

import logging

from ridgeline.engine.core.plan import Geometry
from ridgeline.engine.executors.memory import gib
from ridgeline.models.config import ModelConfig
from ridgeline.models.errors import ModelError
from ridgeline.roofline import kv_value_bytes

logger = logging.getLogger(__name__)

BLOCK_SIZE_TOKENS = 16
SHARE_OF_AVAILABLE = 0.4
"""What the KV cache takes at most of the memory left beside the weights, unless told otherwise."""


def block_bytes_of(config: ModelConfig, kv_dtype: str) -> int:
    """Bytes of one block over all layers, K and V, with their scales where the dtype has some."""
    return BLOCK_SIZE_TOKENS * config.shape().kv_bytes_per_token(kv_value_bytes(kv_dtype, config.head_dim))


def plan_geometry(
    config: ModelConfig,
    kv_dtype: str,
    *,
    kv_memory_bytes: int | None,
    available: int,
    max_batch: int,
    max_context_tokens: int,
    default_bytes: int | None = None,
    kind: str = "memory",
) -> Geometry:
    """Blocks from memory: what was asked for, else what the device does by default.

    Args:
        config: of the model.
        kv_dtype: of K and V.
        kv_memory_bytes: what was asked for; None for the default.
        available: bytes that may be asked for.
        max_batch: most sequences in a step.
        max_context_tokens: most tokens of a sequence; lowered to what the blocks hold.
        default_bytes: None for what `max_batch` sequences of `max_context_tokens` need, at most
            `SHARE_OF_AVAILABLE` of what is available.
        kind: of memory, as errors call it.

    Raises:
        ModelError: if that is less than a block per sequence of a batch, or more than there is.
    """
    block_bytes = block_bytes_of(config, kv_dtype)
    if kv_memory_bytes is not None:
        room = kv_memory_bytes
    elif default_bytes is not None:
        room = default_bytes
    else:
        wished = max_batch * -(-max_context_tokens // BLOCK_SIZE_TOKENS) * block_bytes
        room = min(wished, int(available * SHARE_OF_AVAILABLE))
    blocks = room // block_bytes
    if blocks < max_batch:
        raise ModelError(
            f"{gib(room)} for the KV cache hold {blocks} blocks of {BLOCK_SIZE_TOKENS} tokens, fewer than "
            f"the {max_batch} sequences of a batch; --kv-memory must be at least "
            f"{max_batch * block_bytes} bytes, or --max-batch smaller."
        )
    if room > available:
        raise ModelError(
            f"--kv-memory asks for {gib(room)}, but {gib(available)} of {kind} are available; give less."
        )
    tokens = min(max_context_tokens, blocks * BLOCK_SIZE_TOKENS)
    if tokens < max_context_tokens:
        logger.warning("the KV cache holds %d tokens; the context is limited to that", tokens)
    return Geometry(blocks, BLOCK_SIZE_TOKENS, block_bytes, max_batch, tokens)
