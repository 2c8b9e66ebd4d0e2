"""Tokens that are guessed in advance: what is looked up, and what the scheduler makes of right and wrong."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import EOS, GREEDY, Simulation

from ridgeline.engine.core.drafting import KEY_TOKENS, PromptLookup
from ridgeline.engine.core.limits import MOST_DRAFTED
from ridgeline.engine.core.sequence import Sequence, SequenceSpec
from ridgeline.engine.options import EngineOptions


def sequence(prompt, answer=()):
    spec = SequenceSpec("s", tuple(prompt), GREEDY, 100)
    return Sequence(spec, 0.0, [*prompt, *answer])


def run(answer, drafter, room=MOST_DRAFTED - 1, prompt=()):
    """An answer drawn with drafts: steps that it took, tokens drafted, tokens accepted."""
    known, steps, drafted, accepted = sequence(prompt), 0, 0, 0
    while known.generated < len(answer):
        left = answer[known.generated :]
        drafts = drafter.draft(known, min(room, len(left) - 1)) if len(left) > 1 else ()
        right = 0
        while right < len(drafts) and drafts[right] == left[right]:
            right += 1
        known.tokens += left[: right + 1]
        if drafts:
            drafter.told(known, len(drafts), right)
        steps, drafted, accepted = steps + 1, drafted + len(drafts), accepted + right
    return steps, drafted, accepted


def test_what_followed_before_is_drafted():
    lookup = PromptLookup(4)
    known = sequence([1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3])
    assert lookup.draft(known, 4) == (4,), "at first one is tried"
    lookup.told(known, 1, 1)
    known.tokens += [4, 5]
    assert lookup.draft(known, 4) == (6, 7)
    assert lookup.draft(known, 1) == (6,), "no more than there is room for"
    lookup.told(known, 2, 0)
    assert lookup.draft(known, 4) == (6,)


def test_of_several_places_the_latest_counts():
    assert PromptLookup(1).draft(sequence([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3]), 1) == (8,)


@pytest.mark.parametrize("tokens", [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 9, 1, 2]])
def test_what_has_not_been_there_is_not_drafted(tokens):
    assert PromptLookup(4).draft(sequence(tokens), 4) == ()


def test_a_run_may_overlap_with_itself():
    lookup = PromptLookup(5)
    known = sequence([5] * KEY_TOKENS + [5])
    for drafts in ((5,), (5, 5), (5, 5, 5, 5), (5, 5, 5, 5, 5)):
        assert lookup.draft(known, 7) == drafts
        lookup.told(known, len(drafts), len(drafts))
    steps, _, _ = run([1, 2] * 100, PromptLookup(7))
    assert steps < 40


def test_a_quoted_text_takes_a_fraction_of_the_steps():
    text = random.Random(3).choices(range(1000), k=200)
    steps, drafted, accepted = run(text, PromptLookup(7), prompt=text)
    assert steps < 40 and accepted > 0.95 * drafted


def test_what_does_not_repeat_itself_costs_nothing():
    text = random.Random(4).choices(range(1000), k=400)
    assert run(text, PromptLookup(7)) == (400, 0, 0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.integers(1, 7))
def test_however_wrong_it_is_no_step_draws_nothing(text, most):
    steps, drafted, accepted = run(text, PromptLookup(most))
    assert steps + accepted == len(text)
    assert accepted <= drafted <= most * steps


def test_right_drafts_save_steps_and_wrong_ones_cost_none():
    steps = {}
    for name, right in (("none", None), ("right", [True]), ("wrong", [False])):
        simulation = Simulation(depth=0, right=right)
        simulation.submit(range(1, 30), 41, stop_token_ids=frozenset())
        simulation.run()
        steps[name] = simulation.steps
    assert steps["wrong"] == steps["none"] == 41
    assert steps["right"] == 1 + 40 / MOST_DRAFTED


def test_an_answer_ends_where_it_ends_though_more_was_drafted():
    simulation = Simulation(depth=0, right=[True])
    names = [simulation.submit(range(i, i + 20), 200) for i in range(1, 12)]
    simulation.run()  # checks all answers
    assert {simulation.ended[name] for name in names} == {"stop"}
    assert all(simulation.answers[name][-1] == EOS for name in names)
    assert simulation.scheduler.counters.accepted > 0


def test_many_sequences_leave_no_room_for_drafts():
    simulation = Simulation(depth=0, max_batch=MOST_DRAFTED, right=[True])
    for i in range(MOST_DRAFTED):
        simulation.submit(range(i + 1, i + 9), 30, stop_token_ids=frozenset())
    counters = simulation.scheduler.counters
    for _ in range(5):  # until all of them decode
        simulation.step()
    before = counters.drafted
    for _ in range(15):
        simulation.step()
    assert counters.drafted == before
    simulation.run()


def test_beside_a_prompt_nothing_is_drafted():
    """Not even where drafts would leave no room for it."""
    simulation = Simulation(depth=0, max_batch=2, max_batch_tokens=4, right=[True])
    simulation.submit(range(1, 9), 60, stop_token_ids=frozenset())
    for _ in range(8):
        simulation.step()
    counters = simulation.scheduler.counters
    before = counters.drafted
    assert before > 0
    late = simulation.submit(range(9, 49), 2, stop_token_ids=frozenset())
    while not simulation.answers[late]:
        simulation.step()
        assert counters.drafted == before or simulation.answers[late]
    simulation.run()


def test_few_sequences_share_the_room():
    simulation = Simulation(depth=0, right=[True])
    for i in range(3):
        simulation.submit(range(i + 1, i + 9), 30, stop_token_ids=frozenset())
    simulation.run()
    assert simulation.scheduler.counters.accepted >= 40


def test_drafts_put_nobody_aside():
    """Two that fill the memory but for a block: drafts that would need one more are left out."""
    simulation = Simulation(depth=0, blocks=9, right=[True], expected_output_tokens=1)
    for start in (1, 30):
        simulation.submit(range(start, start + 40), 30, stop_token_ids=frozenset())
    simulation.run()
    plain = Simulation(depth=0, blocks=9, expected_output_tokens=1)
    for start in (1, 30):
        plain.submit(range(start, start + 40), 30, stop_token_ids=frozenset())
    plain.run()
    assert simulation.scheduler.counters.preemptions <= plain.scheduler.counters.preemptions
    assert simulation.scheduler.counters.accepted > 0


def test_options_name_the_limit():
    with pytest.raises(ValueError, match="draft_tokens must be from 0 to 7, it is 8"):
        EngineOptions(draft_tokens=8)
    with pytest.raises(ValueError, match=r"draft_tokens is 2, but on simulated:h100 .* must be 0"):
        EngineOptions(device="simulated:h100", draft_tokens=2)
