"""Anything in any order: no request is lost, none is counted twice, and everybody ends once."""

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ridgeline.fleet.core.decisions import Arrival, Refuse, Send
from ridgeline.fleet.core.door import Door
from ridgeline.fleet.core.replica import Load, Replica
from ridgeline.protocol.prefix_keys import prefix_keys

TEXTS = [bytes([65 + i]) * 600 for i in range(3)]


class DoorMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 100), waiting=st.integers(0, 6), longest=st.sampled_from([0.5, 20.0]))
    def begin(self, seed, waiting, longest):
        self.door = Door(
            "us",
            {("eu", "us"): 0.08},
            max_waiting=waiting,
            max_wait_seconds=longest,
            rng=random.Random(seed),
        )
        self.now, self.made = 0.0, 0
        self.open, self.placed = set(), {}

    def take(self, decisions):
        for each in decisions:
            assert each.request in self.open, "decided for one who is not there"
            if isinstance(each, Refuse):
                self.open.discard(each.request)
                self.placed.pop(each.request, None)
            else:
                assert isinstance(each, Send)
                assert each.replica in self.door.replicas
                assert self.placed.get(each.request) is None, "sent twice"
                self.placed[each.request] = each.replica

    @rule(number=st.integers(0, 4), slots=st.integers(1, 4), region=st.sampled_from(["us", "eu"]))
    def join(self, number, slots, region):
        replica = Replica(f"r{number}", region, region, frozenset({"m"}), slots, 1000.0, self.now)
        self.take(self.door.joined(replica, self.now))

    @rule(number=st.integers(0, 4))
    def leave(self, number):
        self.take(self.door.left(f"r{number}", self.now))

    @rule(number=st.integers(0, 4), running=st.integers(0, 5), wait=st.sampled_from([0.0, 3.0]))
    def tell(self, number, running, wait):
        load = Load(self.now, running, 4, wait_seconds=wait)
        self.take(self.door.told(f"r{number}", load, self.now))

    @rule(number=st.integers(0, 4), text=st.sampled_from(TEXTS), whole=st.booleans(), cut=st.integers(0, 2))
    def report(self, number, text, whole, cut):
        keys = prefix_keys("a", text)
        self.door.reported(f"r{number}", keys[:cut], keys[cut:], whole, self.now, self.now)

    @rule(number=st.integers(0, 4), state=st.sampled_from(["up", "cordoned", "draining"]))
    def cordon(self, number, state):
        if f"r{number}" in self.door.replicas:
            self.take(self.door.set_state([f"r{number}"], state, self.now))

    @rule(
        text=st.sampled_from(TEXTS),
        tenant=st.sampled_from(["a", "b"]),
        priority=st.sampled_from([0, 10]),
        model=st.sampled_from(["m", "m", "m", "n"]),
    )
    def arrive(self, text, tenant, priority, model):
        self.made += 1
        name = f"q{self.made}"
        self.open.add(name)
        keys = tuple(prefix_keys(tenant, text))
        self.take(self.door.arrive(Arrival(name, model, keys, len(text), tenant, priority), self.now))

    def sent(self, data):
        return data.draw(st.sampled_from(sorted(name for name, where in self.placed.items() if where)))

    @precondition(lambda self: any(self.placed.values()))
    @rule(data=st.data(), what=st.sampled_from(["full", "fault", "left", "end", "end", "begin"]))
    def change(self, data, what):
        name = self.sent(data)
        if what == "begin":
            self.door.began(name, self.now)
            return
        self.placed[name] = None
        if what == "full":
            self.take(self.door.refused_full(name, self.now))
        elif what == "fault":
            self.take(self.door.failed(name, self.now))
        else:
            self.open.discard(name)
            del self.placed[name]
            if what == "left":
                self.take(self.door.left_by_client(name, self.now))
            else:
                self.door.began(name, self.now)
                self.take(self.door.ended(name, self.now, prompt_tokens=150, cached_tokens=64, full_keys=[]))

    @precondition(lambda self: self.door.waiting)
    @rule(data=st.data())
    def leave_the_line(self, data):
        waiting = sorted(name for name in self.open if not self.placed.get(name))
        name = data.draw(st.sampled_from(waiting))
        self.open.discard(name)
        self.placed.pop(name, None)
        self.take(self.door.left_by_client(name, self.now))

    @rule(seconds=st.sampled_from([0.01, 1.0, 30.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.take(self.door.tick(self.now))

    @invariant()
    def nobody_is_lost(self):
        if hasattr(self, "door"):
            self.door.check()
            assert set(self.door._requests) == self.open


DoorMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestDoor = DoorMachine.TestCase
