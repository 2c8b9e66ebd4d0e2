"""Attention of a compiled step: what its threads call, each with tasks of its own.

In a step, first every token's q, k and v are rotated and stored. A single token (decode) may be done
per KV head, each followed at once by its attention; the tokens of a chunk (prefill) must all be
stored before the first of them attends. See the functions for their arguments.
"""

from numba import njit

from ridgeline.kernels.jit.attention_chunk import attend_chunk, chunk_scratch_bytes, query_tiles, tile_tokens
from ridgeline.kernels.jit.attention_single import (
    attend_part,
    attend_single,
    count_parts,
    merge_parts,
    part_bytes,
    single_scratch_bytes,
)
from ridgeline.kernels.jit.attention_storing import rotate_and_store, rotate_and_store_group
from ridgeline.kernels.jit.attention_wide import attend_chunk_wide, wide_scratch_bytes
from ridgeline.kernels.jit.kv_pool import BLOCK_TOKENS

__all__ = [
    "BLOCK_TOKENS",
    "attend_chunk",
    "attend_chunk_wide",
    "attend_part",
    "attend_single",
    "count_parts",
    "merge_parts",
    "part_bytes",
    "query_tiles",
    "rotate_and_store",
    "rotate_and_store_group",
    "scratch_bytes",
    "tile_tokens",
]


@njit(error_model="numpy")
def scratch_bytes(group: int, head_dim: int) -> int:
    """Of memory that each thread needs for attention, at any address."""
    chunk = max(chunk_scratch_bytes(group, head_dim), wide_scratch_bytes(group, head_dim))
    return max(single_scratch_bytes(group, head_dim), chunk)
