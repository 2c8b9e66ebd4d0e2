"""Fleets on a virtual clock: what must hold for the front door's own decisions, whatever happens."""

import collections
import random

import pytest
from tests.helpers.small_fleet import door, fleet, machine, played, prove, traffic

from ridgeline.simulate.fleet import FleetSimulation
from ridgeline.simulate.fleet_load import Home, conversations
from ridgeline.simulate.fleet_policies import (
    BoundedHashing,
    CacheAware,
    LeastRequests,
    LeastTokens,
    RoundRobin,
)
from ridgeline.simulate.fleet_run import lost, spread

LINKS = {("eu", "us"): 0.08}

POLICIES = {
    "ours": lambda: door(),
    "round robin": lambda: RoundRobin(random.Random(1)),
    "least requests": lambda: LeastRequests(random.Random(1)),
    "least tokens": lambda: LeastTokens(random.Random(1)),
    "bounded hashing": lambda: BoundedHashing(random.Random(1), 5),
    "cache-aware tree": lambda: CacheAware(random.Random(1)),
}


def one_turn(rate, seconds=10.0, **changed):
    return traffic(conversations_per_second=rate, seconds=seconds, turns=1.0, **changed)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_ends_once_while_replicas_die_and_memory_is_short(policy):
    cramped, load = machine(slots=8, kv_tokens=4000), traffic(conversations_per_second=3.0, answer_tokens=400)
    places = lost(fleet(3, cramped), 12.0, 21.0, region="us")
    places[0] = fleet(1, cramped)[0]
    simulation = played(places, load, front=POLICIES[policy](), check=prove)

    assert not simulation.open
    outcomes = simulation.result.outcomes
    assert all(each.answered != each.refused for each in outcomes)
    assert sum(each.broken for each in outcomes) > 0, "nobody was there when the replicas died"
    assert simulation.result.preempted > 0


def test_the_same_seed_decides_the_same():
    first, again = (played(fleet(3), traffic()).result for _ in range(2))
    assert first.decisions == again.decisions
    assert first.outcomes == again.outcomes
    assert played(fleet(3), traffic(), seed=2).result.decisions != first.decisions


def test_all_policies_are_offered_the_same():
    offered = set()
    for policy in POLICIES.values():
        run = played(fleet(1, machine(slots=2)), traffic(), front=policy(), seed=3).result
        offered.add((len(run.outcomes), run.outcomes[0].prompt_tokens))
    assert len(offered) == 1


def test_near_while_it_is_ready_and_far_when_near_is_busy():
    places = [*fleet(1, machine(slots=2)), *fleet(1, machine(slots=64), region="eu")]
    front = door(round_trips=LINKS)
    calm = played(places, one_turn(0.1, 100.0), front=front, round_trips=LINKS).result
    front = door(round_trips=LINKS)
    busy = played(places, one_turn(8.0), front=front, round_trips=LINKS).result

    assert {each.region for each in calm.outcomes} == {"us"}
    far = sum(each.region == "eu" for each in busy.outcomes)
    assert far > len(busy.outcomes) / 2
    assert busy.first_token_seconds(0.95) < 0.5, "they waited for the near one"


def test_a_region_lost_under_load_and_returning():
    places = [*fleet(4), *lost(fleet(4, region="eu"), 10.0, 25.0, region="eu")]
    simulation = FleetSimulation(
        {"us": door(round_trips=LINKS)},
        places,
        traffic(conversations_per_second=6.0, seconds=60.0),
        1,
        round_trips=LINKS,
        check=prove,
    )
    outcomes = simulation.run().outcomes

    broken = [each for each in outcomes if each.broken]
    assert len(broken) > 5, "the region was not in use"
    assert all(each.answered for each in outcomes)
    late = [each for each in outcomes if each.came > 30.0]
    assert any(each.region == "eu" for each in late), "nobody goes there any more"
    assert not any(each.region == "eu" for each in outcomes if 10.5 < each.came < 24.5)


def test_a_whole_fleet_that_dies_and_comes_back_answers_again():
    places = lost(fleet(4), 10.0, 14.0, region="us")
    run = played(places, traffic(conversations_per_second=4.0, seconds=40.0), check=prove).result
    assert all(each.answered for each in run.outcomes if each.came > 18.0)


def test_two_front_doors_before_the_same_replicas():
    fronts = {region: door(region, LINKS, seed) for seed, region in enumerate(("eu", "us"))}
    places = [*fleet(2, machine(slots=8)), *fleet(2, machine(slots=8), region="eu")]
    homes = (Home("us", 3.0), Home("eu", 1.0))
    run = FleetSimulation(
        fronts,
        places,
        traffic(conversations_per_second=5.0, homes=homes),
        1,
        round_trips=LINKS,
        check=prove,
    ).run()

    assert all(each.answered for each in run.outcomes)
    assert {each.home for each in run.outcomes} == {"us", "eu"}
    assert any(each.home == "us" and each.region == "eu" for each in run.outcomes), "nobody was helped out"


