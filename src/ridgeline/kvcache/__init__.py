"""The KV cache's decisions: which block holds what, who shares it, what is evicted. Copies nothing."""

from ridgeline.kvcache.cache import KVCache, OutOfBlocks
from ridgeline.kvcache.eviction import EvictionPolicy, IdleChain, Lru, Priced
from ridgeline.kvcache.ghost import Ghost
from ridgeline.kvcache.keys import extend_keys, root_key, shared_keys
from ridgeline.kvcache.labels import Label, LabelChanges, Labels
from ridgeline.kvcache.optimum import belady, bound_seconds
from ridgeline.kvcache.prefix import Eviction, Match
from ridgeline.kvcache.price import Price
from ridgeline.kvcache.tiers import LoadTime, TierLedger, Tiers

__all__ = [
    "Eviction",
    "EvictionPolicy",
    "Ghost",
    "IdleChain",
    "KVCache",
    "Label",
    "LabelChanges",
    "Labels",
    "LoadTime",
    "Lru",
    "Match",
    "OutOfBlocks",
    "Price",
    "Priced",
    "TierLedger",
    "Tiers",
    "belady",
    "bound_seconds",
    "extend_keys",
    "root_key",
    "shared_keys",
]
