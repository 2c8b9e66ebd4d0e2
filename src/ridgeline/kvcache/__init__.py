"""The KV cache's decisions: which block holds what, who shares it, what is evicted. Copies nothing."""

from ridgeline.kvcache.cache import KVCache, OutOfBlocks
from ridgeline.kvcache.eviction import EvictionPolicy, IdleBlock, Lru
from ridgeline.kvcache.keys import extend_keys, root_key
from ridgeline.kvcache.prefix import Match

__all__ = [
    "EvictionPolicy",
    "IdleBlock",
    "KVCache",
    "Lru",
    "Match",
    "OutOfBlocks",
    "extend_keys",
    "root_key",
]
