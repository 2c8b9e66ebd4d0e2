import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.kvcache import KVCache, OutOfBlocks, Price, Priced, extend_keys, root_key, shared_keys

SIZE = 4


def keys_of(tokens, salt=""):
    keys = []
    extend_keys(keys, root_key(salt), tokens, SIZE)
    return keys


def compute(cache, tokens, salt="", now=0.0):
    """A sequence that found nothing: takes blocks and publishes the full ones."""
    keys = keys_of(tokens, salt)
    blocks = cache.allocate(cache.blocks_for(len(tokens)), now)
    for i, key in enumerate(keys):
        cache.publish(blocks[i], key, tuple(tokens[i * SIZE : (i + 1) * SIZE]), i)
    return blocks


def match(cache, tokens, salt=""):
    return cache.match(keys_of(tokens, salt), tokens)


@given(st.lists(st.integers(0, 200_000), max_size=40), st.data())
def test_keys_grow_as_the_tokens_do(tokens, data):
    whole = keys_of(tokens)
    assert len(whole) == len(tokens) // SIZE
    cut = data.draw(st.integers(0, len(tokens)))
    keys = keys_of(tokens[:cut])
    assert whole[: len(keys)] == keys
    extend_keys(keys, root_key(""), tokens, SIZE)
    assert keys == whole


@given(st.lists(st.integers(0, 3), min_size=SIZE, max_size=20), st.integers(0, 19), st.integers(4, 9))
def test_a_key_depends_on_everything_before_it(tokens, position, other):
    position %= len(tokens)
    changed = [*tokens[:position], other, *tokens[position + 1 :]]
    for i, (key, changed_key) in enumerate(zip(keys_of(tokens), keys_of(changed), strict=True)):
        assert (key == changed_key) == ((i + 1) * SIZE <= position)


def test_another_salt_has_other_keys():
    tokens = list(range(12))
    assert not set(keys_of(tokens, "a")) & set(keys_of(tokens, "b"))
    cache = KVCache(8, SIZE)
    compute(cache, tokens, "a")
    assert match(cache, tokens, "b").hit == 0
    assert match(cache, tokens, "a").hit == 8


def test_one_token_is_always_left_to_compute():
    cache = KVCache(8, SIZE)
    compute(cache, list(range(8)))
    found = match(cache, list(range(8)))
    assert (found.hit, found.short) == (4, 4)
    assert match(cache, list(range(9))).hit == 8


def test_equal_hashes_are_not_enough():
    cache = KVCache(8, SIZE)
    (block,) = cache.allocate(1, 0.0)
    keys = keys_of([1, 2, 3, 4])
    cache.publish(block, keys[0], (9, 9, 9, 9), 0)
    assert cache.match(keys, [1, 2, 3, 4, 5]).hit == 0


def test_what_was_evicted_is_told_from_what_was_never_there():
    cache = KVCache(4, SIZE)
    cache.release(compute(cache, list(range(12))), 0.0)
    cache.allocate(2, 1.0)  # the free block, and the tail of the chain
    found = match(cache, [*range(12), 99, 99, 99, 99, 99])
    assert (found.hit, found.evicted, found.cold, found.short) == (8, 4, 4, 1)


def test_the_tail_of_a_chain_goes_before_its_prefix():
    cache = KVCache(4, SIZE)
    blocks = compute(cache, list(range(16)))
    cache.release(blocks, 0.0)
    assert cache.allocate(3, 1.0) == [blocks[3], blocks[2], blocks[1]]
    assert cache.evicted_blocks == 3


def test_a_block_held_twice_needs_two_releases():
    cache = KVCache(4, SIZE)
    blocks = compute(cache, list(range(8)))
    cache.hold(blocks)
    cache.release(blocks, 0.0)
    assert (cache.held, cache.idle) == (2, 0)
    cache.release(blocks, 0.0)
    assert (cache.held, cache.idle) == (0, 2)
    with pytest.raises(AssertionError, match="nobody holds"):
        cache.release(blocks, 0.0)


def test_the_copy_in_use_outlives_an_idle_one():
    cache = KVCache(4, SIZE)
    old = compute(cache, list(range(8)))
    cache.release(old, 0.0)
    new = compute(cache, list(range(8)), now=1.0)  # both blocks a second time
    assert (cache.held, cache.idle, cache.free) == (2, 0, 2)
    assert match(cache, list(range(9))).blocks == tuple(new)
    cache.check([new])


def test_of_two_copies_in_use_the_first_is_shared():
    cache = KVCache(4, SIZE)
    old, new = compute(cache, list(range(8))), compute(cache, list(range(8)))
    assert match(cache, list(range(9))).blocks == tuple(old)
    cache.release(new, 0.0)
    assert (cache.held, cache.idle, cache.free) == (2, 0, 2)
    cache.check([old])


