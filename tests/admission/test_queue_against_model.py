"""The queue beside a plain list that is sorted anew for every question."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ridgeline.admission import WaitingQueue
from ridgeline.protocol import Refusal

LIMIT = 12
TENANTS = st.sampled_from(["a", "b", "c"])
PRIORITIES = st.sampled_from([0, 10])


class Model:
    """Start-time fair queueing by its definition, in O(n) per question."""

    def __init__(self):
        self.front = {}
        self.waiting = []
        self.finish = {}
        self.virtual = {}
        self.starts = {}

    def lines(self, priority):
        lines = {}
        for request in self.waiting:
            if request["priority"] == priority:
                lines.setdefault(request["tenant"], []).append(request)
        return lines

    def tag_heads(self, priority):
        for tenant, line in self.lines(priority).items():
            head = line[0]["id"]
            if head not in self.starts:
                finish = self.finish.get((priority, tenant), 0)
                self.starts[head] = max(self.virtual.get(priority, 0), finish)

    def next(self):
        for priority in (0, 10):
            if self.front.get(priority):
                return self.front[priority][0]
            heads = [line[0] for line in self.lines(priority).values()]
            if heads:
                return min(heads, key=lambda r: (self.starts[r["id"]], r["order"]))["id"]
        return None

    def add(self, request):
        self.waiting.append(request)
        self.tag_heads(request["priority"])

    def remove(self, request_id, served):
        for line in self.front.values():
            if request_id in line:
                line.remove(request_id)
                return
        request = next(r for r in self.waiting if r["id"] == request_id)
        priority, tenant = request["priority"], request["tenant"]
        if served:
            start = self.starts[request_id]
            self.virtual[priority] = start
            self.finish[priority, tenant] = start + request["cost"]
        self.waiting.remove(request)
        self.tag_heads(priority)

    def ids(self):
        return [r["id"] for r in self.waiting] + [i for line in self.front.values() for i in line]


class QueueMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.queue = WaitingQueue(LIMIT)
        self.model = Model()
        self.made = 0

    @rule(tenant=TENANTS, priority=PRIORITIES, cost=st.integers(1, 50))
    def add(self, tenant, priority, cost):
        self.made += 1
        name = str(self.made)
        full = len(self.model.ids()) >= LIMIT
        try:
            self.queue.add(name, priority=priority, tenant=tenant, cost_tokens=cost, now=0.0)
        except Refusal as refusal:
            assert full and refusal.code == "at_capacity"
            return
        assert not full
        self.model.add({"id": name, "priority": priority, "tenant": tenant, "cost": cost, "order": self.made})

    @rule(priority=PRIORITIES)
    def requeue(self, priority):
        self.made += 1
        name = str(self.made)
        self.queue.requeue_front(name, priority=priority, tenant="a", cost_tokens=1, now=0.0)
        self.model.front.setdefault(priority, []).insert(0, name)

    @precondition(lambda self: self.model.ids())
    @rule()
    def pop(self):
        expected = self.model.next()
        assert self.queue.pop() == expected
        self.model.remove(expected, served=True)

    @precondition(lambda self: self.model.ids())
    @rule(data=st.data())
    def cancel(self, data):
        name = data.draw(st.sampled_from(self.model.ids()))
        self.queue.remove(name)
        self.model.remove(name, served=False)

    @rule(tenant=TENANTS, priority=PRIORITIES)
    def displacing_never_hits_the_newcomers_betters(self, tenant, priority):
        victim = self.queue.displaced_by(priority=priority, tenant=tenant)
        if victim is None:
            return
        request = next(r for r in self.model.waiting if r["id"] == victim)
        assert request["priority"] >= priority
        line = self.model.lines(request["priority"])[request["tenant"]]
        assert line[-1] is request
        if request["priority"] == priority:
            assert request["tenant"] != tenant
            assert len(line) > len(self.model.lines(priority).get(tenant, [])) + 1

    @invariant()
    def agree(self):
        assert len(self.queue) == len(self.model.ids())
        assert self.queue.is_full() == (len(self.model.ids()) >= LIMIT)
        assert self.queue.peek() == self.model.next()
        order = list(self.queue)
        assert sorted(order) == sorted(self.model.ids())
        assert order[:1] == ([self.model.next()] if order else [])

    def teardown(self):
        # The order announced is the order served.
        announced = list(self.queue)
        assert [self.queue.pop() for _ in announced] == announced


QueueMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestQueue = QueueMachine.TestCase
