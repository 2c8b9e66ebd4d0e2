"""Made conversations and arrival times: the same for the same seed, and as asked."""

from itertools import islice

import pytest

from ridgeline.bench.workload import Shape, made_conversations, poisson_starts


def test_made_conversations_keep_to_their_shape() -> None:
    made = list(islice(made_conversations(Shape(3, 360, 40, 48), seed=1), 20))
    assert {c.system for c in made} == {made[0].system}
    assert len(made[0].system.split()) == 360
    assert all(len(c.questions) == 3 and c.max_tokens == 48 for c in made)
    assert all(len(question.split()) == 40 for c in made for question in c.questions)
    questions = [question for c in made for question in c.questions]
    assert len(set(questions)) == len(questions)


def test_the_seed_decides() -> None:
    shape = Shape(2, 5, 5, 5)
    first, again, other = (list(islice(made_conversations(shape, seed), 4)) for seed in (1, 1, 2))
    assert first == again
    assert first[0].questions != other[0].questions


def test_poisson_starts_have_the_rate_asked_for() -> None:
    starts = list(islice(poisson_starts(4.0, seed=3), 4000))
    assert starts == sorted(starts)
    assert starts[-1] / 4000 == pytest.approx(1 / 4.0, rel=0.05)
    assert starts == list(islice(poisson_starts(4.0, seed=3), 4000))
