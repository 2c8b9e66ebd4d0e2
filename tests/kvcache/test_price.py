"""The price: what is evicted first, that prefixes outlive suffixes, and that it learns from cold."""

import random
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prefix_workloads import Mix, workloads

from ridgeline.kvcache import Ghost, IdleChain, Lru, Price, belady, bound_seconds
from ridgeline.kvcache.gaps import EDGES_SECONDS, PRIOR_CHANCE, Gaps, Wait, best_rates


def seconds_of(position):
    return 1.0 + 0.02 * position


def price(**more):
    return Price(seconds_of, 512, **more)


def file(policy, keys, now, blocks=None):
    """A request with these keys came and went; its blocks have the keys' numbers."""
    policy.wanted(keys, now)
    policy.add(IdleChain(list(blocks or keys), list(keys)), now)


def drained(policy, now=1e4):
    return [policy.victim(now) for _ in range(len(policy))]


def saved(requests, policy, room):
    ghost = Ghost(room, policy)
    total = 0.0
    for now, keys in requests:
        hits = ghost.request(keys, now)
        total += sum(seconds_of(position) for position in range(hits))
    ghost.check()
    return total


def test_the_tail_goes_first():
    policy = price()
    file(policy, [1, 2, 3, 4], 0.0)
    assert drained(policy) == [4, 3, 2, 1]


def test_of_two_equal_conversations_the_older_goes_first():
    policy = price()
    file(policy, [1, 2], 0.0)
    file(policy, [11, 12], 100.0)
    policy.wanted([21], 200.0)
    assert drained(policy) == [2, 1, 12, 11]


def test_a_shared_prefix_outlives_all_that_hang_on_it():
    policy = price()
    file(policy, [1, 2, 3], 0.0)
    for block in (1, 2):
        policy.remove(block)
    policy.wanted([1, 2, 4], 1.0)
    policy.add(IdleChain([1, 2, 4], [1, 2, 4]), 1.0)
    order = drained(policy)
    assert order.index(3) < order.index(2)
    assert order.index(4) < order.index(2) < order.index(1)


def test_what_a_later_turn_left_behind_goes_before_all_else():
    policy = price()
    file(policy, [51, 52], 0.0)  # older, and another conversation
    file(policy, [1, 2, 3, 4], 10.0)
    policy.wanted([1, 2, 3, 5, 6], 20.0)  # all but the end of it comes back
    for block in (1, 2, 3):
        policy.remove(block)
    policy.add(IdleChain([1, 2, 3, 5, 6], [1, 2, 3, 5, 6]), 20.0)
    assert policy.victim(21.0) == 4


def test_what_a_tier_has_goes_first():
    copies = {12: 1e-3, 11: 1e-3}
    policy = price(reload_seconds=copies.get)
    file(policy, [1, 2], 0.0)
    file(policy, [11, 12], 0.0)
    assert drained(policy) == [12, 11, 2, 1]


def test_deeper_blocks_are_dearer():
    policy = Price(lambda position: 1.0 + position, 512)
    policy.add(IdleChain([1], [1], 50, parent=0), 0.0)
    policy.add(IdleChain([2], [2], 3, parent=9), 0.0)
    assert policy.victim(0.0) == 2


def test_an_empty_one_says_so():
    with pytest.raises(LookupError, match="no block is idle"):
        price().victim(0.0)


def test_blocks_may_be_taken_out_in_any_order():
    draw = random.Random(1)
    for _ in range(200):
        policy = price()
        blocks = list(range(draw.randint(1, 12)))
        policy.add(IdleChain(blocks, blocks), 0.0)
        draw.shuffle(blocks)
        for block in blocks[: draw.randint(0, len(blocks))]:
            policy.remove(block)
        left = len(policy)
        order = drained(policy)
        assert len(order) == left
        assert order == sorted(order, reverse=True)


def test_the_heap_does_not_grow_with_ages():
    policy = price()
    for i in range(300):
        file(policy, [10 * i, 10 * i + 1], float(i))
    for now in range(300, 4000, 10):
        policy.wanted([], float(now))
    assert len(policy._heap) <= 2 * len(policy) + 64


# --- learning ------------------------------------------------------------------------------------


def test_a_cold_start_evicts_in_the_order_of_ages():
    gaps = Gaps([PRIOR_CHANCE])
    rates = [gaps.rate(Wait(age=age)) for age in range(len(EDGES_SECONDS) + 1)]
    assert rates == sorted(rates, reverse=True)


