import pytest

from ridgeline.admission import WaitingQueue
from ridgeline.protocol import Refusal


def add(queue, request_id, *, priority=0, tenant="", cost=10, now=0.0):
    queue.add(request_id, priority=priority, tenant=tenant, cost_tokens=cost, now=now)


def drain(queue):
    served = []
    while queue:
        served.append(queue.pop())
    return served


def test_one_tenant_is_served_in_order_of_arrival():
    queue = WaitingQueue(10)
    for name, cost in (("a", 900), ("b", 1), ("c", 50)):
        add(queue, name, cost=cost)
    assert queue.peek() == "a"
    assert drain(queue) == ["a", "b", "c"]
    assert queue.peek() is None


def test_smaller_priority_first():
    queue = WaitingQueue(10)
    add(queue, "batch", priority=10)
    add(queue, "interactive", priority=0)
    assert list(queue) == ["interactive", "batch"]
    assert drain(queue) == ["interactive", "batch"]


def test_a_flood_of_one_tenant_does_not_delay_another():
    queue = WaitingQueue(200)
    for i in range(100):
        add(queue, f"flood{i}", tenant="flood", cost=100)
    assert [queue.pop() for _ in range(10)] == [f"flood{i}" for i in range(10)]
    add(queue, "other", tenant="other", cost=100)
    assert list(queue)[:2] == ["other", "flood10"]


def test_shares_are_of_tokens_not_of_requests():
    queue = WaitingQueue(200)
    for i in range(40):
        add(queue, f"big{i}", tenant="big", cost=300)
    for i in range(120):
        add(queue, f"small{i}", tenant="small", cost=100)
    first = [queue.pop() for _ in range(40)]
    assert sum(name.startswith("big") for name in first) == 10


def test_being_away_earns_no_credit():
    queue = WaitingQueue(200)
    for i in range(50):
        add(queue, f"steady{i}", tenant="steady")
    for _ in range(40):
        queue.pop()
    for i in range(10):
        add(queue, f"back{i}", tenant="back")
    served = drain(queue)
    for i in range(1, 20, 2):
        assert {served[i - 1][:4], served[i][:4]} == {"back", "stea"}


def test_what_is_given_up_costs_its_tenant_nothing():
    queue = WaitingQueue(10)
    add(queue, "a1", tenant="a", cost=1000)
    add(queue, "b1", tenant="b", cost=10)
    add(queue, "a2", tenant="a", cost=10)
    queue.remove("a1")
    add(queue, "b2", tenant="b", cost=10)
    assert drain(queue) == ["b1", "a2", "b2"]


def test_preempted_ones_go_before_all_others_of_their_priority():
    queue = WaitingQueue(2)
    add(queue, "new", priority=5)
    add(queue, "urgent", priority=0)
    for name in ("later", "earlier"):
        queue.requeue_front(name, priority=5, tenant="", cost_tokens=10, now=0.0)
    assert len(queue) == 4
    assert list(queue) == ["urgent", "earlier", "later", "new"]
    queue.remove("earlier")
    assert drain(queue) == ["urgent", "later", "new"]


def test_a_full_queue_names_its_length_its_limit_and_the_wait():
    queue = WaitingQueue(2)
    add(queue, "a")
    assert not queue.is_full()
    add(queue, "b")
    assert queue.is_full()
    with pytest.raises(Refusal) as refused:
        queue.add("c", priority=0, tenant="", cost_tokens=1, now=0.0, estimated_wait=lambda: 7.25)
    assert refused.value.code == "at_capacity"
    assert refused.value.retry_after_seconds == 7.25
    assert "2 requests are waiting and max_waiting is 2" in refused.value.message
    assert "7.2 s" in refused.value.message
    with pytest.raises(Refusal) as refused:
        add(queue, "d")
    assert refused.value.retry_after_seconds is None
    assert drain(queue) == ["a", "b"]


def test_a_lower_priority_makes_room():
    queue = WaitingQueue(3)
    add(queue, "b1", priority=10)
    add(queue, "b2", priority=10)
    add(queue, "i1", priority=0)
    assert queue.displaced_by(priority=0, tenant="x") == "b2"
    assert queue.displaced_by(priority=10, tenant="") is None
    assert queue.displaced_by(priority=20, tenant="y") is None


def test_the_longest_line_makes_room_for_another_tenant_but_not_for_its_own():
    queue = WaitingQueue(5)
    for name in ("a1", "a2", "a3"):
        add(queue, name, tenant="a")
    add(queue, "b1", tenant="b")
    assert queue.displaced_by(priority=0, tenant="a") is None
    assert queue.displaced_by(priority=0, tenant="b") == "a3"
    add(queue, "b2", tenant="b")
    assert queue.displaced_by(priority=0, tenant="b") is None
    assert queue.displaced_by(priority=0, tenant="c") == "a3"


def test_preempted_ones_are_never_displaced():
    queue = WaitingQueue(1)
    queue.requeue_front("old", priority=10, tenant="a", cost_tokens=10, now=0.0)
    assert queue.is_full()
    assert queue.displaced_by(priority=0, tenant="b") is None


def test_nobody_is_displaced_in_vain():
    queue = WaitingQueue(2)
    add(queue, "b1", priority=10)
    add(queue, "b2", priority=10)
    queue.requeue_front("old", priority=10, tenant="a", cost_tokens=10, now=0.0)
    assert queue.displaced_by(priority=0, tenant="b") is None
    queue.remove("old")
    assert queue.displaced_by(priority=0, tenant="b") == "b2"


def test_mistakes_are_errors():
    queue = WaitingQueue(4)
    with pytest.raises(LookupError):
        queue.pop()
    with pytest.raises(KeyError):
        queue.remove("nobody")
    add(queue, "a")
    with pytest.raises(ValueError, match="a is waiting already"):
        add(queue, "a")
    with pytest.raises(ValueError, match="max_waiting"):
        WaitingQueue(-1)
