"""What the scheduler promises, one promise at a time."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import EOS, Simulation, expected_tokens

from ridgeline.protocol import Sampling

TEXT = [1 + i % 61 for i in range(400)]
NEVER_STOPS = frozenset()


def run_until(simulation, condition, steps=2000):
    for _ in range(steps):
        if condition():
            return
        assert simulation.step(), "everything ended before the condition held"
    raise AssertionError("the condition never held")


# --- the same answer, whatever happens on the way ---------------------------------------------


@pytest.mark.parametrize("depth", [0, 1])
def test_batched_equals_single(depth):
    together = Simulation(depth=depth)
    names = [together.submit(TEXT[i : i + 30], 40) for i in range(8)]
    together.run()
    for i, name in enumerate(names):
        alone = Simulation(depth=depth)
        only = alone.submit(TEXT[i : i + 30], 40)
        alone.run()
        assert together.answers[name] == alone.answers[only]


@pytest.mark.parametrize("depth", [0, 1])
def test_chunked_equals_whole(depth):
    chunked = Simulation(depth=depth, max_batch=2, max_batch_tokens=3)
    name = chunked.submit(TEXT[:200], 40)
    chunked.run()
    assert chunked.answers[name] == expected_tokens(chunked.specs[name])
    assert chunked.steps > 60


@pytest.mark.parametrize("depth", [0, 1])
def test_prefix_hit_equals_cold(depth):
    simulation = Simulation(depth=depth)
    simulation.submit(TEXT[:100], 5)
    simulation.run()
    again = simulation.submit([*TEXT[:100], 7, 8, 9], 30)
    simulation.run()
    assert simulation.scheduler.counters.hit == 96
    assert simulation.answers[again] == expected_tokens(simulation.specs[again])


@pytest.mark.parametrize("depth", [0, 1])
def test_a_conversation_is_found_again_with_its_answer(depth):
    simulation = Simulation(depth=depth)
    first = simulation.submit(TEXT[:50], 60, stop_token_ids=NEVER_STOPS)
    simulation.run()
    simulation.submit([*TEXT[:50], *simulation.answers[first], 5, 6, 7], 5)
    simulation.run()
    # 110 tokens, of which the last one drawn was never computed: 6 full blocks.
    assert simulation.scheduler.counters.hit == 96


@pytest.mark.parametrize("depth", [0, 1])
def test_preempted_equals_undisturbed(depth):
    simulation = Simulation(depth=depth, blocks=12, max_batch=6, expected_output_tokens=1)
    for i in range(6):
        simulation.submit(TEXT[i * 20 : i * 20 + 20], 80, stop_token_ids=NEVER_STOPS)
    simulation.run()
    assert simulation.scheduler.counters.preemptions > 0
    assert simulation.scheduler.counters.recomputed_preempted > 0
    assert set(simulation.ended.values()) == {"length"}


@pytest.mark.parametrize("depth", [0, 1])
def test_a_prompt_is_scored_once_whatever_is_cached_or_preempted(depth):
    simulation = Simulation(depth=depth, blocks=12, max_batch=6, expected_output_tokens=1)
    scoring = Sampling(temperature=0.0, seed=0, prompt_logprobs=0)
    names = [simulation.submit(TEXT[:50], 60, sampling=scoring, stop_token_ids=NEVER_STOPS) for _ in range(4)]
    names.append(simulation.submit(TEXT[:50], 0, sampling=scoring))
    simulation.run()
    assert simulation.scheduler.counters.preemptions > 0
    for name in names:
        assert [score.token_id for score in simulation.scores[name]] == TEXT[1:50]


def test_two_with_the_same_beginning_compute_it_once():
    simulation = Simulation(max_batch_tokens=32)
    names = [simulation.submit([*TEXT[:160], 60 + i % 2, i], 5) for i in range(4)]
    simulation.run()
    assert simulation.scheduler.counters.hit == 3 * 160
    assert {simulation.ended[name] for name in names} <= {"stop", "length"}


def test_a_tenant_finds_nothing_of_another():
    simulation = Simulation()
    simulation.submit([*TEXT[:100], 7], 5, tenant="a")
    simulation.run()
    simulation.submit([*TEXT[:100], 7], 5, tenant="b")
    simulation.run()
    assert simulation.scheduler.counters.hit == 0
    simulation.submit([*TEXT[:100], 7], 5, tenant="a")
    simulation.run()
    assert simulation.scheduler.counters.hit == 96


# --- cancelling -------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("after", [0, 1, 2, 5, 30])
def test_cancelling_frees_blocks_at_once_at_any_time(depth, after):
    simulation = Simulation(depth=depth, max_batch_tokens=16)
    name = simulation.submit(TEXT[:64], 60, stop_token_ids=NEVER_STOPS)
    other = simulation.submit(TEXT[200:264], 10)
    for _ in range(after):
        simulation.step()
    simulation.cancel(name)
    assert simulation.ended[name] == "cancelled"
    held = {block for s in simulation.scheduler._running for block in s.blocks}
    assert simulation.scheduler.cache.held == len(held)
    simulation.cancel(name)
    simulation.run()
    assert simulation.answers[other] == expected_tokens(simulation.specs[other])


def test_an_unknown_id_is_nothing_to_cancel():
    simulation = Simulation()
    assert simulation.scheduler.cancel("nobody", 0.0) == []


# --- refusals ---------------------------------------------------------------------------------


def test_what_can_never_fit_is_refused_at_once_with_the_numbers():
    simulation = Simulation(blocks=4, max_context_tokens=512)
    assert simulation.submit(TEXT[:40], 25) is None
    assert simulation.refusal.code == "context_length_exceeded"
    assert "40 tokens" in simulation.refusal.message
    assert "at most 64" in simulation.refusal.message
    assert simulation.submit([], 5) is None
    assert simulation.refusal.code == "invalid_request"
    name = simulation.submit(TEXT[:40], 24, stop_token_ids=NEVER_STOPS)
    simulation.run()
    assert len(simulation.answers[name]) == 24


def test_a_full_queue_refuses_with_the_measured_wait():
    simulation = Simulation(max_batch=2, max_waiting=4)
    for i in range(60):
        simulation.submit(TEXT[i : i + 20], 10)
        for _ in range(15):
            simulation.step()
    for i in range(2):
        simulation.submit(TEXT[i : i + 20], 200, stop_token_ids=NEVER_STOPS)
    simulation.step()
    while simulation.submit(TEXT[:20], 200, stop_token_ids=NEVER_STOPS) is not None:
        pass
    assert simulation.refusal.code == "at_capacity"
    assert simulation.refusal.retry_after_seconds > 0
    assert simulation.scheduler.estimated_wait_seconds(simulation.clock.now()) > 0
    assert simulation.scheduler.waiting == 4
    simulation.run()


def test_a_wait_is_promised_before_anything_has_finished():
    simulation = Simulation(max_batch=2, max_waiting=8)
    for i in range(6):
        simulation.submit(TEXT[i : i + 20], 200, stop_token_ids=NEVER_STOPS)
    for _ in range(10):
        simulation.step()
    now = simulation.clock.now()
    promised = simulation.scheduler.estimated_wait_seconds(now)
    last = simulation.submit(TEXT[50:70], 5)
    run_until(simulation, lambda: last in simulation.first_seconds)
    assert promised == pytest.approx(simulation.first_seconds[last] - now, rel=0.5)
    simulation.run()


def test_the_promised_wait_is_kept():
    simulation = Simulation(max_batch=4, max_waiting=100)
    rng = random.Random(5)
    promises = {}
    for i in range(150):
        promise = simulation.scheduler.estimated_wait_seconds(simulation.clock.now())
        name = simulation.submit([rng.randrange(1, 60) for _ in range(30)], 60)
        if i >= 80 and name:
            promises[name] = promise
        for _ in range(6 if i < 80 else 1):
            simulation.step()
    simulation.run()
    ratios = sorted(
        (simulation.first_seconds[name] - simulation.submitted_seconds[name]) / promise
        for name, promise in promises.items()
        if promise > 0
    )
    assert len(ratios) > 40
    assert 0.5 < ratios[len(ratios) // 2] < 2.0


def test_a_better_priority_takes_the_place_of_a_worse_one_in_a_full_queue():
    simulation = Simulation(max_batch=1, max_waiting=2)
    names = [simulation.submit(TEXT[i : i + 20], 40, priority=10) for i in range(2)]
    simulation.step()
    names.append(simulation.submit(TEXT[2:22], 40, priority=10))
    urgent = simulation.submit(TEXT[3:23], 40, priority=0)
    assert urgent is not None
    assert simulation.ended == {names[2]: "at_capacity"}
    simulation.run()
    assert simulation.ended[urgent] in ("stop", "length")


# --- order, fairness, starvation --------------------------------------------------------------


def test_arrivals_of_equal_rank_are_admitted_in_order():
    simulation = Simulation(max_batch=3, blocks=30)
    rng = random.Random(1)
    names = [
        simulation.submit([rng.randrange(1, 60) for _ in range(rng.randrange(1, 90))], 30) for _ in range(60)
    ]
    seen = []
    while simulation.step():
        for s in sorted(simulation.scheduler._running, key=lambda s: int(s.spec.id)):
            if s.spec.id not in seen:
                seen.append(s.spec.id)
    simulation.check_idle()
    # What is admitted and ended within one step is never seen running after it.
    assert seen == [name for name in names if name in seen]
    assert len(seen) > 50


def test_an_interactive_request_preempts_batch_work_for_room():
    simulation = Simulation(max_batch=2, blocks=24)
    low = [
        simulation.submit(TEXT[i * 40 : i * 40 + 40], 100, priority=10, stop_token_ids=NEVER_STOPS)
        for i in range(2)
    ]
    for _ in range(20):
        simulation.step()
    urgent = simulation.submit(TEXT[200:240], 10, priority=0)
    before = simulation.steps
    run_until(simulation, lambda: urgent in simulation.first_seconds)
    assert simulation.steps - before <= 4
    simulation.run()
    assert {simulation.ended[name] for name in low} == {"length"}


def test_a_parked_batch_request_does_not_take_the_place_of_an_interactive_one():
    simulation = Simulation(max_batch=2, blocks=64, max_batch_tokens=8, depth=0)
    simulation.submit(TEXT[:160], 60, priority=10, stop_token_ids=NEVER_STOPS)
    simulation.step()
    parked = simulation.submit(TEXT[:40], 20, priority=10)  # waits for the first two blocks
    simulation.step()
    assert parked in simulation.scheduler._line._parked
    computing = simulation.scheduler._running[0]
    run_until(simulation, lambda: computing.computed == 32)
    urgent = simulation.submit(TEXT[300:310], 20, priority=0)
    run_until(simulation, lambda: {urgent, parked} & set(simulation.first_seconds))
    assert urgent in simulation.first_seconds
    simulation.run()


def test_a_flood_of_one_tenant_does_not_starve_another():
    simulation = Simulation(max_batch=2, blocks=64)
    rng = random.Random(2)

    def ask(tenant):
        prompt = [rng.randrange(1, 60) for _ in range(30)]
        return simulation.submit(prompt, 20, tenant=tenant, stop_token_ids=NEVER_STOPS)

    flood = [ask("flood") for _ in range(100)]
    for _ in range(30):
        simulation.step()
    few = [ask("few") for _ in range(5)]
    simulation.run()
    last = max(simulation.first_seconds[name] for name in few)
    served_before = sum(simulation.first_seconds[name] < last for name in flood)
    assert served_before < 25


def test_short_prompts_pass_a_long_one_that_still_gets_its_share():
    simulation = Simulation(max_batch=4, blocks=200, max_batch_tokens=16, max_context_tokens=2000)
    long = simulation.submit([1 + i % 50 for i in range(1500)], 5)
    rng = random.Random(3)
    short, step = [], 0
    while long not in simulation.first_seconds:
        if step % 5 == 0:
            name = simulation.submit([rng.randrange(1, 60) for _ in range(30)], 5)
            short.append((name, simulation.steps))
        simulation.step()
        step += 1
        assert step < 1500 / (16 / 4) * 2, "the long prompt starves"
    assert sum(name in simulation.first_seconds for name, _ in short) > len(short) / 2
    simulation.run()


@pytest.mark.parametrize("depth", [0, 1])
def test_a_tiny_pool_is_no_deadlock(depth):
    simulation = Simulation(blocks=5, max_batch=8, depth=depth, expected_output_tokens=1)
    for i in range(40):
        simulation.submit(TEXT[i : i + 20], 60, stop_token_ids=NEVER_STOPS)
    simulation.run(max_steps=40 * 80)
    assert Counter(simulation.ended.values()) == {"length": 40}


# --- a broken step ----------------------------------------------------------------------------


def test_a_broken_step_ends_its_sequences_and_no_others():
    from ridgeline.protocol import Refusal

    simulation = Simulation(max_batch=2, depth=0)
    broken = [simulation.submit(TEXT[i : i + 20], 30) for i in range(2)]
    waiting = simulation.submit(TEXT[50:70], 30)
    simulation.step()
    plan = simulation.scheduler.schedule(simulation.clock.now())
    simulation.executor.collect(simulation.executor.launch(plan))
    refusal = Refusal("internal_error", "the device broke")
    outputs = simulation.scheduler.fail(plan, simulation.clock.now(), refusal)
    assert {output.sequence_id for output in outputs} == set(broken)
    assert all(output.refusal is refusal for output in outputs)
    for name in broken:
        del simulation.specs[name]
    simulation.run()
    assert simulation.ended[waiting] in ("stop", "length")


# --- many -------------------------------------------------------------------------------------


def crowd(simulation, rng, requests, most_steps):
    """Mixed lengths, shared prefixes, priorities, tenants, cancellations, as fast as it may go."""
    texts = [[rng.randrange(1, 64) for _ in range(100)] for _ in range(5)]
    for _ in range(requests):
        prompt = rng.choice(texts)[: rng.randrange(1, 100)]
        prompt += [rng.randrange(1, 64) for _ in range(rng.randrange(30))]
        name = simulation.submit(
            prompt,
            rng.randrange(100),
            priority=rng.choice([0, 0, 10]),
            tenant=rng.choice(["a", "b"]),
            stop_token_ids=rng.choice([NEVER_STOPS, frozenset({EOS})]),
        )
        if name is not None and rng.random() < 0.1:
            simulation.cancel(rng.choice([name, *list(simulation.specs)[-20:]]))
        for _ in range(rng.randrange(most_steps + 1)):
            simulation.step()
    simulation.run()


@pytest.mark.parametrize(
    ("depth", "blocks", "expected"), [(0, 16, 1), (1, 16, 1), (0, 60, 20), (1, 60, 20), (1, 400, 256)]
)
def test_a_thousand_requests(depth, blocks, expected):
    simulation = Simulation(
        blocks=blocks,
        max_batch=12,
        depth=depth,
        max_batch_tokens=96,
        max_waiting=40,
        expected_output_tokens=expected,
    )
    crowd(simulation, random.Random(blocks + depth), 1000, most_steps=7)
    ends = Counter(simulation.ended.values())
    assert min(ends["stop"], ends["length"], ends["cancelled"]) > 10
    counters = simulation.scheduler.counters
    assert counters.hit > 0
    if blocks < 400:
        assert counters.preemptions > 0 and counters.evicted_blocks > 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    depth=st.sampled_from([0, 1]),
    blocks=st.integers(15, 60),
    max_batch=st.integers(1, 12),
    spare=st.integers(0, 80),
    max_waiting=st.integers(1, 20),
    expected=st.sampled_from([1, 20, 200]),
    most_steps=st.integers(1, 12),
)
def test_crowds_of_any_kind(seed, depth, blocks, max_batch, spare, max_waiting, expected, most_steps):
    simulation = Simulation(
        blocks=blocks,
        max_batch=max_batch,
        depth=depth,
        max_batch_tokens=max_batch + spare,
        max_waiting=max_waiting,
        expected_output_tokens=expected,
    )
    crowd(simulation, random.Random(seed), 200, most_steps)


# --- who must not wait ------------------------------------------------------------------------


def at_once(simulation, prompt, max_tokens=20):
    return simulation.submit(prompt, max_tokens, begin_at_once=True, stop_token_ids=NEVER_STOPS)


def test_who_must_begin_at_once_is_refused_where_there_is_no_slot():
    simulation = Simulation(max_batch=2)
    first = at_once(simulation, TEXT[:20])
    assert first and at_once(simulation, TEXT[20:40])
    assert at_once(simulation, TEXT[40:60]) is None
    assert simulation.refusal.code == "at_capacity" and "is not to" in simulation.refusal.message
    run_until(simulation, lambda: first in simulation.ended)
    assert at_once(simulation, TEXT[40:60])
    simulation.run()


def test_who_must_begin_at_once_is_refused_where_memory_is_promised_to_others():
    simulation = Simulation(blocks=20, max_batch=8)
    assert at_once(simulation, TEXT[:100], 60)  # 10 blocks, and one is kept back
    assert at_once(simulation, TEXT[200:300], 60) is None, "9 are free, and one of them is kept back"
    simulation.step(), simulation.step()
    assert simulation.scheduler.cache.free > 10, "which the first one has not taken yet"
    assert at_once(simulation, TEXT[200:300], 60) is None
    assert at_once(simulation, TEXT[200:250], 60), "this one fits"
    assert simulation.scheduler.blocks_promised >= 8
    simulation.run()
    assert simulation.scheduler.blocks_promised == 0


def test_what_is_in_use_already_needs_no_memory_again():
    simulation = Simulation(blocks=20, max_batch=8)
    assert at_once(simulation, TEXT[:160], 40)
    run_until(simulation, lambda: simulation.scheduler.cache.held >= 11)
    assert at_once(simulation, TEXT[200:360], 40) is None
    assert at_once(simulation, [*TEXT[:160], 9, 9, 9], 40)
    simulation.run()


def test_what_was_allowed_before_an_idle_time_refuses_nobody():
    simulation = Simulation(max_batch=8, target_seconds=1e-9)
    assert at_once(simulation, TEXT[:100], 5)
    simulation.run()
    assert simulation.scheduler.allowance.sequences == 1
    assert at_once(simulation, TEXT[:10], 5)
    assert at_once(simulation, TEXT[20:30], 5), "whatever the step will allow, nothing is known of it yet"
    simulation.run()


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_who_was_granted_a_place_never_waits_for_memory(data):
    simulation = Simulation(blocks=24, max_batch=6)
    for _ in range(data.draw(st.integers(5, 40))):
        start, length = data.draw(st.integers(0, 3)) * 50, data.draw(st.integers(1, 150))
        at_once(simulation, TEXT[start : start + length], data.draw(st.integers(1, 60)))
        for _ in range(data.draw(st.integers(0, 4))):
            simulation.step()
            assert not simulation.scheduler.starved_of_blocks
    simulation.run()
    assert simulation.scheduler.counters.preemptions == 0
