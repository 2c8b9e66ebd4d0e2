"""The KV ledger beside a model that keeps whole prefixes instead of hashes, blocks and counts."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ridgeline.kvcache import KVCache, OutOfBlocks, extend_keys, root_key

BLOCKS = 10
SIZE = 4
SALTS = st.sampled_from(["", "tenant"])
# Two letters and few lengths: prefixes are shared all the time.
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=6 * SIZE)


class Chain:
    """A running sequence: its blocks, and how many of them are published."""

    def __init__(self, salt, tokens, keys, blocks, published):
        self.salt, self.tokens, self.keys = salt, tuple(tokens), keys
        self.blocks, self.published = blocks, published

    def prefix(self, index):
        return (self.salt, self.tokens[: (index + 1) * SIZE])

    @property
    def full(self):
        return len(self.tokens) // SIZE


class CacheMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.cache = KVCache(BLOCKS, SIZE)
        self.chains = []
        self.published = {}  # block -> prefix that it completes
        self.idle = []  # blocks, in the order in which they may be evicted
        self.ever = set()  # prefixes that were published once
        self.now = 0.0

    def held(self):
        return {block for chain in self.chains for block in chain.blocks}

    def block_of(self, prefix):
        return next((block for block, held in self.published.items() if held == prefix), None)

    @rule(salt=SALTS, tokens=TOKENS)
    def start(self, salt, tokens):
        self.now += 1
        keys = []
        extend_keys(keys, root_key(salt), tokens, SIZE)
        chain = Chain(salt, tokens, keys, [], 0)
        match = self.cache.match(keys, tokens)
        self.check_match(chain, match)
        self.cache.hold(match.blocks)
        self.idle = [block for block in self.idle if block not in match.blocks]
        chain.blocks = list(match.blocks)
        chain.published = len(match.blocks)
        self.chains.append(chain)
        need = self.cache.blocks_for(len(tokens)) - len(match.blocks)
        if not self.allocate(chain, need):
            self.release(chain)

    def check_match(self, chain, match):
        expected = []
        for i in range((len(chain.tokens) - 1) // SIZE):
            block = self.block_of(chain.prefix(i))
            if block is None:
                break
            expected.append(block)
        assert list(match.blocks) == expected
        assert match.hit == len(expected) * SIZE < len(chain.tokens)
        assert match.hit + match.evicted + match.cold + match.short == len(chain.tokens)
        for i in range(len(expected), len(expected) + match.evicted // SIZE):
            assert chain.prefix(i) in self.ever

    def allocate(self, chain, count):
        held = self.held()
        if count > BLOCKS - len(held):
            with pytest.raises(OutOfBlocks, match=f"{count} blocks asked for"):
                self.cache.allocate(count, self.now)
            return False
        free = BLOCKS - len(held) - len(self.idle)
        taken = self.cache.allocate(count, self.now)
        assert len(set(taken)) == count
        assert not held & set(taken), "a block of a running sequence was taken"
        evicted = [block for block in taken if block in self.published]
        # Free blocks first, then the least recently used idle ones.
        assert evicted == self.idle[: max(0, count - free)]
        self.idle = self.idle[len(evicted) :]
        for block in evicted:
            del self.published[block]
        chain.blocks += taken
        return True

    @precondition(lambda self: self.chains)
    @rule(data=st.data(), count=st.integers(1, 3))
    def publish(self, data, count):
        chain = data.draw(st.sampled_from(self.chains))
        for _ in range(count):
            i = chain.published
            if i == chain.full:
                return
            tokens = chain.tokens[i * SIZE : (i + 1) * SIZE]
            self.cache.publish(chain.blocks[i], chain.keys[i], tokens, i)
            other = self.block_of(chain.prefix(i))
            if other in self.idle:  # an idle copy is given up for the one in use
                self.idle.remove(other)
                del self.published[other]
                other = None
            if other is None:
                self.published[chain.blocks[i]] = chain.prefix(i)
                self.ever.add(chain.prefix(i))
            chain.published += 1

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def grow(self, data):
        self.now += 1
        chain = data.draw(st.sampled_from(self.chains))
        token = data.draw(st.integers(0, 1))
        if len(chain.tokens) == len(chain.blocks) * SIZE and not self.allocate(chain, 1):
            return
        chain.tokens += (token,)
        extend_keys(chain.keys, root_key(chain.salt), chain.tokens, SIZE)

    @precondition(lambda self: self.chains)
    @rule(data=st.data())
    def finish(self, data):
        self.now += 1
        self.release(data.draw(st.sampled_from(self.chains)))

    def release(self, chain):
        self.cache.release(chain.blocks, self.now)
        self.chains.remove(chain)
        held = self.held()
        self.idle += [b for b in reversed(chain.blocks) if b not in held and b in self.published]

    @invariant()
    def free_and_held_and_idle_are_all(self):
        self.cache.check([chain.blocks for chain in self.chains])
        assert self.cache.free + self.cache.held + self.cache.idle == BLOCKS
        assert self.cache.held == len(self.held())
        assert self.cache.idle == len(self.idle)
        assert self.cache.available == BLOCKS - len(self.held())

    def teardown(self):
        for chain in list(self.chains):
            self.release(chain)
        assert self.cache.held == 0
        # Everything can be had again.
        assert sorted(self.cache.allocate(BLOCKS, self.now)) == list(range(BLOCKS))


CacheMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestCache = CacheMachine.TestCase
