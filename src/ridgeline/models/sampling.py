"""Drawing the next token from logits, each row by its own settings.

Order, as in vLLM: log probabilities are taken from the raw logits; then bias, penalties and bans;
temperature; min_p; top_k; top_p of what those leave; one draw by inverse CDF in the order of token
ids from the uniform number of (seed, position). So a row's token depends on its logits, settings,
seed and position, and on nothing else in the batch.

Every filter amounts to a threshold on the logit, and tokens equal to the threshold are kept: of
several with the same probability as the last one kept, none is dropped for standing behind it.

What filters and draws is in `filters.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ridgeline.models.filters import draw
from ridgeline.models.logits import SamplingState
from ridgeline.models.uniform import uniform

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy, as in vLLM."""


NON_FINITE = (
    "The model gave non-finite logits (nan or infinity) for this sequence: the weights are damaged, or "
    "too large for this dtype; check the files, or try --dtype float32."
)


@dataclass(frozen=True, slots=True)
class TokenScore:
    """Log probability of a token and of the most probable ones, best first, as (id, logprob)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, and its score where the sequence asked for one."""

    token_id: int
    score: TokenScore | None = None


def sample(
    logits: torch.Tensor,
    states: Sequence[SamplingState],
    positions: Sequence[int],
    peaks: Sequence[int] | None = None,
) -> list[Drawn | None]:
    """Draw one token per row, and record it in the row's state; None for rows that are not finite.

    Args:
        logits: [rows, vocab], float32; rows with penalties are changed in place.
        states: one per row.
        positions: where in its sequence each drawn token will stand.
        peaks: of each row the place of its largest logit, -1 if it is not finite; None to look for them.
    """
    if peaks is None:
        finite = finite_rows(logits)
    else:
        finite = [i for i, place in enumerate(peaks) if place >= 0]
        if len(finite) == len(states) and all(map(_takes_the_peak, states)):
            for state, place in zip(states, peaks, strict=True):
                state.record(place)
            return [Drawn(place) for place in peaks]
    if len(finite) == len(states):
        return list(_sample_finite(logits, states, positions))
    drawn: list[Drawn | None] = [None] * len(states)
    chosen = [states[i] for i in finite], [positions[i] for i in finite]
    for i, token in zip(finite, _sample_finite(logits[finite], *chosen), strict=True):
        drawn[i] = token
    return drawn


def _takes_the_peak(state: SamplingState) -> bool:
    """Whether nothing else of the logits matters."""
    sampling = state.sampling
    return sampling.temperature < GREEDY_BELOW and sampling.logprobs is None and not state.adjusts


def _sample_finite(
    logits: torch.Tensor, states: Sequence[SamplingState], positions: Sequence[int]
) -> list[Drawn]:
    scored = [i for i, state in enumerate(states) if state.sampling.logprobs is not None]
    raw = logits[scored].log_softmax(-1) if scored else logits[:0]
    for i, state in enumerate(states):
        if state.adjusts:
            state.adjust(logits[i])
    tokens = _draw_all(logits, states, positions)
    for state, token in zip(states, tokens, strict=True):
        state.record(token)
    chosen = [tokens[i] for i in scored]
    tops = [states[i].sampling.logprobs or 0 for i in scored]
    scores = dict(zip(scored, _read_scores(raw, chosen, tops), strict=True))
    return [Drawn(token, scores.get(i)) for i, token in enumerate(tokens)]


def finite_rows(logits: torch.Tensor) -> list[int]:
    """Rows of [rows, vocab] whose largest logit is a number: something sensible can be drawn of them."""
    peaks = logits.amax(-1)
    if math.isfinite(float(peaks.sum())):
        return list(range(len(logits)))
    return [i for i, peak in enumerate(peaks.tolist()) if math.isfinite(peak)]


def score(logits: torch.Tensor, token_ids: Sequence[int], top: int) -> list[TokenScore]:
    """Scores of given tokens by float32 log-softmax: row i of [rows, vocab] predicts `token_ids[i]`."""
    return _read_scores(logits.log_softmax(-1), token_ids, [top] * len(token_ids))


def _read_scores(logprobs: torch.Tensor, token_ids: Sequence[int], tops: Sequence[int]) -> list[TokenScore]:
    if not token_ids:
        return []
    chosen = logprobs.gather(1, torch.tensor(token_ids, dtype=torch.int64)[:, None])[:, 0].tolist()
    values, ids = logprobs.topk(min(max(tops), logprobs.shape[1]), dim=-1)
    best = [tuple(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]
    return [
        TokenScore(token, logprob, row[:top])
        for token, logprob, row, top in zip(token_ids, chosen, best, tops, strict=True)
    ]


def _draw_all(logits: torch.Tensor, states: Sequence[SamplingState], positions: Sequence[int]) -> list[int]:
    warm = [i for i, state in enumerate(states) if state.sampling.temperature >= GREEDY_BELOW]
    if not warm:
        return logits.argmax(-1).tolist()
    tokens = [0] * len(states)
    if len(warm) < len(states):
        cold = [i for i, state in enumerate(states) if state.sampling.temperature < GREEDY_BELOW]
        for i, token in zip(cold, logits[cold].argmax(-1).tolist(), strict=True):
            tokens[i] = token
    drawn = draw(
        logits if len(warm) == len(states) else logits[warm],
        [states[i].sampling for i in warm],
        [uniform(states[i].seed, positions[i]) for i in warm],
    )
    for i, token in zip(warm, drawn, strict=True):
        tokens[i] = token
    return tokens