def test_the_rate_looks_to_the_best_horizon():
    chances = [0.0] * (len(EDGES_SECONDS) + 1)
    chances[10] = 0.9
    rates = best_rates(chances)
    assert rates[0] < rates[5] < rates[10]  # the nearer the return, the dearer
    assert rates[11] == 0.0


@pytest.mark.parametrize("age", [0, 3, 9, 17])
def test_the_rate_is_the_best_quotient_of_all_horizons(age):
    draw = random.Random(age)
    widths = [EDGES_SECONDS[0], *(b - a for a, b in pairwise(EDGES_SECONDS))]
    for _ in range(20):
        chances = [draw.random() ** 3 for _ in range(len(EDGES_SECONDS) + 1)]
        best = surviving_time = returned = 0.0
        surviving = 1.0
        for chance, width in list(zip(chances, [*widths, EDGES_SECONDS[-1]], strict=True))[age:]:
            returned += surviving * chance
            surviving_time += surviving * width * (1 - chance / 2)
            surviving *= 1 - chance
            best = max(best, returned / surviving_time)
        assert best_rates(chances)[age] == pytest.approx(best)


def test_open_waits_count_for_as_long_as_they_lasted():
    gaps = Gaps([PRIOR_CHANCE])
    waits = [Wait() for _ in range(400)]
    for wait in waits:
        gaps.open(wait, 0.0)
    for wait in waits[:200]:
        gaps.end(wait, 30.0)
    gaps.grow(100.0, lambda wait: None)
    gaps.learn()
    young, old = Wait(), Wait(age=waits[-1].age)
    assert waits[-1].age > 10
    assert gaps.rate(young) > 5 * gaps.rate(old)


def regulars_and_strangers(seed, gap_of_regulars):
    """Some come back after this long, others soon after; the same room can hold but one of both."""
    mix = Mix(seed)
    draw = mix.random
    for start in mix.arrivals(0, 2000, 0.5):
        if draw.random() < 0.5:
            mix.conversation(start, 2, lambda: 1, lambda: 1, lambda: gap_of_regulars * draw.uniform(0.9, 1.1))
        else:
            mix.conversation(start, 1, lambda: 4, lambda: 1, float)
    return mix.made()


def test_two_distributions_of_gaps_lead_to_different_evictions():
    first = {}
    for gap in (5.0, 200.0):
        policy = price()
        ghost = Ghost(10_000, policy)
        for now, keys in regulars_and_strangers(1, gap):
            ghost.request(keys, now)
        now += 1000
        policy.wanted([], now)
        while len(policy) > 0:  # only the two below are compared
            policy.victim(now)
        file(policy, [-1], now)
        file(policy, [-2], now + 157)
        policy.wanted([], now + 160)
        first[gap] = policy.victim(now + 160)
    # Where all come back after 5 s, who is silent for 160 s will not; where they come back after 200 s,
    # that one is nearer to it than who left 3 s ago.
    assert first == {5.0: -1, 200.0: -2}


@pytest.mark.parametrize("name", sorted(workloads(0, 10.0)))
def test_never_much_worse_than_lru_on_other_workloads(name):
    # Who comes back after minutes is learned in an hour, not in a quarter of one.
    requests = workloads(4, 3000.0 if name == "slow chats" else 1000.0)[name]
    distinct = len({key for _, keys in requests for key in keys})
    total = {"lru": 0.0, "price": 0.0}
    for share in (0.02, 0.1, 0.4):
        room = max(4, int(distinct * share))
        by_lru, by_price = saved(requests, Lru(), room), saved(requests, price(), room)
        assert by_price >= 0.97 * by_lru, f"at a room of {share:.0%}"  # of so few requests
        total["lru"] += by_lru
        total["price"] += by_price
    assert total["price"] >= 0.99 * total["lru"]


def test_a_room_of_one_block():
    ghost = Ghost(1, price())
    for now in range(50):
        assert ghost.request([7, 8, 9], float(now)) == (now > 0)
        ghost.check()


def test_all_of_one_age():
    ghost = Ghost(20, price())
    draw = random.Random(2)
    for _ in range(300):
        stem = draw.randint(0, 5)
        ghost.request([stem, 10 * stem + 100, 100 * stem + draw.randint(1000, 1003)], 5.0)
        ghost.check()


def test_memory_is_bounded():
    policy = price(remembered=500)
    ghost = Ghost(50, policy)
    for i in range(2000):
        ghost.request(range(10 * i, 10 * i + 8), float(i))
    assert len(policy._lineage._anchors) <= 500
    assert len(policy._hanging) + len(policy._blocked) <= 100
    assert len(policy._heap) <= 2000


# --- against a model that holds whole prefixes ------------------------------------------------------


