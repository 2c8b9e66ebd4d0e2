"""Named workloads: drawn as described, the same for the same seed, within a model's context."""

import csv
import os
import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.bench.distributions import Fixed, Geometric, LogNormal, Mixed, Quantiles
from ridgeline.bench.profiles import WORKLOADS, overridden
from ridgeline.bench.wording import Wording
from ridgeline.bench.workload import Cuts, profile_conversations

DRAWN = 20_000


def drawn(distribution: object, count: int = DRAWN) -> np.ndarray:
    draw = random.Random(1)
    return np.array([distribution.sample(draw) for _ in range(count)])  # type: ignore[attr-defined]


def test_what_is_drawn_is_what_is_described() -> None:
    log_normal = drawn(LogNormal(100, 1.07))
    assert np.median(log_normal) == pytest.approx(100, rel=0.05)
    assert np.std(np.log(log_normal)) == pytest.approx(1.07, rel=0.03)
    turns = drawn(Geometric(3.5, high=1000))
    assert turns.min() == 1
    assert turns.mean() == pytest.approx(3.5, rel=0.03)
    # Geometric: after each turn the chance of one more is the same.
    assert (turns >= 3).mean() / (turns >= 2).mean() == pytest.approx(1 - 1 / 3.5, rel=0.03)
    mixed = drawn(Mixed(Fixed(1), Fixed(2), share=0.1))
    assert mixed.mean() == pytest.approx(1.1, rel=0.01)


@given(st.floats(1, 1e4), st.floats(0, 3), st.floats(0, 100), st.floats(100, 1e5), st.integers())
def test_bounds_hold(median: float, sigma: float, low: float, high: float, seed: int) -> None:
    value = LogNormal(median, sigma, low, high).sample(random.Random(seed))
    assert low <= value <= high


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0, 1e5)), max_size=8), st.integers())
def test_quantiles_stay_within_their_ends(inner: list[tuple[float, float]], seed: int) -> None:
    between = sorted({share for share, _ in inner})
    points = list(
        zip([0.0, *between, 1.0], sorted([0.0, *[f for _, f in inner][: len(between)], 2e5]), strict=False)
    )
    value = Quantiles(tuple(points)).sample(random.Random(seed))
    assert points[0][1] <= value <= points[-1][1]


def test_chat_is_what_its_sources_say() -> None:
    chats = list(islice(profile_conversations(WORKLOADS["chat"], seed=3), 3000))
    assert np.mean([len(chat.questions) for chat in chats]) == pytest.approx(3.5, rel=0.05)
    thinks = np.array([think for chat in chats for think in chat.think_seconds])
    assert np.quantile(thinks, [0.1, 0.5, 0.9]) == pytest.approx([25, 100, 394], rel=0.1)
    assert np.mean([t for chat in chats for t in chat.answer_tokens]) == pytest.approx(300, rel=0.05)
    later = [len(question.split()) for chat in chats for question in chat.questions[1:]]
    assert np.mean(later) == pytest.approx(94, rel=0.05)
    pasted = np.mean([len(chat.questions[0].split()) >= 2000 for chat in chats])
    assert pasted == pytest.approx(0.1, abs=0.02)
    assert len({chat.system for chat in chats}) == 1
    assert len(chats[0].system.split()) == 512


def test_the_seed_decides_and_speed_divides_pauses_alone() -> None:
    chat = WORKLOADS["chat"]
    first = list(islice(profile_conversations(chat, 1), 5))
    fast = list(islice(profile_conversations(chat, 1, speed_up=10), 5))
    other = list(islice(profile_conversations(chat, 2), 5))
    assert [c.questions for c in first] == [c.questions for c in fast]
    assert first[0].questions != other[0].questions
    for slow, quick in zip(first, fast, strict=True):
        assert quick.think_seconds == pytest.approx([think / 10 for think in slow.think_seconds])


def test_single_figures_can_be_fixed() -> None:
    profile = overridden(
        WORKLOADS["chat"], turns=2, system_tokens=0, input_tokens=7, output_tokens=9, think_seconds=1.5
    )
    (made,) = islice(profile_conversations(profile, 1), 1)
    assert [len(question.split()) for question in made.questions] == [7, 7]
    assert (made.system, made.answer_tokens, made.think_seconds) == ("", (9, 9), (1.5, 1.5))
    assert overridden(WORKLOADS["chat"]) == WORKLOADS["chat"]


def test_words_are_as_many_as_the_server_takes_tokens() -> None:
    wording = Wording(tokens_per_word=5.0, overhead_tokens=20)
    assert wording.words_for(100) == 20
    assert wording.words_for(120, whole_prompt=True) == 20
    assert wording.words_for(1) == 1


@given(st.integers(64, 6000), st.integers(0, 50), st.floats(1, 6), st.sampled_from(sorted(WORKLOADS)))
def test_conversations_fit_the_context(context: int, seed: int, per_word: float, name: str) -> None:
    profile = overridden(WORKLOADS[name], system_tokens=16)
    wording, cuts = Wording(per_word, 12.0), Cuts()
    for chat in islice(profile_conversations(profile, seed, wording, 1.0, context, cuts), 5):
        tokens = 16.0
        for question, answer in zip(chat.questions, chat.answer_tokens, strict=True):
            tokens += 12 + len(question.split()) * per_word + answer
        # Words are whole, so each question may be half a word too long, or one word of a few tokens.
        assert tokens <= context + per_word * len(chat.questions)
        assert chat.questions


def test_what_did_not_fit_is_counted() -> None:
    profile = overridden(WORKLOADS["chat"], turns=4, system_tokens=0, input_tokens=100, output_tokens=50)
    cuts = Cuts()
    (made,) = islice(profile_conversations(profile, 1, context_tokens=320, cuts=cuts), 1)
    assert (len(made.questions), cuts.turns, cuts.shortened) == (2, 2, 0)
    (made,) = islice(profile_conversations(profile, 1, context_tokens=80, cuts=cuts), 1)
    assert (len(made.questions), cuts.turns, cuts.shortened) == (1, 5, 1)
    assert len(made.questions[0].split()) + made.answer_tokens[0] == 80


@pytest.mark.needs_data
@pytest.mark.skipif("RIDGELINE_TEST_DATA" not in os.environ, reason="RIDGELINE_TEST_DATA is not set")
def test_summaries_are_as_long_as_those_of_the_data() -> None:
    file = Path(os.environ["RIDGELINE_TEST_DATA"]) / "arxiv-summarisation-lengths.csv"
    rows = list(csv.DictReader(file.open()))
    profile = WORKLOADS["summarise"]
    for column, distribution in (
        ("num_prefill_tokens", profile.first_tokens),
        ("num_decode_tokens", profile.answer_tokens),
    ):
        real = np.array([float(row[column]) for row in rows])
        made = drawn(distribution)
        shares = [0.1, 0.25, 0.5, 0.75, 0.9]
        assert np.quantile(made, shares) == pytest.approx(np.quantile(real, shares), rel=0.06)
        assert made.mean() == pytest.approx(real.mean(), rel=0.05)
