"""The front door's decisions, by example."""

import random

import pytest

from ridgeline.fleet.core.breaker import FAULTS, FIRST_PAUSE_SECONDS
from ridgeline.fleet.core.decisions import Arrival, Refuse, Send
from ridgeline.fleet.core.door import FULL_SECONDS, Door
from ridgeline.fleet.core.replica import SLOW_START_SECONDS, Load, Replica
from ridgeline.protocol import Message
from ridgeline.protocol.prefix_keys import canonical, prefix_keys

NOW = 1000.0
FAR = {("eu", "us"): 0.08}


def replica(name, *, region="us", slots=4, up=0.0, rate=10_000.0):
    return Replica(name, region, f"{region}-a", frozenset({"m"}), slots, rate, up)


def door_with(*replicas, seed=7, **more):
    door = Door("us", FAR, rng=random.Random(seed), **more)
    for each in replicas:
        door.joined(each, NOW)
        door.told(each.id, Load(NOW, 0, each.slots), NOW)
    return door


def arrival(name, text="x", tenant="", **more):
    data = text.encode()
    return Arrival(name, "m", tuple(prefix_keys(tenant, data)), len(data), tenant, **more)


def send(door, name, text="x", now=NOW, **more):
    (decision,) = door.arrive(arrival(name, text, **more), now)
    assert isinstance(decision, Send), decision
    door.check()
    return decision


