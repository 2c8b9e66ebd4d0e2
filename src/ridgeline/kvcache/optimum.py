"""The best that any policy could have done, computed after the fact: Belady's rule on prefixes.

Evicted is the block that is wanted again last of all, and of those wanted by the same request the
one deepest in its chain. A block before another in a chain is wanted whenever that other is, so what
is kept is always whole prefixes, and every block that is kept until it is wanted is found. Hence no
policy finds more blocks in the same room (Belady 1966).

In seconds it is the best where all blocks cost the same. Deep blocks cost more, so another choice can
save more seconds while finding fewer blocks; `Optimum.bound_seconds` says how many at most. With the
blocks found in layers, those that cost more than c seconds for every c, no layer can have more than
Belady's rule finds of it alone, and the bound is the sum over the layers.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

_NEVER = 1 << 60


def belady(requests: Sequence[Sequence[Hashable]], room_blocks: int, from_position: int = 0) -> list[int]:
    """Blocks found by each request, those before `from_position` in their chains neither kept nor counted.

    As in `Ghost` a request has all of its blocks in the room while it is served, and of a prompt
    that is longer than the room the beginning is looked at. O(n log n) over all blocks.

    Args:
        requests: keys of their prompts' full blocks, in order of time.
        room_blocks: of the cache, which is empty at first.
        from_position: the first block of a chain that counts.
    """
    chains = [list(dict.fromkeys(keys))[:room_blocks][from_position:] for keys in requests]
    following: dict[Hashable, int] = {}
    next_wanted: list[list[int]] = []
    for i in reversed(range(len(chains))):
        next_wanted.append([following.get(key, _NEVER) for key in chains[i]])
        following.update(dict.fromkeys(chains[i], i))
    next_wanted.reverse()

    kept: dict[Hashable, int] = {}  # when it is wanted
    heap: list[tuple[int, int, int, Hashable]] = []
    found = []
    entry = 0
    for chain, wanted in zip(chains, next_wanted, strict=True):
        hits = 0
        while hits < len(chain) and chain[hits] in kept:
            hits += 1
        found.append(hits)
        for key in chain:
            kept.pop(key, None)
        while len(kept) + len(chain) > room_blocks:
            at, _, _, key = heappop(heap)
            if kept.get(key) == -at:
                del kept[key]
        for position, (key, at) in enumerate(zip(chain, wanted, strict=True)):
            kept[key] = at
            entry += 1
            heappush(heap, (-at, -position, entry, key))
    return found


@dataclass(frozen=True, slots=True)
class Optimum:
    """What the rule finds, and what no policy can exceed.

    Attributes:
        hits: blocks found, by request.
        bound_seconds: no policy saves more, by request where the rule is exact in seconds.
    """

    hits: list[int]
    bound_seconds: float
