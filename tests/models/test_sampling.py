"""Drawing tokens: filters against a plain model, draws against the exact distribution."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.models.filters import draw
from ridgeline.models.logits import SamplingState
from ridgeline.models.sampling import sample, score
from ridgeline.models.uniform import splitmix64, uniform
from ridgeline.protocol import Sampling

GREEDY = Sampling(temperature=0.0)


def plain_distribution(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Probabilities after temperature, min_p, top_k and top_p, by sorting everything."""
    heights = (logits - logits.max()).astype(np.float64) / sampling.temperature
    weights = np.exp(heights)
    weights[weights < sampling.min_p] = 0.0
    ordered = np.sort(weights)[::-1]
    if 0 < sampling.top_k < len(weights):
        weights[weights < ordered[sampling.top_k - 1]] = 0.0
    ordered = np.sort(weights)[::-1]
    if sampling.top_p < 1.0:
        reached = np.searchsorted(np.cumsum(ordered), sampling.top_p * ordered.sum())
        weights[weights < ordered[min(reached, len(ordered) - 1)]] = 0.0
    return weights / weights.sum()


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    top_k=st.sampled_from([0, 1, 2, 50, 127, 128, 129, 2047, 2500, 9999]),
    min_p=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(samplings, st.floats(0.01, 0.99)), min_size=1, max_size=5),
    vocab=st.sampled_from([5, 128, 300, 3001]),
    spread=st.sampled_from([0.01, 1.0, 8.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_draw_is_the_plain_inverse_cdf_of_each_row(
    rows: list[tuple[Sampling, float]], vocab: int, spread: float, seed: int
) -> None:
    logits = torch.randn(len(rows), vocab, generator=torch.Generator().manual_seed(seed)) * spread
    drawn = draw(logits, [sampling for sampling, _ in rows], [u for _, u in rows])
    for token, row, (sampling, u) in zip(drawn, logits.numpy(), rows, strict=True):
        distribution = plain_distribution(row, sampling)
        below = distribution[:token].sum()
        # Within rounding of the float32 exponentials the token's own interval holds u.
        assert below - 1e-5 <= u <= below + distribution[token] + 1e-5
        assert distribution[token] > 0 or abs(below - u) < 1e-5


@settings(max_examples=60, deadline=None)
@given(st.lists(samplings, min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_a_row_does_not_depend_on_the_batch_around_it(rows: list[Sampling], seed: int) -> None:
    logits = torch.randn(len(rows), 3001, generator=torch.Generator().manual_seed(seed))
    uniforms = [uniform(seed, i) for i in range(len(rows))]
    together = draw(logits, rows, uniforms)
    alone = [draw(logits[i : i + 1], rows[i : i + 1], uniforms[i : i + 1])[0] for i in range(len(rows))]
    assert together == alone


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.7),
        Sampling(min_p=0.1),
        Sampling(top_k=5),
        Sampling(top_p=0.8),
        Sampling(temperature=1.5, top_k=20, top_p=0.9, min_p=0.02),
    ],
    ids=str,
)
def test_draws_follow_the_exact_distribution(sampling: Sampling) -> None:
    """Chi-square over 20,000 draws of fixed seeds; the bound is its 99.9 % point (Wilson-Hilferty)."""
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(3)) * 1.5
    draws = 20_000
    uniforms = [uniform(seed, position) for seed in range(200) for position in range(draws // 200)]
    tokens = draw(logits.expand(draws, -1), [sampling] * draws, uniforms)
    expected = plain_distribution(logits[0].numpy(), sampling) * draws
    observed = np.bincount(tokens, minlength=40)
    assert observed[expected == 0].sum() == 0
    kept = expected > 0
    freedom = kept.sum() - 1
    statistic = ((observed[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    bound = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < bound


def test_equal_probabilities_are_kept_together() -> None:
    logits = torch.tensor([[2.0, 5.0, 5.0, 5.0, 1.0]])
    drawn = {draw(logits, [Sampling(top_k=1)], [u])[0] for u in (0.0, 0.5, 0.99)}
    assert drawn == {1, 2, 3}


def test_flat_distributions_reach_beyond_the_candidates() -> None:
    logits = torch.zeros(2, 5000)
    logits[0, 4999] = 0.001
    drawn = draw(logits, [Sampling(top_p=0.99), Sampling(top_k=3000)], [0.5, 0.999])
    assert drawn[0] == pytest.approx(2500, abs=2)
    assert drawn[1] == 4995


def test_splitmix64_gives_the_published_sequence() -> None:
    """From the reference implementation started at 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix64(1234567, n) for n in range(4)] == expected


def test_uniforms_are_even_and_neighbouring_seeds_unrelated() -> None:
    by_seed = np.array([[uniform(seed, position) for position in range(500)] for seed in range(40)])
    assert 0.0 <= by_seed.min() < by_seed.max() < 1.0
    counts = np.histogram(by_seed, bins=100, range=(0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 149  # 99.9 % point at 99 degrees of freedom
    correlations = np.corrcoef(by_seed)[np.triu_indices(40, 1)]
    assert abs(correlations).max() < 0.2
    assert uniform(-1, 0) == uniform(2**64 - 1, 0)


def states(*samplings: Sampling, prompt: tuple[int, ...] = (1, 2)) -> list[SamplingState]:
    return [SamplingState(sampling, prompt) for sampling in samplings]


def test_same_seed_and_position_draw_the_same_token() -> None:
    logits = torch.zeros(3, 1000)
    a, b, other = sample(
        logits, states(Sampling(seed=5), Sampling(seed=5), Sampling(seed=6)), positions=[7, 7, 7]
    )
    assert a == b != other
    assert sample(logits[:1].clone(), states(Sampling(seed=5)), [8])[0] != a


def test_greedy_takes_the_largest_also_beside_drawn_rows() -> None:
    logits = torch.randn(4, 300)
    best = logits.argmax(-1).tolist()
    assert [d.token_id for d in sample(logits.clone(), states(*[GREEDY] * 4), [0] * 4)] == best
    mixed = sample(logits.clone(), states(GREEDY, Sampling(seed=1), GREEDY, Sampling(seed=2)), [0] * 4)
    assert [mixed[0].token_id, mixed[2].token_id] == [best[0], best[2]]


def plain_penalties(
    logits: np.ndarray, sampling: Sampling, prompt: list[int], answer: list[int]
) -> np.ndarray:
    """Bias first, then the three penalties, one token at a time."""
    changed = logits.astype(np.float64).copy()
    for token, bias in sampling.logit_bias.items():
        changed[token] += bias
    for token in set(prompt) | set(answer):
        if changed[token] > 0:
            changed[token] /= sampling.repetition_penalty
        else:
            changed[token] *= sampling.repetition_penalty
    for token in set(answer):
        changed[token] -= sampling.frequency_penalty * answer.count(token) + sampling.presence_penalty
    return changed


@settings(max_examples=100, deadline=None)
@given(
    sampling=st.builds(
        Sampling,
        repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]),
        presence_penalty=st.sampled_from([0.0, -2.0, 0.7]),
        frequency_penalty=st.sampled_from([0.0, 1.1, -0.3]),
        logit_bias=st.dictionaries(st.integers(0, 149), st.floats(-100, 100), max_size=5),
    ),
    prompt=st.lists(st.integers(0, 149), min_size=1, max_size=30),
    before=st.lists(st.integers(0, 149), max_size=80),
    drawn=st.lists(st.integers(0, 149), max_size=80),
)
def test_penalties_and_bias_are_those_of_the_plain_model(
    sampling: Sampling, prompt: list[int], before: list[int], drawn: list[int]
) -> None:
    state = SamplingState(sampling, prompt, before)
    for token in drawn:
        state.record(token)
    row = torch.linspace(-4, 4, 150)
    expected = plain_penalties(row.numpy(), sampling, prompt, before + drawn)
    if state.adjusts:
        state.adjust(row)
    np.testing.assert_allclose(row.numpy(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(seed=1), Sampling(seed=1, top_p=0.9), GREEDY])
def test_a_tiny_repetition_penalty_breaks_no_step_for_the_others(sampling: Sampling) -> None:
    logits = torch.randn(2, 300).mul_(5)
    tiny = SamplingState(replace(sampling, repetition_penalty=1e-300), range(50))
    alone = sample(logits[1:].clone(), [SamplingState(Sampling(seed=2), ())], [3])[0].token_id
    drawn = sample(logits, [tiny, SamplingState(Sampling(seed=2), ())], [3, 3])
    assert drawn[0].token_id < 50
    assert drawn[1].token_id == alone


def test_settings_that_change_nothing_cost_nothing() -> None:
    assert not SamplingState(Sampling(), (1, 2)).adjusts
    assert not SamplingState(Sampling(), (1, 2), banned_token_ids=(0,)).adjusts


def test_banned_tokens_are_free_once_enough_is_generated() -> None:
    logits = torch.zeros(1, 10)
    logits[0, 3] = 50.0
    state = SamplingState(GREEDY, (1,), answer=(4,), banned_token_ids=(3,), min_tokens=3)
    drawn = [sample(logits.clone(), [state], [2 + i])[0].token_id for i in range(3)]
    assert drawn[0] != 3
    assert drawn[1] != 3
    assert drawn[2] == 3


def test_logprobs_are_of_the_raw_distribution() -> None:
    logits = torch.randn(2, 100)
    expected = logits.log_softmax(-1)
    asked = Sampling(temperature=0.5, logprobs=3, logit_bias={4: 100.0}, seed=1)
    with_top, without = sample(logits.clone(), states(asked, replace(asked, logprobs=0)), [0, 0])
    assert with_top.score is not None
    assert without.score is not None
    assert with_top.token_id == 4
    assert with_top.score.logprob == pytest.approx(expected[0, 4].item(), abs=1e-5)
    assert [i for i, _ in with_top.score.top] == expected[0].topk(3).indices.tolist()
    assert [v for _, v in with_top.score.top] == pytest.approx(expected[0].topk(3).values.tolist(), abs=1e-5)
    assert without.score.top == ()


def test_scores_only_where_asked_and_never_more_than_the_vocabulary() -> None:
    logits = torch.randn(2, 5)
    none, all_of_it = sample(logits, states(GREEDY, replace(GREEDY, logprobs=20)), [0, 0])
    assert none.score is None
    assert all_of_it.score is not None
    assert len(all_of_it.score.top) == 5


def test_score_of_given_tokens() -> None:
    logits = torch.randn(3, 50)
    for i, scored in enumerate(score(logits, [9, 8, 7], top=2)):
        assert scored.token_id == 9 - i
        assert scored.logprob == pytest.approx(logits[i].log_softmax(-1)[9 - i].item(), abs=1e-5)
        assert len(scored.top) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_is_drawn_of_non_finite_logits_and_the_other_rows_go_on(bad: float) -> None:
    logits = torch.randn(3, 300)
    alone = sample(logits[2:].clone(), states(Sampling(seed=1)), [13])
    logits[1, 17] = bad
    drawn = sample(logits, states(GREEDY, GREEDY, Sampling(seed=1)), [11, 12, 13])
    assert drawn[0] is not None and drawn[0].token_id == int(logits[0].argmax())
    assert drawn[1] is None
    assert drawn[2:] == alone


def test_peaks_that_are_known_are_taken_where_nothing_else_matters() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    places = logits.argmax(-1).tolist()
    greedy, warm = Sampling(temperature=0.0), Sampling(temperature=0.7, seed=3)
    scored, biased = replace(greedy, logprobs=0), replace(greedy, logit_bias={7: 90.0})
    for chosen in ([greedy] * 3, [greedy, warm, scored], [biased, greedy, greedy]):
        plain, known = states(*chosen), states(*chosen)
        wanted = sample(logits.clone(), plain, [5, 6, 7])
        assert sample(logits.clone(), known, [5, 6, 7], places) == wanted
    wrong = [1, 2, 3]
    assert [
        drawn.token_id for drawn in sample(logits, states(*[greedy] * 3), [5, 6, 7], wrong) if drawn
    ] == wrong
    spoilt = sample(logits.clone(), states(greedy, warm, greedy), [5, 6, 7], [places[0], -1, places[2]])
    assert spoilt[1] is None and [spoilt[0].token_id, spoilt[2].token_id] == [places[0], places[2]]
