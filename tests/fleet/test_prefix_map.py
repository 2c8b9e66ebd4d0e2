"""What is believed to be cached where, against a simple model."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.fleet.core.prefix_map import LEAST_KEYS, PrefixMap
from ridgeline.protocol.prefix_keys import prefix_keys

CHAINS = [tuple(bytes([chain, depth]) for depth in range(6)) for chain in range(4)]
for chain in CHAINS[1:]:
    assert chain[0] != CHAINS[0][0]


class Plain:
    """The same, as lists in the order of use."""

    def __init__(self) -> None:
        self.held: dict[str, list[bytes]] = {}

    def learn(self, replica: str, keys: tuple[bytes, ...]) -> None:
        held = self.held.setdefault(replica, [])
        for key in reversed(keys):
            if key in held:
                held.remove(key)
            held.append(key)

    def add(self, replica: str, keys: tuple[bytes, ...]) -> int:
        held = self.held.setdefault(replica, [])
        new = [key for key in reversed(keys) if key not in held]
        held += new
        return len(new)

    def match(self, keys: tuple[bytes, ...]) -> dict[str, int]:
        found = {}
        for replica, held in self.held.items():
            depth = 0
            while depth < len(keys) and keys[depth] in held:
                depth += 1
            if depth:
                found[replica] = depth
        return found


def keys_of(chain: int, count: int) -> tuple[bytes, ...]:
    return CHAINS[chain][:count]


STEP = st.tuples(
    st.sampled_from(["learn", "learn", "learn", "add", "unlearn", "older", "forget"]),
    st.sampled_from(["a", "b", "c"]),
    st.integers(0, 3),
    st.integers(0, 6),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_it_is_as_lists_would_be(steps: list[tuple[str, str, int, int]]) -> None:
    found, plain = PrefixMap(), Plain()
    used: dict[tuple[str, bytes], float] = {}
    for now, (what, replica, chain, count) in enumerate(steps):
        keys = keys_of(chain, count)
        if what == "learn":
            new = found.learn(replica, keys, now)
            assert set(new) == set(keys) - set(plain.held.get(replica, []))
            plain.learn(replica, keys)
            used |= {(replica, key): now for key in keys}
        elif what == "add":
            used |= {(replica, key): now for key in keys if key not in plain.held.get(replica, [])}
            assert found.add(replica, keys, now) == plain.add(replica, keys)
        elif what == "older":
            held = plain.held.get(replica, [])
            plain.held[replica] = [key for key in held if used[replica, key] >= now - 3]
            assert found.unlearn_older(replica, now - 3) == len(held) - len(plain.held[replica])
        elif what == "unlearn":
            believed = found.unlearn(replica, keys)
            assert believed == len(set(keys) & set(plain.held.get(replica, [])))
            plain.held[replica] = [key for key in plain.held.get(replica, []) if key not in keys]
        else:
            found.forget(replica)
            plain.held.pop(replica, None)
        found.check()
        for whole in CHAINS:
            assert found.match(whole) == plain.match(whole)
            depth = plain.match(whole).get(replica, 0)
            assert found.deepest(replica, whole) == (whole[depth - 1] if depth else None)
        for each, held in plain.held.items():
            assert found.held(each) == held
            assert all(found.used_seconds(each, key) == used[each, key] for key in held)


def many(name: int, count: int) -> list[bytes]:
    return [name.to_bytes(2, "big") + depth.to_bytes(2, "big") for depth in range(count)]


def test_no_more_is_believed_than_a_memory_holds() -> None:
    found = PrefixMap()
    found.limit("a", 100)
    for name in range(10):
        found.learn("a", many(name, 30))
        found.learn("b", many(name, 30))
        found.check()
    assert [found.match(many(name, 30)).get("a", 0) for name in range(10)] == [0] * 6 + [10, 30, 30, 30]
    assert all(found.match(many(name, 30))["b"] == 30 for name in range(10))
    found.limit("b", 1)
    assert found.match(many(9, 30))["b"] == 30 <= LEAST_KEYS
    assert found.match(many(0, 30)) == {}


def test_all_replicas_together_are_bounded_and_the_greedy_give_way() -> None:
    found = PrefixMap(most_keys=200)
    found.learn("small", many(0, 20))
    for name in range(1, 40):
        found.learn("large", many(name, 30))
        found.check()
    assert len(found) == 200
    assert found.match(many(0, 20)) == {"small": 20}
    assert found.match(many(39, 30)) == {"large": 30}


@given(st.text(max_size=900), st.text(max_size=900))
def test_keys_go_on_from_those_of_a_beginning(first: str, more: str) -> None:
    begun, whole = first.encode(), (first + more).encode()
    assert prefix_keys("t", whole, prefix_keys("t", begun)) == prefix_keys("t", whole)
