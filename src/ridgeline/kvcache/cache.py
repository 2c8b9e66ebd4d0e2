"""Blocks of the KV cache: free, held by running sequences, or idle but cached.

    free  --allocate-->  held  --release, published-->  idle  --hold (prefix hit)-->  held
      ^                   |                               |
      '-- release, not published                          '--allocate (evicted)--> held

`free + held + idle = total` at all times; `check` proves it. A held block is never taken away.
"""

from collections.abc import Callable, Sequence

from ridgeline.kvcache.eviction import EvictionPolicy, IdleChain, Lru, Priced
from ridgeline.kvcache.prefix import Entry, Eviction, Match, PrefixIndex

SAME_PRICE = 1.1
"""Prices that differ by no more than this factor are remembered as one."""


class OutOfBlocks(Exception):
    """More blocks were asked for than are free or idle; nothing was changed."""


class KVCache:
    """Ledger of `blocks` blocks of `block_size` tokens. Single-threaded, no I/O, handed the time."""

    def __init__(self, blocks: int, block_size: int, policy: EvictionPolicy | None = None) -> None:
        self.total = blocks
        self.block_size = block_size
        self.evicted_blocks = 0
        self._policy = policy if policy is not None else Lru()
        self._priced = self._policy if isinstance(self._policy, Priced) else None
        # Popped from the end: low ids first, which keeps a lightly used pool in few pages.
        self._free = list(range(blocks - 1, -1, -1))
        self._holders = [0] * blocks
        self._index = PrefixIndex(block_size, remembered=4 * blocks)
        self._coming: dict[bytes, int] = {}

    def on_lost(self, call: Callable[[bytes], None]) -> None:
        """Call with each key whose content is given up here; the same may be published again."""
        self._index.on_lost = call

    @property
    def free(self) -> int:
        """Blocks that hold nothing shareable."""
        return len(self._free)

    @property
    def idle(self) -> int:
        """Blocks that nobody holds but that are cached: reclaimable."""
        return len(self._policy)

    @property
    def held(self) -> int:
        """Blocks of running sequences."""
        return self.total - self.free - self.idle

    @property
    def available(self) -> int:
        """How many blocks `allocate` could give."""
        return self.free + self.idle

    def blocks_for(self, tokens: int) -> int:
        """Blocks that cover so many tokens."""
        return -(-tokens // self.block_size)

    def match(self, keys: Sequence[bytes], tokens: Sequence[int]) -> Match:
        """Longest cached prefix; `keys` must cover the full blocks of `tokens`. Changes nothing."""
        return self._index.match(keys, tokens)

    def idle_among(self, blocks: Sequence[int]) -> int:
        """How many of these are idle, so that holding them makes fewer available."""
        return sum(1 for block in blocks if not self._holders[block])

    def held_once(self, blocks: Sequence[int]) -> int:
        """How many of these would become available if one holder let go of them."""
        return sum(1 for block in blocks if self._holders[block] == 1)

    def wanted(self, keys: Sequence[bytes], now: float) -> None:
        """A request has come whose prompt's full blocks have these keys; once, before it holds any."""
        self._policy.wanted(keys, now)

    def hold(self, blocks: Sequence[int]) -> None:
        """One more holder for each of these cached or held blocks."""
        for block in blocks:
            if self._holders[block] == 0:
                self._policy.remove(block)
            self._holders[block] += 1

    def allocate(self, count: int, now: float, by: str = "", tenant: str = "") -> list[int]:
        """Take blocks with one holder each, evicting idle ones when no free ones are left.

        `by` and `tenant` say who needs them; that is remembered of what is evicted.

        Raises:
            OutOfBlocks: fewer than `count` are available; nothing was changed.
        """
        if count > self.available:
            raise OutOfBlocks(f"{count} blocks asked for, {self.available} available of {self.total}")
        unused = min(count, len(self._free))
        taken = [self._free.pop() for _ in range(unused)]
        if unused < count:
            taken += self._evict(count - unused, now, by, tenant)
        for block in taken:
            self._holders[block] = 1
        return taken

    def publish(
        self, block: int, key: bytes, tokens: tuple[int, ...], position: int, parent: bytes | None = None
    ) -> None:
        """A held block's content is complete: others may find it from now on.

        `parent` is the key of the block before it; None for the first of a chain.

        Where another held block has the same content, that one stays the shared one. An idle one
        is given up: it would be evicted before this one is done with, and cut its chain in two.
        """
        if block in self._index:
            return
        other = self._index.block_of(key)
        if other is not None and not self._holders[other]:
            self._policy.remove(other)
            self._index.withdraw(other)
            self._free.append(other)
        self._index.publish(block, Entry(key, tokens, position, parent))

    def block_of(self, key: bytes) -> int | None:
        """The block that others find under this key, if there is one."""
        return self._index.block_of(key)

    def discard(self, blocks: Sequence[int]) -> None:
        """What is in these blocks may be wrong: holders keep them, but nobody finds them any more."""
        for block in blocks:
            if block not in self._index:
                continue
            self._index.withdraw(block)
            if not self._holders[block]:
                self._policy.remove(block)
                self._free.append(block)

    def release(self, blocks: Sequence[int], now: float) -> None:
        """One holder less for each block of a chain, given in the chain's order.

        The tail goes first, so that a prefix outlives what follows it.
        """
        unused: list[int] = []
        runs: list[list[int]] = [[]]
        for block in blocks:
            if self._holders[block] <= 0:
                raise AssertionError(f"block {block} is released but nobody holds it")
            self._holders[block] -= 1
            if self._holders[block] or block not in self._index:
                runs.append([])  # what follows does not hang on what came before
                if not self._holders[block]:
                    unused.append(block)
            else:
                runs[-1].append(block)
        for run in reversed(runs):
            if run:
                self._file(run, now)
        self._free += reversed(unused)

    def _file(self, blocks: list[int], now: float) -> None:
        entries = [self._index.entry(block) for block in blocks]
        keys = [entry.key for entry in entries]
        self._policy.add(IdleChain(blocks, keys, entries[0].position, entries[0].parent), now)

    def announce(self, keys: Sequence[bytes]) -> None:
        """A running sequence is about to compute blocks with these keys."""
        for key in keys:
            self._coming[key] = self._coming.get(key, 0) + 1

    def retract(self, keys: Sequence[bytes]) -> None:
        """Undo one `announce` of each key, because the blocks are published or given up."""
        for key in keys:
            left = self._coming[key] - 1
            if left:
                self._coming[key] = left
            else:
                del self._coming[key]

    def is_coming(self, key: bytes) -> bool:
        """Whether a running sequence is computing this very block: waiting beats computing it twice."""
        return key in self._coming and not self._index.has(key)

    def _evict(self, count: int, now: float, by: str, tenant: str) -> list[int]:
        # A record is kept as long as a key is remembered: those of about one price share it.
        why = Eviction(by, tenant, now, self.evicted_blocks)
        low = high = -1.0
        blocks = []
        for _ in range(count):
            block = self._policy.victim(now)
            if self._priced is not None and not low <= self._priced.last_price <= high:
                price = self._priced.last_price
                low, high = price / SAME_PRICE, price * SAME_PRICE
                why = Eviction(by, tenant, now, self.evicted_blocks, price)
            self._index.withdraw(block, why)
            self.evicted_blocks += 1
            blocks.append(block)
        return blocks

    def evictions(self, keys: Sequence[bytes]) -> list[tuple[Eviction | None, int]]:
        """Why the blocks with these keys are gone, and how many in a row each time.

        None stands for those that are not gone, or where that was forgotten.
        """
        return self._index.evictions(keys)

    def check(self, chains: Sequence[Sequence[int]]) -> None:
        """Prove the ledger against the chains of all running sequences; AssertionError if wrong."""
        holders = [0] * self.total
        for chain in chains:
            for block in chain:
                holders[block] += 1
        assert holders == self._holders, "holders differ from the blocks of the running sequences"
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        idle = {b for b in range(self.total) if b in self._index and not holders[b]}
        assert len(self._policy) == len(idle), "the policy does not know exactly the idle blocks"
        held = {b for b in range(self.total) if holders[b]}
        assert not free & held and not free & idle, "a free block is held or cached"
        assert len(free) + len(held) + len(idle) == self.total, "free + held + idle != total"