def test_a_burst_does_not_fall_on_one_replica():
    burst = one_turn(400.0, 0.1, system_prompts=1, system_tokens=1024)
    run = played(fleet(8, machine(slots=64)), burst).result
    on = collections.Counter(each.replica for each in run.outcomes)
    assert len(on) == 8
    assert max(on.values()) <= 3 * len(run.outcomes) / 8


def test_cold_requests_spread():
    cold = one_turn(4.0, 60.0, system_tokens=0)
    run = played(fleet(8, machine(slots=64)), cold).result
    on = collections.Counter(each.replica for each in run.outcomes)
    assert len(on) == 8
    assert spread(list(on.values())) < 0.5


@pytest.mark.parametrize("silent", [0.0, 10.0])
def test_signals_that_stop_stop_nothing(silent):
    loud = played(fleet(4), traffic(seconds=60.0)).result
    run = played(fleet(4), traffic(seconds=60.0), silent=silent).result
    assert all(each.answered for each in run.outcomes)
    assert run.good(1.0, 0.05) >= 0.95 * loud.good(1.0, 0.05)


def test_conversations_stay_where_they_are_cached():
    long = traffic(question_tokens=800, turns=6.0, seconds=60.0)
    ours = played(fleet(8, machine(slots=64, kv_tokens=400_000)), long).result
    blind = played(
        fleet(8, machine(slots=64, kv_tokens=400_000)), long, front=POLICIES["round robin"]()
    ).result
    assert ours.cached_share > 1.5 * blind.cached_share


def test_a_fleet_that_is_too_small_says_so_and_serves_as_many_as_it_can():
    few = played(
        fleet(1, machine(slots=4)), traffic(conversations_per_second=6.0), front=door(max_wait_seconds=1.0)
    )
    outcomes = few.result.outcomes
    assert few.result.refused > len(outcomes) / 4
    served = sum(each.answered for each in outcomes)
    assert few.result.good(2.5, 0.05) > served / 2, "who is not refused waits longer than was promised"


def test_a_day_has_its_hours():
    coming = traffic(
        conversations_per_second=1.0,
        seconds=1000.0,
        swing=0.8,
        period_seconds=1000.0,
        homes=(Home("us"), Home("eu", later=0.5)),
    )
    by_hour = collections.Counter()
    for seconds, conversation in conversations(coming, random.Random(1)):
        by_hour[conversation.region, int(seconds // 250)] += 1
    midday, night = by_hour["us", 1] + by_hour["us", 2], by_hour["us", 0] + by_hour["us", 3]
    assert midday > 2 * night
    assert by_hour["eu", 0] + by_hour["eu", 3] > 2 * (by_hour["eu", 1] + by_hour["eu", 2])


def test_a_turn_begins_with_all_that_was_said_and_with_nothing_that_was_refused():
    _, conversation = next(conversations(traffic(), random.Random(1)))
    first = conversation.keys(1000)
    conversation.turn_over(1000)
    second = conversation.keys(1500)
    conversation.turn_over(1000)
    third = conversation.keys(1500)

    assert second[: len(first)] == first
    assert third[: len(first)] == first
    assert not set(second[len(first) :]) & set(third[len(first) :])


def test_bounded_hashing_keeps_the_bound_and_the_place():
    policy = BoundedHashing(random.Random(1), 5)
    run = played(fleet(4), traffic(), front=policy).result
    on = collections.Counter(each.replica for each in run.outcomes)
    assert len(on) == 4
    blind = played(fleet(4), traffic(), front=POLICIES["round robin"]()).result
    assert run.cached_share > blind.cached_share


@pytest.mark.slow
def test_a_thousand_replicas_and_a_day():
    homes = (Home("us", 2.0), Home("eu", 1.0, later=0.25))
    links = {("eu", "us"): 0.08}
    places = [*fleet(600), *lost(fleet(400, region="eu"), 40_000.0, 44_000.0, region="eu")]
    coming = traffic(
        conversations_per_second=0.06,
        seconds=86_400.0,
        swing=0.7,
        turns=4.0,
        answer_tokens=400,
        homes=homes,
    )
    fronts = {region: door(region, links, seed) for seed, region in enumerate(("eu", "us"))}
    run = FleetSimulation(fronts, places, coming, 1, round_trips=links, told_every_seconds=300.0).run()
    assert len(run.outcomes) > 19_000
    assert all(each.answered for each in run.outcomes)