def end(door, name, text="x", now=NOW + 1, cached=0):
    door.began(name, now)
    keys = prefix_keys("", text.encode() + b"answer" * 60)
    decisions = door.ended(
        name, now, prompt_tokens=max(1, len(text) // 4), cached_tokens=cached, full_keys=keys
    )
    door.check()
    return decisions


def long_text(name, characters=20_000):
    return (name + " ") * (characters // (len(name) + 1))


def test_a_burst_is_counted_as_it_is_sent():
    door = door_with(*(replica(f"r{i}") for i in range(4)))
    sent = [send(door, f"q{i}").replica for i in range(16)]
    assert sorted(sent.count(f"r{i}") for i in range(4)) == [4, 4, 4, 4]
    assert door.arrive(arrival("one more"), NOW) == [] and door.waiting == 1


def test_cold_requests_to_equal_replicas_are_spread():
    first = set()
    for seed in range(30):
        door = Door("us", FAR, rng=random.Random(seed))
        for i in range(4):
            door.joined(replica(f"r{i}"), NOW)
            door.told(f"r{i}", Load(NOW, 0, 4), NOW)
        first.add(send(door, "q").replica)
    assert len(first) == 4


def test_a_conversation_comes_back_to_where_it_is_cached():
    door = door_with(*(replica(f"r{i}") for i in range(6)))
    text = long_text("rivers")
    home = send(door, "q0", text).replica
    end(door, "q0", text)
    for turn in range(1, 8):
        text += long_text(f"turn {turn}", 500)
        sent = send(door, f"q{turn}", text)
        assert sent.replica == home
        assert sent.chosen.cached_tokens > 0.8 * len(text) / 4
        end(door, f"q{turn}", text)


def test_another_tenants_copy_is_a_cold_request():
    door = door_with(*(replica(f"r{i}") for i in range(6)))
    text = long_text("rivers")
    send(door, "q0", text)
    end(door, "q0", text)
    assert send(door, "q1", text, tenant="stranger").chosen.cached_tokens == 0


def test_sticky_until_waiting_costs_more_than_computing_elsewhere():
    door = door_with(replica("home", slots=2), replica("other", slots=2))
    text = long_text("rivers", 40_000)  # a second of computing
    door.set_state(["other"], "cordoned", NOW)
    send(door, "q0", text)
    door.set_state(["other"], "up", NOW)
    end(door, "q0", text)
    door.replicas["home"].service_seconds = 0.2
    door.told("home", Load(NOW, 2, 2), NOW)  # its places are taken, but for a moment only
    assert door.arrive(arrival("q1", text), NOW) == [], "it waits for its own replica"
    door.replicas["home"].service_seconds = 30.0
    door.changed("home")
    (sent,) = door.tick(NOW)
    assert sent.replica == "other"


def test_the_ready_one_is_better_than_the_near_one():
    door = door_with(replica("near", slots=1), replica("far", region="eu", slots=4))
    assert send(door, "q0").replica == "near"
    assert send(door, "q1").replica == "far"
    assert send(door, "q2").replica == "far"


def test_the_near_one_is_better_where_both_are_as_ready():
    for seed in range(10):
        door = door_with(replica("near", slots=64), replica("far", region="eu", slots=64), seed=seed)
        assert [send(door, f"q{i}").replica for i in range(4)] == ["near"] * 4


def test_a_balanced_fleet_is_better_than_a_near_replica():
    door = door_with(replica("near", slots=64), replica("far", region="eu", slots=64))
    sent = [send(door, f"q{i}").replica for i in range(100)]
    assert 50 <= sent.count("near") < 60 and sent[0] == "near"


def test_stale_signals_make_choices_more_even_and_stop_nothing():
    chosen = []
    for seed in range(40):
        door = Door("us", FAR, rng=random.Random(seed))
        for name in ("busy", "idle"):
            door.joined(replica(name), 0.0)
        door.told("busy", Load(0.0, 3, 4), 0.0)
        door.told("idle", Load(0.0, 0, 4), 0.0)
        chosen.append(send(door, "q", now=500.0).replica)
    assert 5 < chosen.count("busy") < 35


def test_full_is_not_broken():
    door = door_with(replica("a"), replica("b"))
    first = send(door, "q").replica
    (again,) = door.refused_full("q", NOW)
    door.check()
    assert again.attempt == 2 and again.replica != first
    assert door.replicas[first].breaker.faults == 0
    assert door.replicas[first].breaker.allows(NOW)


def test_when_all_are_full_it_waits_and_goes_to_the_first_that_has_a_place():
    door = door_with(replica("a", slots=1), replica("b", slots=1))
    send(door, "q0")
    second = send(door, "q1").replica
    assert door.arrive(arrival("q2"), NOW) == []
    (sent,) = end(door, "q1")
    assert (sent.request, sent.replica) == ("q2", second)


def test_a_fault_is_tried_elsewhere_and_a_replica_that_fails_is_left_alone():
    door = door_with(replica("bad"), replica("good"))
    faults, now = 0, NOW
    for i in range(40):
        decision = send(door, f"q{i}", now=now)
        if decision.replica == "bad":
            faults += 1
            (again,) = door.failed(f"q{i}", now)
            door.check()
            assert again.replica == "good"
        end(door, f"q{i}", now=now)
    assert faults == FAULTS
    now += FIRST_PAUSE_SECONDS
    probes = {send(door, f"p{i}", now=now).replica: i for i in range(4)}
    assert sum(1 for s in door.replicas["bad"].sent) <= 1, "half open: one probe"
    if "bad" in probes:
        end(door, f"p{probes['bad']}", now=now)
        assert door.replicas["bad"].breaker.pause_seconds == 0


def test_where_several_of_a_cluster_have_failed_the_rest_of_it_is_avoided():
    door = door_with(*(replica(f"us{i}") for i in range(30)), replica("far", region="eu"))
    assert send(door, "q").replica.startswith("us")
    (again,) = door.failed("q", NOW)
    assert again.replica.startswith("us"), "one fault says nothing of its neighbours"
    (again,) = door.failed("q", NOW)
    assert again.replica == "far"
    door.left("far", NOW)
    (again,) = door.failed("q", NOW)
    assert again.replica.startswith("us"), "nobody else is there"
    door.check()


def test_however_often_all_are_full_nobody_is_told_that_they_failed():
    door = door_with(replica("a", slots=1), replica("b", slots=1))
    send(door, "q")
    for _ in range(6):
        decisions = door.refused_full("q", NOW)
        door.check()
        if not decisions:  # both said so: it waits until one tells otherwise
            assert door.waiting == 1
            door.told("a", Load(NOW, 0, 1), NOW)
            decisions = door.tick(NOW + FULL_SECONDS)
        assert isinstance(decisions[0], Send)


def test_the_only_replica_is_tried_again_after_a_fault():
    door = door_with(replica("a"))
    send(door, "q")
    (again,) = door.failed("q", NOW)
    door.check()
    assert (again.replica, again.attempt) == ("a", 2)


def test_the_clients_own_leaving_is_no_fault():
    door = door_with(replica("a"))
    for i in range(10):
        send(door, f"q{i}")
        door.left_by_client(f"q{i}", NOW)
        door.check()
    assert door.replicas["a"].breaker.faults == 0 and not door.replicas["a"].sent


def test_retries_are_a_share_of_all_requests():
    door = door_with(*(replica(f"r{i}", slots=10_000) for i in range(3)))
    retried = 0
    for i in range(300):
        decisions = door.arrive(arrival(f"q{i}"), NOW)
        while decisions and isinstance(decisions[0], Send):
            for each in door.replicas.values():
                each.breaker.succeeded()  # so that only the budget holds them back
                door.changed(each.id)
            retried += decisions[0].attempt > 1
            decisions = door.failed(f"q{i}", NOW)
        door.check()
    assert retried <= 20 + 0.2 * 300


def test_a_new_replica_starts_slowly():
    door = door_with(replica("old", slots=10), replica("new", slots=10, up=NOW))
    assert sum(send(door, f"q{i}").replica == "new" for i in range(12)) == 2
    assert sum(send(door, f"p{i}", now=NOW + SLOW_START_SECONDS).replica == "new" for i in range(8)) == 8


def test_a_cordoned_replica_gets_nothing_new():
    door = door_with(replica("a"), replica("b"))
    door.set_state(["a"], "cordoned", NOW)
    assert {send(door, f"q{i}").replica for i in range(4)} == {"b"}


@pytest.mark.parametrize(("model", "code"), [("m", "no_replica"), ("unknown", "model_not_found")])
def test_whom_nobody_serves(model, code):
    door = door_with(replica("a"))
    door.set_state(["a"], "draining", NOW)
    (refused,) = door.arrive(Arrival("q", model, (), 10), NOW)
    assert isinstance(refused, Refuse) and refused.refusal.code == code
    if code == "model_not_found":
        assert "there are: m" in refused.refusal.message


def test_who_would_wait_too_long_is_told_for_how_long():
    door = door_with(replica("a", slots=1), max_wait_seconds=20.0)
    now = NOW
    send(door, "q0", now=now)
    for i in range(1, 4):
        assert door.arrive(arrival(f"q{i}"), now) == []
    for i in range(10):
        now += 4.0  # it serves one in four seconds
        end(door, f"q{i}", now=now)
        assert door.arrive(arrival(f"q{i + 4}"), now) == []
    decisions = []
    for i in range(14, 30):
        decisions += door.arrive(arrival(f"q{i}"), now)
        door.check()
    refused = [each.refusal for each in decisions if isinstance(each, Refuse)]
    assert refused and all(each.code == "at_capacity" for each in refused)
    assert all(20.0 < each.retry_after_seconds < 40.0 for each in refused)
    assert door.waiting <= 6


def test_waiting_is_fair_among_tenants():
    door = door_with(replica("a", slots=1))
    send(door, "q")
    for i in range(6):
        door.arrive(arrival(f"many{i}", tenant="many"), NOW)
    door.arrive(arrival("few", tenant="few"), NOW)
    (first,) = end(door, "q")
    (second,) = end(door, first.request)
    assert "few" in (first.request, second.request)


def test_a_replica_that_comes_again_has_forgotten():
    door = door_with(replica("a"), replica("b"))
    text = long_text("rivers")
    home = send(door, "q0", text).replica
    end(door, "q0", text)
    door.left(home, NOW)
    door.joined(replica(home), NOW)
    assert all(each.cached_tokens == 0 for each in door.options(arrival("q1", text), NOW))


def test_keys_of_a_next_turn_begin_with_those_of_this_one():
    turn = [Message("user", "a" * 700), Message("assistant", "b" * 300)]
    keys = prefix_keys("m/tenant", canonical(turn))
    more = prefix_keys("m/tenant", canonical([*turn, Message("user", "c" * 600)]))
    assert len(keys) == 3 and more[:3] == keys and len(more) > 3
    assert prefix_keys("m/other", canonical(turn))[0] != keys[0]


def test_kv_memory_is_a_place_too():
    door = door_with(replica("full"), replica("roomy"))
    for name, held in (("full", 0.9), ("roomy", 0.1)):
        door.told(name, Load(NOW, 1, 4, kv_held=held, kv_tokens=10_000), NOW)
    text = long_text("rivers", 8_000)  # 2,000 tokens
    assert [send(door, f"q{i}", f"{i}{text}").replica for i in range(3)] == ["roomy"] * 3
    door.told("roomy", Load(NOW, 3, 4, kv_held=0.95, kv_tokens=10_000), NOW)
    assert door.arrive(arrival("q4", text), NOW) == [], "a place in the batch without memory is none"
    (sent,) = door.told("full", Load(NOW, 1, 4, kv_held=0.2, kv_tokens=10_000), NOW)
    assert sent.replica == "full"


def test_what_was_promised_becomes_less_as_it_is_taken():
    """Answers tell it, metrics do not; what they tell between two answers has part of it."""
    there = replica("r")
    there.tell(Load(NOW, 1, 4, kv_held=0.3, kv_tokens=10_000, kv_promised=0.5))
    there.tell(Load(NOW + 1, 1, 4, kv_held=0.6, kv_tokens=10_000))
    assert there.kv_used_tokens == pytest.approx(8_000)
    there.tell(Load(NOW + 2, 1, 4, kv_held=0.95, kv_tokens=10_000))
    assert there.kv_used_tokens == pytest.approx(9_500)
    there.tell(Load(NOW + 3, 1, 4, kv_held=0.1, kv_tokens=10_000, kv_promised=0.5))
    there.tell(Load(NOW + 4, 0, 4, kv_held=0.0, kv_tokens=10_000))
    assert there.kv_used_tokens == 0


def test_what_is_larger_than_any_memory_goes_where_nothing_runs():
    door = door_with(replica("a"))
    door.told("a", Load(NOW, 0, 4, kv_tokens=100), NOW)
    assert send(door, "q", long_text("rivers")).replica == "a"


def test_a_thousand_replicas_that_come_and_go():
    door = door_with(*(replica(f"r{i}", slots=1) for i in range(1000)))
    for i in range(0, 1000, 2):
        door.left(f"r{i}", NOW)
    door.check()
    assert {send(door, f"q{i}").replica for i in range(20)} <= {f"r{i}" for i in range(1, 1000, 2)}
    for i in range(0, 1000, 2):
        door.joined(replica(f"r{i}", slots=1), NOW)
    door.check()
    sent = [door.arrive(arrival(f"p{i}"), NOW) for i in range(981)]
    assert len({each[0].replica for each in sent if each}) == 980


def test_the_reason_names_the_next_best():
    door = door_with(replica("near"), replica("far", region="eu"), replica("slow", rate=100.0))
    sent = send(door, "q", long_text("rivers", 4_000))
    assert sent.replica == "near" and [each.replica for each in sent.others] == ["far", "slow"]
    assert sent.chosen.seconds < sent.others[0].seconds < sent.others[1].seconds


def models_door(large_slots=1):
    door = Door("us", FAR, rng=random.Random(7))
    for name, model, slots in (("l", "large", large_slots), ("s", "small", 4)):
        door.joined(Replica(name, "us", "us-a", frozenset({model}), slots, 1e4, 0.0), NOW)
        door.told(name, Load(NOW, 0, slots), NOW)
    return door


def ask(door, name, *smaller):
    return door.arrive(Arrival(name, "large", (), 400, smaller=smaller), NOW)


def test_a_full_model_hands_over_with_consent_only():
    door = models_door()
    assert ask(door, "q0", "small")[0].model == "large"
    assert ask(door, "q1") == [] and door.waiting == 1
    (sent,) = ask(door, "q2", "small")
    assert (sent.model, sent.replica) == ("small", "s")
    door.check()


def test_an_answer_that_has_begun_is_gone_on_with_by_the_same_model():
    door = models_door()
    ask(door, "q0", "small")
    door.began("q0", NOW)
    (again,) = door.failed("q0", NOW)
    assert (again.model, again.replica) == ("large", "l"), "there is no other of this model"
    door.check()


def test_who_consents_is_served_where_the_large_model_is_gone():
    door = models_door()
    door.set_state(["l"], "cordoned", NOW)
    assert isinstance(ask(door, "q0")[0], Refuse)
    assert ask(door, "q1", "small")[0].model == "small"


def test_a_door_that_has_just_been_opened_waits_for_replicas_to_join():
    door = Door("us", FAR, rng=random.Random(7), patient_until=NOW + 10, max_wait_seconds=5)
    assert door.arrive(arrival("q0"), NOW) == [] and door.arrive(arrival("q1"), NOW + 8) == []
    assert door.tick(NOW + 9) == []
    (refused,) = door.tick(NOW + 12)
    assert (refused.request, refused.refusal.code) == ("q0", "no_replica")
    assert isinstance(door.arrive(arrival("q2"), NOW + 12)[0], Refuse)
    (sent,) = door.joined(replica("a"), NOW + 12.5)
    assert sent.request == "q1"
    door.check()


def test_who_waits_while_all_replicas_go_is_told_in_the_end():
    door = door_with(replica("a", slots=1), max_wait_seconds=5)
    send(door, "q0")
    assert door.arrive(arrival("q1"), NOW) == []
    door.left("a", NOW + 1)
    assert door.tick(NOW + 4) == []
    (refused,) = door.tick(NOW + 6)
    assert (refused.request, refused.refusal.code) == ("q1", "no_replica")
    door.check()


def test_nobody_is_kept_waiting_for_longer_than_the_limit():
    door = door_with(replica("a", slots=1), max_wait_seconds=5)
    send(door, "q0")
    assert door.arrive(arrival("q1"), NOW) == [] and door.arrive(arrival("q2"), NOW + 3) == []
    assert door.tick(NOW + 4.9) == []
    (refused,) = door.tick(NOW + 5)
    assert (refused.request, refused.refusal.code) == ("q1", "at_capacity")
    assert "waited for 5.0 s" in refused.refusal.message
    (sent,) = door.ended("q0", NOW + 6, prompt_tokens=2, cached_tokens=0, full_keys=[])
    assert sent.request == "q2", "who came later can still be in time"
    assert door.tick(NOW + 60) == [], "what is being answered is not refused"
    door.check()


def test_who_is_refused_by_replicas_for_too_long_is_told():
    door = door_with(replica("a", slots=2), max_wait_seconds=5)
    send(door, "q0"), send(door, "q1")
    assert door.refused_full("q1", NOW + 4) == [] and door.waiting == 1
    (sent,) = end(door, "q0", now=NOW + 4.5)
    assert sent.request == "q1"
    (refused,) = door.refused_full("q1", NOW + 5)
    assert (refused.request, refused.refusal.code) == ("q1", "at_capacity")
    door.check()


def test_who_has_lost_a_replica_may_wait_longer():
    door = door_with(replica("a", slots=1), replica("b", slots=1), max_wait_seconds=5)
    send(door, "q0"), send(door, "q1")
    lost = next(iter(door.replicas["a"].sent))
    door.began(lost, NOW + 1)
    assert door.failed(lost, NOW + 2) == [] and door.waiting == 1
    assert door.tick(NOW + 60) == [] and door.waiting == 1
    door.check()
    door.left("a", NOW + 61)
    door.left("b", NOW + 61)
    (refused,) = door.tick(NOW + 62)
    assert (refused.request, refused.refusal.code) == (lost, "no_replica")
    door.check()


def test_what_a_warm_prompt_waits_for_is_learned():
    """A step of the batch, say: nothing to compute is not no time."""
    door, now = door_with(replica("r")), NOW + SLOW_START_SECONDS
    for turn in range(60):
        send(door, f"q{turn}", "a ridge?", now=now)
        door.began(f"q{turn}", now + 0.03)
        door.ended(f"q{turn}", now + 1, prompt_tokens=2, cached_tokens=0, full_keys=[])
        now += 2
    warm = send(door, "warm", "a ridge?", now=now).chosen.seconds
    cold = send(door, "cold", long_text("rivers"), now=now).chosen.seconds
    assert warm == pytest.approx(0.03, rel=0.1)
    assert cold == pytest.approx(0.03 + 0.5, rel=0.1), "what is to be computed comes on top"


def test_the_learned_wait_is_no_part_of_the_rate():
    door, now = door_with(replica("r", rate=1_000.0)), NOW + SLOW_START_SECONDS
    for turn in range(400):
        name = f"q{turn}"
        text = long_text(name, 8_000) if turn % 2 else "a ridge?"
        tokens = len(text) // 4
        send(door, name, text, now=now)
        door.began(name, now + 0.05 + tokens / 10_000)
        door.ended(name, now + 1, prompt_tokens=tokens, cached_tokens=0, full_keys=[])
        now += 2
    learned = door.replicas["r"]
    assert learned.base_seconds == pytest.approx(0.05, rel=0.1)
    assert learned.prefill_tokens_per_second == pytest.approx(10_000, rel=0.1)
