"""Penalties and counts on a GPU against those of a CPU, in Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.kernels.cuda import penalties
from ridgeline.kernels.cuda.penalties import count_drawn, fill_counts, penalise
from ridgeline.models import logits as cpu_logits
from ridgeline.models.logits import SamplingState
from ridgeline.protocol import Sampling

# What overflows to infinity is clamped afterwards.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

penalised = st.builds(
    Sampling,
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3, 1e-38]),
    presence_penalty=st.sampled_from([0.0, -1.5, 0.75]),
    frequency_penalty=st.sampled_from([0.0, 0.3, -2.0]),
)
token_lists = st.lists(st.integers(0, 320), max_size=30)


@settings(max_examples=40, deadline=None)
@given(
    sequences=st.lists(st.tuples(penalised, token_lists, token_lists), min_size=1, max_size=3),
    drawn=st.integers(-1, 320),
    seed=st.integers(0, 2**32 - 1),
)
def test_penalties_are_those_of_the_cpu(
    sequences: list[tuple[Sampling, list[int], list[int]]], drawn: int, seed: int
) -> None:
    size, vocab, slots = len(sequences), 321, 5
    logits = torch.randn(size + 1, vocab, generator=torch.Generator().manual_seed(seed)) * 5
    counts = torch.full((slots, vocab), 9, dtype=torch.int32, device=DEVICE)  # of sequences before
    expected = logits.clone()
    places = [(3 * i + 1) % slots for i in range(size)]
    for i, (sampling, prompt, answer) in enumerate(sequences):
        ids = [torch.tensor(tokens, dtype=torch.int64, device=DEVICE) for tokens in (prompt, answer)]
        fill_counts(counts, places[i], *ids)
        state = SamplingState(sampling, prompt, answer)
        if drawn >= 0:
            state.record(drawn)
        if state.adjusts:
            state.adjust(expected[size - i])

    def integers(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=DEVICE)

    def floats(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=DEVICE)

    count_drawn(counts, integers([*places, -1]), integers([drawn] * size + [5]))
    # Rows from the last to the second, and one of padding.
    given_logits = logits.to(DEVICE)
    penalise(
        given_logits,
        integers([*(size - i for i in range(size)), -1]),
        integers([*places, 0]),
        floats([*(s.repetition_penalty for s, _, _ in sequences), 2.0]),
        floats([*(s.presence_penalty for s, _, _ in sequences), 2.0]),
        floats([*(s.frequency_penalty for s, _, _ in sequences), 2.0]),
        counts,
    )
    torch.testing.assert_close(given_logits.cpu(), expected, rtol=1e-6, atol=1e-6)


def test_penalties_hide_no_logit_that_is_not_finite() -> None:
    logits = torch.tensor([[torch.nan, torch.inf, -torch.inf, 2.0]], device=DEVICE)
    one = torch.ones(1, dtype=torch.float32, device=DEVICE)
    zero = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    counts = torch.full((1, 4), 3, dtype=torch.int32, device=DEVICE)
    penalise(logits, zero, zero, 2 * one, one, one, counts)
    torch.testing.assert_close(
        logits.cpu(), torch.tensor([[torch.nan, torch.inf, -torch.inf, -1.0]]), equal_nan=True
    )


def test_counts_hold_times_and_prompt() -> None:
    counts = torch.full((2, 6), 8, dtype=torch.int32, device=DEVICE)
    prompt, answer = (torch.tensor(ids, device=DEVICE) for ids in ([1, 1, 2], [2, 3, 3]))
    fill_counts(counts, 1, prompt, answer)
    tokens = torch.tensor([4, -1, 5, 4], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([1, 1, -1, 1], dtype=torch.int32, device=DEVICE)
    count_drawn(counts, slots, tokens)
    assert counts.tolist() == [[8] * 6, [0, 1, 3, 4, 4, 0]]


def test_the_largest_penalised_logit_is_that_of_the_cpu() -> None:
    assert penalties._LARGEST.value == cpu_logits._LARGEST
