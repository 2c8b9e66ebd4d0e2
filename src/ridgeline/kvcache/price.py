"""Eviction by price: the seconds that a block is expected to save, per second and byte that it takes.

    price = rate(kind, age) * seconds to get the block back

`rate` is learned, see `gaps.py`: the chance to be wanted again, over the time until then. To get a block
back takes what recomputing it takes at its position, or what reading it from the next tier takes, where
that has a copy and is faster. All blocks of a cache have the same bytes, so those are left out.

Blocks that became idle together and are waited for together form a *run*, a piece of a chain. Only
its last block can be evicted, and only while no other run hangs on it:

    run of the shared prefix      run of a conversation's latest turn
    | 0 1 2 3 |-------------------| 4 5 6 7 8 9 |          next victim: 9, later ... 5, 4
              \\-------------------| 4'5'6' |               6', 5', 4'; after both: 3

So a prefix outlives what follows it whatever the prices are. Runs that can give a block lie in a heap
by the price of that block; a run's price is made anew when its wait comes to another age or kind.
"""

from collections.abc import Callable, Hashable, Sequence
from heapq import heapify, heappop, heappush, heapreplace

from ridgeline.kvcache.eviction import IdleChain
from ridgeline.kvcache.gaps import Gaps, Wait
from ridgeline.kvcache.kinds import BELIEFS, new_kind
from ridgeline.kvcache.lineage import Conversation, Lineage, Shared

_FEW = 64

_LEARN_EVERY = 32
"""Requests from one learning to the next."""

REMEMBERED_ANCHORS = 1 << 17
"""Some 25 MB: an hour of 6 conversations a second."""


class _Run:
    """Blocks of a chain that are waited for together; those taken out of it are not in `run_of`."""

    __slots__ = ("alive", "blocks", "entry", "first", "head", "keys", "parent", "wait")

    def __init__(
        self, wait: Wait, blocks: list[int], keys: list[Hashable], first: int, parent: Hashable
    ) -> None:
        self.wait = wait
        self.blocks = blocks
        self.keys = keys
        self.first = first  # position of blocks[0]
        self.parent = parent  # key before blocks[head]
        self.head = 0
        self.alive = len(blocks)
        self.entry = 0  # the only valid one in the heap