def test_asking_for_too_much_changes_nothing():
    cache = KVCache(4, SIZE)
    cache.release(compute(cache, list(range(8))), 0.0)
    held = cache.allocate(1, 0.0)
    with pytest.raises(OutOfBlocks, match="4 blocks asked for, 3 available of 4"):
        cache.allocate(4, 0.0)
    assert match(cache, list(range(9))).hit == 8
    cache.check([held])


def test_a_prefix_that_is_being_computed_is_known():
    cache = KVCache(4, SIZE)
    first, second = keys_of(list(range(8)))
    cache.announce([first, second])
    cache.announce([first])
    assert cache.is_coming(first)
    (block,) = cache.allocate(1, 0.0)
    cache.publish(block, first, (0, 1, 2, 3), 0)
    assert not cache.is_coming(first)
    cache.retract([first, second])
    assert not cache.is_coming(second)
    cache.retract([first])
    assert not cache.is_coming(first)


def test_the_proof_finds_a_lost_block():
    cache = KVCache(4, SIZE)
    blocks = cache.allocate(2, 0.0)
    cache.check([blocks])
    with pytest.raises(AssertionError, match="holders differ"):
        cache.check([blocks[:1]])


def shared_chain(salt, tokens, registered):
    keys = []
    extend_keys(keys, root_key(salt), tokens, SIZE, shared_keys(registered, SIZE))
    return keys


def test_only_registered_prefixes_have_keys_that_tenants_share():
    prompt = list(range(100, 100 + 2 * SIZE + 1))  # two full blocks and a bit
    text = [*prompt, *range(3 * SIZE)]
    ann, bob = (shared_chain(salt, text, [prompt]) for salt in ("ann", "bob"))
    assert ann[:2] == bob[:2]
    assert not set(ann[2:]) & set(bob[2:])
    other_first = [1, *text[1:]]
    ann, bob = (shared_chain(salt, other_first, [prompt]) for salt in ("ann", "bob"))
    assert not set(ann) & set(bob)
    inside = [*text[:SIZE], 1, *text[SIZE + 1 :]]  # leaves the prefix in its second block
    ann, bob = (shared_chain(salt, inside, [prompt]) for salt in ("ann", "bob"))
    assert ann[0] == bob[0] and not set(ann[1:]) & set(bob[1:])


def test_keys_are_the_same_whether_computed_at_once_or_as_tokens_come():
    registered = [list(range(3 * SIZE)), list(range(5 * SIZE))]
    tokens = list(range(4 * SIZE)) + [7] * (2 * SIZE)
    shared, keys = shared_keys(registered, SIZE), []
    for end in range(len(tokens) + 1):
        extend_keys(keys, root_key("ann"), tokens[:end], SIZE, shared)
    assert keys == shared_chain("ann", tokens, registered)
    assert [key in shared for key in keys] == [True] * 4 + [False] * 2


def test_what_continues_a_registered_prefix_is_not_found_without_it():
    """The salt comes in at the border, also for a tenant that could choose what stands there."""
    prompt, rest = list(range(SIZE)), list(range(50, 50 + SIZE))
    with_prompt = shared_chain("ann", prompt + rest, [prompt])
    assert shared_chain("ann", rest, [prompt])[0] != with_prompt[1]
    assert shared_chain("ann", prompt + rest, [])[1] != with_prompt[1]


def test_who_evicted_what_is_remembered_and_forgotten_when_it_is_back():
    cache = KVCache(4, SIZE)
    tokens = list(range(3 * SIZE))
    cache.release(compute(cache, tokens), 0.0)
    cache.allocate(2, 5.0, "evictor/0", "ann")  # one was free
    keys = keys_of(tokens)
    (none, two), (why, one) = cache.evictions(keys)
    assert none is None and (two, one) == (2, 1)
    assert (why.by, why.tenant, why.seconds, why.order, why.price) == ("evictor/0", "ann", 5.0, 0, None)
    (back,) = cache.allocate(1, 6.0, "another/0", "bob")
    assert [w.by for w, _ in cache.evictions(keys)[1:]] == ["another/0", "evictor/0"]
    cache.publish(back, keys[2], tuple(tokens[2 * SIZE :]), 2)
    assert [w and w.by for w, _ in cache.evictions(keys)] == [None, "another/0", None]


def test_the_price_of_what_was_evicted_is_remembered():
    price = Price(lambda position: 2.0 + position, SIZE)
    assert isinstance(price, Priced)
    cache = KVCache(3, SIZE, price)
    tokens = list(range(3 * SIZE))
    cache.wanted(keys_of(tokens), 0.0)
    cache.release(compute(cache, tokens), 0.0)
    cache.allocate(3, 5.0, "evictor/0")
    prices = [why.price for why, _ in cache.evictions(keys_of(tokens))]
    assert prices and all(price > 0 for price in prices)
    assert prices == sorted(prices)  # a chain's end, which costs more to compute, goes first all the same