class PriceMachine(RuleBasedStateMachine):
    """Chains over two letters, held and released by up to three sequences at a time."""

    def __init__(self):
        super().__init__()
        self.policy = price(remembered=60)
        self.now = 0.0
        self.block_of = {}  # prefix -> block, idle or held
        self.holders = {}
        self.running = []
        self.next_block = 0

    def idle(self):
        return {prefix for prefix, count in self.holders.items() if not count}

    @rule(
        chain=st.lists(st.sampled_from("ab"), min_size=1, max_size=7), wait=st.sampled_from([0, 1, 40, 900])
    )
    def start(self, chain, wait):
        self.now += wait
        prefixes = [tuple(chain[: i + 1]) for i in range(len(chain))]
        self.policy.wanted(prefixes, self.now)
        for prefix in prefixes:
            if prefix not in self.block_of:
                self.block_of[prefix] = self.next_block
                self.holders[prefix] = 0
                self.next_block += 1
            elif not self.holders[prefix]:
                self.policy.remove(self.block_of[prefix])
            self.holders[prefix] += 1
        self.running.append(prefixes)

    @rule(data=st.data())
    def finish(self, data):
        if not self.running:
            return
        prefixes = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.now += 1
        let_go = []
        for prefix in prefixes:
            self.holders[prefix] -= 1
            if not self.holders[prefix]:
                let_go.append(prefix)
        if let_go:
            first = len(let_go[0]) - 1
            parent = let_go[0][:-1] or None
            blocks = [self.block_of[prefix] for prefix in let_go]
            self.policy.add(IdleChain(blocks, let_go, first, parent), self.now)

    @rule(count=st.integers(1, 4))
    def evict(self, count):
        for _ in range(min(count, len(self.policy))):
            block = self.policy.victim(self.now)
            (prefix,) = [prefix for prefix, held in self.block_of.items() if held == block]
            assert not self.holders[prefix], "a held block was evicted"
            longer = [p for p in self.block_of if len(p) > len(prefix) and p[: len(prefix)] == prefix]
            assert not longer, "a prefix went before what follows it"
            del self.block_of[prefix], self.holders[prefix]

    @invariant()
    def it_knows_exactly_the_idle(self):
        assert len(self.policy) == len(self.idle())

    def teardown(self):
        while self.running:
            prefixes = self.running[-1]
            self.running.pop()
            for prefix in prefixes:
                self.holders[prefix] -= 1


PriceMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPrice = PriceMachine.TestCase


# --- the optimum ------------------------------------------------------------------------------------


def most_blocks(chains, room, worth=lambda position: 1.0):
    """Brute force over everything a cache could keep; nobody who knows the future does better."""
    states = {frozenset(): 0.0}
    for chain in chains:
        chain = chain[:room]
        following = {}
        for kept, value in states.items():
            hits = 0
            while hits < len(chain) and chain[hits] in kept:
                hits += 1
            value += sum(worth(position) for position in range(hits))
            others = sorted(kept - set(chain))
            for chosen in range(1 << len(others)):
                rest = [key for i, key in enumerate(others) if chosen >> i & 1]
                if len(rest) + len(chain) <= room:
                    state = frozenset([*chain, *rest])
                    following[state] = max(following.get(state, -1.0), value)
        states = following
    return max(states.values())


def test_nothing_beats_the_optimum():
    draw = random.Random(3)
    for _ in range(60):
        chains = []
        for _ in range(draw.randint(2, 7)):
            letters = [draw.choice("ab") for _ in range(draw.randint(1, 4))]
            chains.append(["".join(letters[: i + 1]) for i in range(len(letters))])
        room = draw.randint(1, 6)
        found = belady(chains, room)
        assert sum(found) == most_blocks(chains, room)
        by_rule = sum(seconds_of(position) for hits in found for position in range(hits))
        best = most_blocks(chains, room, seconds_of)
        assert by_rule <= best + 1e-9 <= bound_seconds(chains, room, seconds_of) + 2e-9


@pytest.mark.parametrize("policy", [Lru, price])
def test_no_policy_finds_more_than_the_optimum(policy):
    requests = workloads(6, 300.0)["all at once"]
    for room in (50, 400):
        ghost = Ghost(room, policy())
        for now, keys in requests:
            ghost.request(keys, now)
        assert ghost.hit_blocks <= sum(belady([keys for _, keys in requests], room))


def test_keys_that_are_no_chains_do_no_harm():
    draw = random.Random(7)
    ghost = Ghost(12, price())
    for now in range(2000):
        ghost.request([draw.randint(0, 30) for _ in range(draw.randint(0, 8))], float(now))
        ghost.check()
