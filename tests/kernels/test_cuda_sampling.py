"""Drawing on a GPU against drawing on a CPU and against float64, in Triton's interpreter."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.kernels.cuda import sampling as kernels
from ridgeline.kernels.cuda.sampling import DrawSettings, draw, resolve_tokens
from ridgeline.models import sampling as cpu_sampling
from ridgeline.models.filters import draw as cpu_draw
from ridgeline.models.sampling import finite_rows
from ridgeline.models.uniform import uniform
from ridgeline.protocol import Sampling

# What overflows to infinity on the way is meant to.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAST = 1 - 2.0**-24
"""The largest float32 below 1."""

NEAR = 1e-5
"""Where a uniform number lies nearer than this to a border between two tokens, either may be drawn:
sums are in float32 on one side, in float64 on the other."""

samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.7]),
    top_p=st.sampled_from([1e-6, 0.05, 0.5, 0.9, 0.999, 1.0]),
    top_k=st.sampled_from([0, 1, 2, 50, 600, 4000, 99_999]),
    min_p=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
)


def settings_of(rows: list[Sampling], uniforms: list[float], slots: list[int] | None = None) -> DrawSettings:
    def floats(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=DEVICE)

    def integers(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=DEVICE)

    return DrawSettings(
        temperature=floats([s.temperature for s in rows]),
        top_k=integers([s.top_k for s in rows]),
        top_p=floats([s.top_p for s in rows]),
        min_p=floats([s.min_p for s in rows]),
        uniform=floats(uniforms),
        slot=integers(list(range(len(rows))) if slots is None else slots),
    )


def drawn_by_kernel(logits: torch.Tensor, rows: list[Sampling], uniforms: list[float]) -> list[int]:
    drawn = torch.full((len(rows),), -7, dtype=torch.int32, device=DEVICE)
    tokens = draw(logits.to(DEVICE), settings_of(rows, uniforms), drawn).tolist()
    assert drawn.tolist() == [max(token, 0) for token in tokens]
    return tokens


def distribution(logits: torch.Tensor, sampling: Sampling, top_p: float) -> np.ndarray:
    """Probabilities [vocab] in float64 after min_p, top_k and `top_p`, by sorting everything."""
    heights = ((logits - logits.max()) / np.float32(sampling.temperature)).numpy()
    weights = np.exp(heights.astype(np.float64))
    kept = heights >= (math.log(sampling.min_p) if sampling.min_p else -math.inf)
    if 0 < sampling.top_k < len(heights):
        kept &= heights >= np.sort(heights)[-sampling.top_k]
    if sampling.top_p < 1.0:
        descending = np.sort(heights[kept])[::-1]
        masses = np.cumsum(np.exp(descending.astype(np.float64)))
        place = int(np.searchsorted(masses, top_p * masses[-1]))
        kept &= heights >= descending[min(place, len(descending) - 1)]
    return np.where(kept, weights, 0.0) / weights[kept].sum()


def check_row(logits: torch.Tensor, sampling: Sampling, u: float, token: int, near: float = NEAR) -> None:
    """The token is the CPU's, unless u is near a border, or top_p is so near a border of its own that
    the next token may be kept or not; then it is the one at u, within `near`, of either kept set."""
    if sampling.temperature < cpu_sampling.GREEDY_BELOW:
        assert token == int(logits.argmax())
        return
    exact = [distribution(logits, sampling, sampling.top_p * (1 + shift)) for shift in (0.0, -1e-6, 1e-6)]
    intervals = [(p[:token].sum(), p[: token + 1].sum()) for p in exact if p[token] > 0]
    assert any(low - near <= u <= high + near for low, high in intervals), (token, u, intervals)
    borders = np.cumsum(exact[0])
    certain = all(np.array_equal(exact[0], other) for other in exact[1:])
    if certain and np.abs(borders - u).min() > near and u > near:
        assert [token] == cpu_draw(logits[None], [sampling], [u])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(samplings, st.floats(0, LAST, width=32)), min_size=1, max_size=3),
    vocab=st.sampled_from([8, 320, 321, 5008, 7001, 20_000]),
    spread=st.sampled_from([0.01, 1.0, 8.0]),
    step=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_draws_the_tokens_that_the_cpu_draws(
    rows: list[tuple[Sampling, float]], vocab: int, spread: float, step: float, seed: int
) -> None:
    logits = torch.randn(len(rows), vocab, generator=torch.Generator().manual_seed(seed)) * spread
    if step:  # many ties
        logits = (logits / step).round() * step
    tokens = drawn_by_kernel(logits, [sampling for sampling, _ in rows], [u for _, u in rows])
    for token, row, (sampling, u) in zip(tokens, logits, rows, strict=True):
        check_row(row, sampling, u, token)


def test_large_vocabulary() -> None:
    vocab = 49_152
    rows = [
        Sampling(temperature=0.0),
        Sampling(),
        Sampling(temperature=0.7, top_k=20, top_p=0.8),
        Sampling(top_p=0.95, min_p=0.001),
    ]
    logits = torch.randn(len(rows), vocab, generator=torch.Generator().manual_seed(vocab)) * 3
    uniforms = [0.5, 0.625, 0.375, 0.75]
    tokens = drawn_by_kernel(logits, rows, uniforms)
    for row, sampling, u, token in zip(logits, rows, uniforms, tokens, strict=True):
        check_row(row, sampling, u, token)


def test_sums_over_a_whole_vocabulary_are_good_to_a_millionth() -> None:
    logits = torch.randn(1, 128_256, generator=torch.Generator().manual_seed(5)) * 0.5
    rows, uniforms = [Sampling(), Sampling(), Sampling(top_k=50, top_p=0.95)], [0.25, 0.9, 0.5]
    tokens = drawn_by_kernel(logits.expand(3, -1), rows, uniforms)
    for sampling, u, token in zip(rows, uniforms, tokens, strict=True):
        check_row(logits[0], sampling, u, token, near=1e-6)


@pytest.mark.parametrize(
    ("sampling", "draws"), [(Sampling(temperature=0.7, min_p=0.02), 150), (Sampling(top_k=5, top_p=0.99), 30)]
)
def test_frequencies_are_the_probabilities(sampling: Sampling, draws: int) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 1.1, 0.0, 1.9, -0.4, 0.8])
    uniforms = [min(uniform(11, i), LAST) for i in range(draws)]
    counted = Counter(drawn_by_kernel(logits.expand(draws, -1), [sampling] * draws, uniforms))
    expected = distribution(logits, sampling, sampling.top_p) * draws
    kept = np.flatnonzero(expected).tolist()
    assert set(counted) <= set(kept)
    chi_square = sum((counted[i] - expected[i]) ** 2 / expected[i] for i in kept)
    # Exceeded with a probability of 0.001 at 8 - 1 degrees of freedom, and more rarely at fewer.
    assert chi_square < 24.3


def test_greedy_takes_the_first_of_several_maxima() -> None:
    logits = torch.zeros(3, 9000)
    logits[0, [8999, 4097, 4100]] = 1.0
    logits[1, [5000, 904]] = 1.0  # the same lane
    tokens = drawn_by_kernel(logits, [Sampling(temperature=0.0)] * 3, [0.9] * 3)
    assert tokens == [4097, 904, 0]


def test_greedy_and_drawn_rows_mix() -> None:
    logits = torch.randn(6, 321, generator=torch.Generator().manual_seed(2))
    rows = [Sampling(temperature=0.0), Sampling(), Sampling(top_k=3)] * 2
    uniforms = [0.1, 0.3, 0.5, 0.7, 0.8, 0.95]
    together = drawn_by_kernel(logits, rows, uniforms)
    alone = [drawn_by_kernel(logits[i : i + 1], rows[i : i + 1], uniforms[i : i + 1])[0] for i in range(6)]
    assert together == alone
    for row, sampling, u, token in zip(logits, rows, uniforms, together, strict=True):
        check_row(row, sampling, u, token)


@pytest.mark.parametrize("vocab", [321, 20_000])
def test_tiny_top_p_keeps_the_best_and_its_ties(vocab: int) -> None:
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(4))
    logits[[7, 200]] = 9.0
    rows, uniforms = [Sampling(top_p=1e-7)] * 3, [0.0, 0.499, LAST]
    assert drawn_by_kernel(logits.expand(3, -1), rows, uniforms) == [7, 7, 200]


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_k=3), Sampling(top_p=0.5), Sampling(min_p=1.0)]
)
@pytest.mark.parametrize("vocab", [320, 20_000])
def test_equal_logits_are_all_kept(vocab: int, sampling: Sampling) -> None:
    logits = torch.full((3, vocab), 2.5)
    uniforms = [0.0, 10.5 / vocab, LAST]
    assert drawn_by_kernel(logits, [sampling] * 3, uniforms) == [0, 10, vocab - 1]


@pytest.mark.parametrize("kept", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("by_mass", [False, True])
def test_the_best_may_share_a_lane(kept: int, by_mass: bool) -> None:
    logits = torch.full((1, 5 * kernels._BLOCK), -50.0)
    ids = 9 + kernels._BLOCK * torch.arange(5)
    logits[0, ids] = 1 - torch.arange(5) * 2.0**-10
    sampling = Sampling(top_p=(kept - 0.5) / 5) if by_mass else Sampling(top_k=kept)
    assert drawn_by_kernel(logits, [sampling], [LAST]) == [int(ids[kept - 1])]


@pytest.mark.parametrize("spread", [0.01, 1.5, 2.5])
def test_kept_sets_that_reach_beyond_the_largest_of_each_lane(spread: float) -> None:
    rows = [
        Sampling(top_p=0.3),
        Sampling(top_p=0.9),
        Sampling(top_p=0.6, min_p=0.001),
        Sampling(top_k=5000, top_p=0.8),
    ]
    logits = torch.randn(len(rows), 20_000, generator=torch.Generator().manual_seed(8)) * spread
    uniforms = [0.35, 0.45, 0.55, 0.65]
    tokens = drawn_by_kernel(logits, rows, uniforms)
    for row, sampling, u, token in zip(logits, rows, uniforms, tokens, strict=True):
        check_row(row, sampling, u, token)


def test_ties_that_only_the_temperature_makes_are_kept() -> None:
    temperature = np.float32(1.7)
    gaps = np.float32(1.75) + np.arange(9, dtype=np.float32) * np.float32(2**-23)
    quotients = gaps / temperature
    first = int(np.flatnonzero(quotients[1:] == quotients[:-1])[0])
    # Two logits that differ, of which the division makes one height; the second of them, at the end,
    # would be dropped by its logit.
    logits = torch.full((1, 20_000), -50.0)
    logits[0, 3] = 0.0
    logits[0, 4], logits[0, 19_999] = -float(gaps[first]), -float(gaps[first + 1])
    sampling = Sampling(temperature=1.7, top_k=2)
    assert cpu_draw(logits, [sampling], [LAST]) == [19_999]
    assert drawn_by_kernel(logits, [sampling], [LAST]) == [19_999]


@pytest.mark.parametrize(("top_k", "vocab"), [(2, 320), (2, 20_000), (15_000, 20_000)])
def test_the_nearest_lower_logit_is_dropped(top_k: int, vocab: int) -> None:
    logits = torch.full((1, vocab), -50.0)
    logits[0, :top_k] = -1 - torch.arange(top_k) * 2.0**-20
    logits[0, 0] = 0.0
    logits[0, top_k] = torch.nextafter(logits[0, top_k - 1], torch.tensor(-torch.inf))
    sampling = Sampling(top_k=top_k)
    assert cpu_draw(logits, [sampling], [LAST]) == [top_k - 1]
    assert drawn_by_kernel(logits, [sampling], [LAST]) == [top_k - 1]


def test_the_ends_of_the_unit_interval_fall_on_kept_tokens() -> None:
    logits = torch.full((4, 20_000), 1.0)
    logits[:, :4000] = -9.0
    logits[:, 16_000:] = -9.0
    logits[2:, 16_000:] = -torch.inf
    rows = [Sampling(min_p=0.5), Sampling(top_k=12_000), Sampling(min_p=0.5), Sampling(top_p=0.9)]
    assert drawn_by_kernel(logits, rows, [0.0] * 4) == [4000] * 4
    assert drawn_by_kernel(logits, rows, [LAST] * 4) == [15_999] * 4
    assert drawn_by_kernel(logits, rows, [1.0] * 4) == [15_999] * 4


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_k=40), Sampling(top_p=0.9), Sampling(min_p=0.1)]
)
def test_one_allowed_token_among_banned_ones_is_drawn(sampling: Sampling) -> None:
    logits = torch.full((2, 20_000), -torch.inf)
    logits[:, 1234] = -3.0
    assert drawn_by_kernel(logits, [sampling] * 2, [0.0, LAST]) == [1234, 1234]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_are_not_finite_give_minus_one(temperature: float) -> None:
    logits = torch.zeros(6, 7001)
    logits[0, 0] = torch.nan
    logits[1, 7000] = torch.nan
    logits[2, 4500] = torch.inf
    logits[3] = -torch.inf
    logits[4, 1:] = -torch.inf
    logits[5] = -torch.inf
    logits[5, 77] = torch.nan
    rows = [Sampling(temperature=temperature, seed=1)] * 6
    assert drawn_by_kernel(logits, rows, [0.0] * 6) == [-1, -1, -1, -1, 0, -1]
    assert finite_rows(logits) == [4]


def test_tokens_go_to_their_slots_and_padding_nowhere() -> None:
    logits = torch.eye(4, 400, device=DEVICE)
    logits[2, 0] = torch.nan
    drawn = torch.full((6,), 99, dtype=torch.int32, device=DEVICE)
    chosen = settings_of([Sampling(temperature=0.0)] * 4, [0.0] * 4, slots=[5, -1, 1, 0])
    assert draw(logits, chosen, drawn).tolist() == [0, 1, -1, 3]
    assert drawn.tolist() == [3, 0, 99, 99, 99, 0]


def test_rows_may_lie_apart() -> None:
    wide = torch.randn(4, 400, generator=torch.Generator().manual_seed(6))
    logits = wide[::2, 3:324]
    rows, uniforms = [Sampling(), Sampling(top_p=0.7)], [0.4, 0.6]
    assert drawn_by_kernel(logits, rows, uniforms) == drawn_by_kernel(logits.contiguous(), rows, uniforms)


def test_other_logits_are_refused() -> None:
    drawn = torch.zeros(2, dtype=torch.int32)
    chosen = settings_of([Sampling()] * 2, [0.5] * 2)
    with pytest.raises(ValueError, match=r"must be float32 with contiguous rows, not torch\.float16"):
        draw(torch.zeros(2, 320, dtype=torch.float16), chosen, drawn)
    with pytest.raises(ValueError, match=r"strides \(1, 2\)"):
        draw(torch.zeros(320, 2).T, chosen, drawn)


def test_greedy_begins_where_it_does_on_the_cpu() -> None:
    assert kernels.GREEDY_BELOW.value == cpu_sampling.GREEDY_BELOW


def test_resolve_tokens_takes_what_is_being_drawn() -> None:
    tokens = 300
    ids = torch.arange(tokens, dtype=torch.int32, device=DEVICE)
    slots = (ids * 7) % 11
    drawn = torch.arange(100, 111, dtype=torch.int32, device=DEVICE)
    expected = torch.where(ids % 3 == 0, 100 + slots, ids)
    ids[ids % 3 == 0] = -1
    assert resolve_tokens(ids, slots, drawn).equal(expected)
    assert resolve_tokens(ids[:0], slots[:0], drawn).shape == (0,)


def test_variants_name_the_arguments_of_their_kernels() -> None:
    found = {variant.name: variant for variant in kernels.variants()}
    assert {"draw vocab=128256", "draw vocab=50257", "resolve_tokens", "penalise", "count_drawn"} <= set(
        found
    )
    for variant in found.values():
        assert list(variant.signature) == list(variant.kernel.arg_names)
        constants = {name for name, kind in variant.signature.items() if kind == "constexpr"}
        assert constants == set(variant.constexprs)
