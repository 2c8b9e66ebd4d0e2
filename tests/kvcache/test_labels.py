"""What front doors are told of blocks, against a plain model of what is there."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ridgeline.kvcache import Label, Labels

KEYS = [bytes([number]) for number in range(6)]
NAMES = [Label(tenant, bytes([number])) for tenant in ("a", "b") for number in range(4)]


class LabelsMachine(RuleBasedStateMachine):
    """The model: which content is there, at which of it each label stands, and what was told of each."""

    @initialize()
    def begin(self):
        self.there: set[bytes] = set()
        self.at: dict[Label, set[bytes]] = {name: set() for name in NAMES}
        self.doubted: set[Label] = set()
        self.told: dict[Label, bool] = {}
        self.labels = Labels(self.there.__contains__)

    @rule(key=st.sampled_from(KEYS), names=st.lists(st.sampled_from(NAMES), max_size=3))
    def put(self, key, names):
        self.there.add(key)
        self.labels.put(key, names)
        for name in names:
            self.at[name].add(key)

    @rule(key=st.sampled_from(KEYS))
    def leave(self, key):
        self.there.discard(key)
        self.labels.lost(key)

    @rule(key=st.sampled_from(KEYS))
    def come_back(self, key):
        self.there.add(key)

    @rule(names=st.lists(st.sampled_from(NAMES), max_size=3))
    def expect(self, names):
        self.labels.expected(names)
        self.doubted.update(names)

    @rule()
    def take(self):
        for keys in self.at.values():
            keys &= self.there
        changes = self.labels.take()
        cached, evicted = ((), ()) if changes is None else (changes.cached, changes.evicted)
        assert len(set(cached)) == len(cached) and len(set(evicted)) == len(evicted)
        for name in cached:
            assert self.at[name] and not self.told.get(name), "told twice, or not there"
            self.told[name] = True
        for name in evicted:
            assert not self.at[name] and (self.told.get(name) or name in self.doubted)
            self.told[name] = False
        for name in NAMES:
            assert self.told.get(name, False) == bool(self.at[name]), "not told"
        assert not any(self.at[name] for name in self.doubted if not self.told.get(name))
        assert self.doubted - {name for name in NAMES if self.at[name]} <= set(evicted)
        self.doubted = set()
        assert len(self.labels) == sum(bool(keys) for keys in self.at.values())
        assert self.labels.take() is None

    @invariant()
    def it_agrees_with_itself(self):
        if hasattr(self, "labels"):
            self.labels.check()


LabelsMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestLabels = LabelsMachine.TestCase


def test_there_are_never_more_than_there_may_be_and_the_oldest_are_told_as_gone() -> None:
    labels = Labels(lambda key: True, most=10)
    for number in range(25):
        labels.put(bytes([number]), [Label("a", bytes([number]))])
        labels.check()
        if number == 9:
            assert labels.take().cached == tuple(Label("a", bytes([each])) for each in range(10))
    changes = labels.take()
    assert {label.key[0] for label in changes.evicted} == set(range(10))
    assert {label.key[0] for label in changes.cached} == set(range(15, 25))
    assert len(labels) == 10
