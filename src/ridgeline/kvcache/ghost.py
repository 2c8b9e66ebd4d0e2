"""A cache on keys alone: what another policy, or another room, would have saved on the same requests."""

from collections.abc import Callable, Hashable, Sequence

from ridgeline.kvcache.eviction import EvictionPolicy, IdleChain


class Ghost:
    """Counts what a prefix cache of `room_blocks` blocks saves under a policy; holds no memory for KV.

    A request holds its blocks for no time: it comes, finds what there is, and leaves all of its
    full blocks behind. Of a prompt longer than the room only the beginning is looked at.
    """

    def __init__(
        self, room_blocks: int, policy: EvictionPolicy, saved_seconds: Callable[[int], float]
    ) -> None:
        self._policy = policy
        self._room = room_blocks
        self._block_of: dict[Hashable, int] = {}
        self._key_of: list[Hashable] = [None] * room_blocks
        self._free = list(range(room_blocks - 1, -1, -1))
        self._saved_seconds = saved_seconds
        self._saved_until = [0.0]

    def request(self, keys: Sequence[Hashable], now: float) -> tuple[int, float]:
        """Blocks found of a request's prompt, and seconds that they save."""
        self._policy.wanted(keys, now)
        kept = list(dict.fromkeys(keys))[: self._room]
        blocks: list[int] = []
        for key in kept:
            block = self._block_of.get(key)
            if block is None:
                break
            blocks.append(block)
        hits = len(blocks)
        for block in blocks:
            self._policy.remove(block)
        for key in kept[hits:]:
            blocks.append(self._take(key, now))
        self._policy.add(IdleChain(blocks, kept), now)
        return hits, self._saved(hits)

    def _take(self, key: Hashable, now: float) -> int:
        block = self._block_of.get(key)
        if block is not None:  # behind one that is gone
            self._policy.remove(block)
            return block
        block = self._free.pop() if self._free else self._policy.victim(now)
        self._block_of.pop(self._key_of[block], None)
        self._key_of[block] = key
        self._block_of[key] = block
        return block

    def _saved(self, hits: int) -> float:
        until = self._saved_until
        while len(until) <= hits:
            until.append(until[-1] + self._saved_seconds(len(until) - 1))
        return until[hits]
