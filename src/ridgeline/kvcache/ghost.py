"""A cache on keys alone: what another policy, or another room, would have found of the same requests."""

from collections.abc import Hashable, Sequence

from ridgeline.kvcache.eviction import EvictionPolicy, IdleChain


class Ghost:
    """A prefix cache of `room_blocks` blocks without memory behind it.

    A request holds its blocks for no time: it comes, finds what there is, and leaves all of its
    full blocks behind. Of a prompt that is longer than the room the beginning is looked at.

    Attributes:
        requests: so far.
        asked_blocks: full blocks of their prompts.
        hit_blocks: those of them that were found.
    """

    def __init__(self, room_blocks: int, policy: EvictionPolicy) -> None:
        if room_blocks < 1:
            raise ValueError(f"room_blocks must be at least 1, it is {room_blocks}")
        self._policy = policy
        self._room = room_blocks
        self._block_of: dict[Hashable, int] = {}
        self._key_of: dict[int, Hashable] = {}
        self.requests = self.asked_blocks = self.hit_blocks = 0

    def request(self, keys: Sequence[Hashable], now: float) -> int:
        """How many blocks are found of a prompt with these full blocks."""
        self._policy.wanted(keys, now)
        kept = list(dict.fromkeys(keys))[: self._room]
        blocks: list[int] = []
        for key in kept:
            block = self._block_of.get(key)
            if block is None:
                break
            self._policy.remove(block)
            blocks.append(block)
        hits = len(blocks)
        blocks += [self._take(key, now) for key in kept[hits:]]
        self._policy.add(IdleChain(blocks, kept), now)
        self.requests += 1
        self.asked_blocks += len(keys)
        self.hit_blocks += hits
        return hits

    def _take(self, key: Hashable, now: float) -> int:
        block = self._block_of.get(key)
        if block is not None:  # behind one that is gone: keys that are no chain
            self._policy.remove(block)
            return block
        block = len(self._key_of)
        if block == self._room:
            block = self._policy.victim(now)
            del self._block_of[self._key_of[block]]
        self._key_of[block] = key
        self._block_of[key] = block
        return block

    def check(self) -> None:
        """Prove the ledger between two requests; AssertionError if it is wrong."""
        assert len(self._policy) == len(self._block_of) == len(self._key_of) <= self._room
        for key, block in self._block_of.items():
            assert self._key_of[block] == key, "a block has another's key"