class Price:
    """Evicts what is worth least. O(log n) per block; n are runs, of which a request makes one or two.

    Args:
        recompute_seconds: by a block's position.
        block_tokens: of a block.
        reload_seconds: by a block's key: from the next tier; None where that does not have it.
        remembered: keys by which conversations are recognised, evicted or not; some 200 bytes each.
    """

    def __init__(
        self,
        recompute_seconds: Callable[[int], float],
        block_tokens: int,
        reload_seconds: Callable[[Hashable], float | None] | None = None,
        remembered: int = REMEMBERED_ANCHORS,
    ) -> None:
        self._recompute_seconds = recompute_seconds
        self._reload_seconds = reload_seconds
        self._recompute: list[float] = []
        self._gaps = Gaps(BELIEFS)
        self._lineage = Lineage(self._gaps, block_tokens, remembered, self._reprice)
        self._run_of: dict[int, _Run] = {}
        self._hanging: dict[Hashable, int] = {}
        self._blocked: dict[Hashable, _Run] = {}
        self._heap: list[tuple[float, int, _Run]] = []
        self._compact_at = _FEW
        self.last_price = 0.0
        self._entries = 0
        self._requests = 0

    def __len__(self) -> int:
        return len(self._run_of)

    def wanted(self, keys: Sequence[Hashable], now: float) -> None:
        """Learn how long this was waited for."""
        self._gaps.grow(now, self._reprice)
        self._lineage.arrive(keys, now)
        self._requests += 1
        if self._requests % _LEARN_EVERY == 0:
            self._gaps.learn()
            self._recompute.clear()  # the engine learns what steps take, too

    def add(self, chain: IdleChain, now: float) -> None:
        """File the blocks as a run, or as two or more where a part is shared."""
        if not chain.blocks:
            return
        owner = self._lineage.find(chain.keys)
        end = len(chain.blocks)
        shared: Shared | None
        if isinstance(owner, Conversation):
            for piece in reversed(owner.pieces):
                end = self._file(piece, chain, piece.begin, end, now)
            shared = owner.shared
            end = self._file(owner.history, chain, shared.blocks if shared else 0, end, now)
        elif owner is None:
            end = self._file(Wait(new_kind(1, 0)), chain, 0, end, now)
            shared = None
        else:
            shared = owner
        while shared is not None:
            above = shared.shared
            end = self._file(shared, chain, above.blocks if above else 0, end, now)
            shared = above

    def _file(self, wait: Wait, chain: IdleChain, position: int, end: int, now: float) -> int:
        """Blocks of the chain from this position on, before `end`, become a run; where it begins."""
        begin = min(max(position - chain.position, 0), end)
        if begin == end:
            return end
        blocks, keys = list(chain.blocks[begin:end]), list(chain.keys[begin:end])
        parent = chain.keys[begin - 1] if begin else chain.parent
        run = _Run(wait, blocks, keys, chain.position + begin, parent)
        run_of = self._run_of
        for block in blocks:
            run_of[block] = run
        self._hang(parent)
        self._gaps.open(wait, now)
        wait.runs = [old for old in wait.runs if old.alive]
        wait.runs.append(run)
        self._offer(run)
        return begin

    def remove(self, block: int) -> None:
        """O(1) from a run's begin, as prefixes are held; O(log n) from its end."""
        run = self._run_of.pop(block)
        run.alive -= 1
        if not run.alive:
            self._close(run)
        elif run.blocks[run.head] == block:
            while self._run_of.get(run.blocks[run.head]) is not run:
                run.head += 1
            self._unhang(run.parent)
            run.parent = run.keys[run.head - 1]
            self._hang(run.parent)
        elif run.blocks[-1] == block:
            self._cut(run)
            self._offer(run)

    def victim(self, now: float) -> int:
        """The last block of the cheapest run."""
        del now
        heap = self._heap
        while heap:
            self.last_price, entry, run = heap[0]
            if entry == run.entry:
                break
            heappop(heap)
        else:
            return self._any()
        block = run.blocks[-1]
        del self._run_of[block]
        run.alive -= 1
        if not run.alive:
            heappop(heap)
            self._close(run)
            return block
        self._cut(run)
        if self._is_blocked(run):
            heappop(heap)
        else:
            run.entry = self._next_entry()
            heapreplace(heap, (self._price(run), run.entry, run))
        return block

    def _any(self) -> int:
        """Where all runs hang in a circle, which takes a key that occurs twice; LookupError if empty."""
        block = next(iter(self._run_of), None)
        if block is None:
            raise LookupError("no block is idle")
        self.remove(block)
        return block

    def _cut(self, run: _Run) -> None:
        """Take blocks off a run's end that are not in it any more."""
        while self._run_of.get(run.blocks[-1]) is not run:
            if self._blocked.get(run.keys[-1]) is run:
                del self._blocked[run.keys[-1]]
            run.blocks.pop()
            run.keys.pop()

    def _close(self, run: _Run) -> None:
        run.entry = -1
        for key in run.keys[-1:]:
            if self._blocked.get(key) is run:
                del self._blocked[key]
        self._unhang(run.parent)

    def _hang(self, key: Hashable) -> None:
        if key is not None:
            self._hanging[key] = self._hanging.get(key, 0) + 1

    def _unhang(self, key: Hashable) -> None:
        if key is None:
            return
        left = self._hanging[key] - 1
        if left:
            self._hanging[key] = left
            return
        del self._hanging[key]
        run = self._blocked.pop(key, None)
        if run is not None and run.alive:
            self._offer(run)

    def _is_blocked(self, run: _Run) -> bool:
        if run.keys[-1] not in self._hanging:
            return False
        self._blocked[run.keys[-1]] = run
        return True

    def _offer(self, run: _Run) -> None:
        """Put a run into the heap at its present price, unless something hangs on its end."""
        if self._is_blocked(run):
            run.entry = -1
            return
        run.entry = self._next_entry()
        heappush(self._heap, (self._price(run), run.entry, run))
        if len(self._heap) > self._compact_at:
            # Amortised over the entries that were put in since the last time.
            self._heap = [item for item in self._heap if item[1] == item[2].entry]
            heapify(self._heap)
            self._compact_at = 2 * len(self._heap) + _FEW

    def _next_entry(self) -> int:
        self._entries += 1
        return self._entries

    def _reprice(self, wait: Wait) -> None:
        for run in wait.runs:
            if run.alive:
                self._offer(run)

    def _price(self, run: _Run) -> float:
        position = run.first + len(run.blocks) - 1
        known = self._recompute
        while len(known) <= position:
            known.append(self._recompute_seconds(len(known)))
        seconds = known[position]
        if self._reload_seconds is not None:
            reload = self._reload_seconds(run.keys[-1])
            if reload is not None and reload < seconds:
                seconds = reload
        return self._gaps.rate(run.wait) * seconds
