"""The best that any policy could have done, computed after the fact: Belady's rule on prefixes.

Evicted is the block that is wanted again last of all, and of those wanted by the same request the
one deepest in its chain. A block before another in a chain is wanted whenever that other is, so what
is kept is always whole prefixes, and every block that is kept until it is wanted is found. Hence no
policy finds more blocks in the same room (Belady 1966).

In seconds it is the best where all blocks cost the same. Deep blocks cost more, so another choice can
save more seconds while finding fewer blocks; `bound_seconds` says how many at most. Cut what is found
into layers: of the blocks from a position on no policy finds more than Belady's rule does with these
alone. The bound is the sum over the layers, each with the seconds that its first block costs more than
the one before.
"""

from collections.abc import Callable, Hashable, Sequence
from heapq import heappop, heappush

_NEVER = 1 << 60


def belady(requests: Sequence[Sequence[Hashable]], room_blocks: int, from_position: int = 0) -> list[int]:
    """Blocks found by each request.

    As in `Ghost` a request has all of its blocks in the room while it is served, and of a prompt
    that is longer than the room the beginning is looked at. O(n log n) over all blocks.

    Args:
        requests: keys of their prompts' full blocks, in order of time.
        room_blocks: of the cache, which is empty at first.
        from_position: blocks before it in their chains are neither kept nor counted.
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


def bound_seconds(
    requests: Sequence[Sequence[Hashable]], room_blocks: int, recompute_seconds: Callable[[int], float]
) -> float:
    """What no policy can exceed in seconds, if deeper blocks cost no less. Takes `belady` once a layer.

    Args:
        requests: keys of their prompts' full blocks, in order of time.
        room_blocks: of the cache.
        recompute_seconds: of a block by its position.
    """
    bound = below = 0.0
    for position in range(max((len(keys) for keys in requests), default=0)):
        seconds = recompute_seconds(position)
        if seconds > below:
            bound += (seconds - below) * sum(belady(requests, room_blocks, position))
            below = seconds
    return bound
