"""Drawing the next token from logits, each row by its own settings.

Order, as in vLLM: log probabilities are taken from the raw logits; then bias, penalties and bans;
temperature; min_p; top_k; top_p of what those leave; one draw by inverse CDF in the order of token
ids from the uniform number of (seed, position). So a row's token depends on its logits, settings,
seed and position, and on nothing else in the batch.

Every filter amounts to a threshold on the logit, and tokens equal to the threshold are kept: of
several with the same probability as the last one kept, none is dropped for standing behind it.

The vocabulary is never sorted whole unless it must be: the threshold is looked for among the
`_CANDIDATES[0]` most probable tokens, and only rows whose kept set reaches beyond them are tried
with more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ridgeline.models.logits import SamplingState
from ridgeline.models.uniform import uniform
from ridgeline.protocol import Sampling

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy, as in vLLM."""

_CANDIDATES = (128, 2048)
_CDF_BLOCK = 128


class NonFiniteLogitsError(ArithmeticError):
    """The model computed nan or infinity; nothing sensible can be drawn.

    Attributes:
        rows: which rows of the logits.
    """

    def __init__(self, rows: Sequence[int], positions: Sequence[int]) -> None:
        super().__init__(
            f"the model gave non-finite logits (nan or infinity) for {len(rows)} of the step's sequences, "
            f"first at position {positions[0]}: the weights are damaged, or too large for this dtype; "
            "check the files, or try --dtype float32"
        )
        self.rows = tuple(rows)


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


def sample(logits: torch.Tensor, states: Sequence[SamplingState], positions: Sequence[int]) -> list[Drawn]:
    """Draw one token per row, and record it in the row's state.

    Args:
        logits: [rows, vocab], float32; rows with penalties are changed in place.
        states: one per row.
        positions: where in its sequence each drawn token will stand.

    Raises:
        NonFiniteLogitsError: before anything is drawn.
    """
    check_finite(logits, positions)
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


def score(logits: torch.Tensor, token_ids: Sequence[int], top: int) -> list[TokenScore]:
    """Scores of given tokens by float32 log-softmax: row i of [rows, vocab] predicts `token_ids[i]`."""
    return _read_scores(logits.log_softmax(-1), token_ids, [top] * len(token_ids))


def check_finite(logits: torch.Tensor, positions: Sequence[int]) -> None:
    """Raise `NonFiniteLogitsError` if a row's largest logit is nan or infinite."""
    peaks = logits.amax(-1)
    if not math.isfinite(float(peaks.sum())):
        bad = [i for i, peak in enumerate(peaks.tolist()) if not math.isfinite(peak)]
        raise NonFiniteLogitsError(bad, [positions[i] for i in bad])


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


def draw(logits: torch.Tensor, settings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """Temperature, filters and inverse CDF: one token id per row of [rows, vocab], float32.

    `uniforms` are in [0, 1), one per row. Temperatures are at least `GREEDY_BELOW`.
    """
    vocab = logits.shape[1]
    temperatures = torch.tensor([s.temperature for s in settings], dtype=torch.float32)
    heights = (logits - logits.amax(-1, keepdim=True)).div_(temperatures[:, None])
    targets = torch.tensor(uniforms, dtype=torch.float64)
    tokens = [0] * len(settings)
    plain = [i for i, s in enumerate(settings) if not _filters(s, vocab)]
    if plain:
        rows = heights if len(plain) == len(settings) else heights[plain]
        floors = torch.tensor([_log(settings[i].min_p) for i in plain], dtype=torch.float32)
        for i, token in zip(plain, _draw_by_blocks(rows, floors, targets[plain]), strict=True):
            tokens[i] = token
    pending = [i for i, s in enumerate(settings) if _filters(s, vocab)]
    for size in (*_CANDIDATES, vocab):
        if not pending:
            break
        rows = heights if len(pending) == len(settings) else heights[pending]
        found = _draw_among(rows, [settings[i] for i in pending], targets[pending], min(size, vocab))
        for i, token in zip(pending, found, strict=True):
            tokens[i] = token
        pending = [i for i, token in zip(pending, found, strict=True) if token < 0]
    return tokens


def _filters(settings: Sampling, vocab: int) -> bool:
    return 0 < settings.top_k < vocab or settings.top_p < 1.0


def _log(fraction: float) -> float:
    return math.log(fraction) if fraction > 0 else -math.inf


def _draw_by_blocks(heights: torch.Tensor, floors: torch.Tensor, uniforms: torch.Tensor) -> list[int]:
    """Inverse CDF over the whole vocabulary in two levels: which block of tokens, then which of it.

    heights: [rows, vocab], largest 0; floors: [rows], lower ones are dropped.
    """
    weights = heights.exp()
    if bool((floors > -math.inf).any()):
        weights.masked_fill_(heights < floors[:, None], 0.0)
    blocks = _blocks(weights)
    cumulative = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    wanted = uniforms * cumulative[:, -1]
    block = _first_above(cumulative, wanted)
    before = F.pad(cumulative, (1, 0)).gather(1, block[:, None])[:, 0]
    inside = blocks[torch.arange(len(block)), block].cumsum(-1, dtype=torch.float64)
    token: list[int] = (block * _CDF_BLOCK + _first_above(inside, wanted - before)).tolist()
    return token


def _first_above(cumulative: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Index of each row's first entry above what is wanted: always one of positive weight.

    Rounding may have put what is wanted outside [0, last); it is moved inside.
    """
    last = cumulative[:, -1]
    inside = torch.minimum(wanted, torch.nextafter(last, torch.zeros_like(last))).clamp_(min=0.0)
    return torch.searchsorted(cumulative, inside[:, None], right=True)[:, 0]


def _draw_among(
    heights: torch.Tensor, settings: Sequence[Sampling], uniforms: torch.Tensor, size: int
) -> list[int]:
    """Draw from the `size` most probable tokens; -1 for a row whose kept set may reach beyond them."""
    values, ids = heights.topk(size, dim=-1)
    whole = size == heights.shape[1]
    floors, known = _floors(heights, values, settings, whole)
    order = ids.argsort(-1)
    weights = values.double().exp().masked_fill_(values < floors[:, None], 0.0).gather(1, order)
    cumulative = weights.cumsum(-1)
    place = _first_above(cumulative, uniforms * cumulative[:, -1])
    tokens = ids.gather(1, order.gather(1, place[:, None]))[:, 0]
    return torch.where(known, tokens, -1).tolist()


def _floors(
    heights: torch.Tensor, values: torch.Tensor, settings: Sequence[Sampling], whole: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The height below which each row's tokens are dropped, and whether it is known for certain.

    values: [rows, candidates], the largest of `heights` in descending order. A floor is certain if
    all that it keeps is among the candidates.
    """
    size = values.shape[1]
    last = values[:, -1]
    top_k = torch.tensor([s.top_k if 0 < s.top_k < heights.shape[1] else 0 for s in settings])
    floors = torch.tensor([_log(s.min_p) for s in settings], dtype=torch.float32)
    kth = values.gather(1, top_k.clamp(1, size)[:, None] - 1)[:, 0]
    floors = torch.where((top_k > 0) & (top_k <= size), torch.maximum(floors, kth), floors)
    known = (top_k <= size) | (floors > last)
    top_p = torch.tensor([s.top_p for s in settings], dtype=torch.float64)
    if bool((top_p < 1.0).any()):
        cumulative = values.double().exp().masked_fill_(values < floors[:, None], 0.0).cumsum(-1)
        total = cumulative[:, -1]
        if not whole:
            reaches = floors <= last
            total = torch.where(reaches, _mass_above(heights, floors), total)
        place = torch.searchsorted(cumulative, (top_p * total)[:, None])
        nucleus = values.gather(1, place.clamp(max=size - 1))[:, 0]
        found = (place[:, 0] < size) & (top_p < 1.0)
        floors = torch.where(found, torch.maximum(floors, nucleus), floors)
    if whole:
        return floors, torch.ones_like(known)
    return floors, known & (floors > last)


def _mass_above(heights: torch.Tensor, floors: torch.Tensor) -> torch.Tensor:
    """[rows], float64: the sum of exp(heights) that are not below the floors."""
    weights = heights.exp()
    if bool((floors > -math.inf).any()):
        weights.masked_fill_(heights < floors[:, None], 0.0)
    return _blocks(weights).sum(-1).sum(-1, dtype=torch.float64)


def _blocks(weights: torch.Tensor) -> torch.Tensor:
    """[rows, vocab] as [rows, blocks, _CDF_BLOCK], filled up with zeros."""
    short = -weights.shape[1] % _CDF_BLOCK
    padded = F.pad(weights, (0, short)) if short else weights
    return padded.view(len(weights), -1, _CDF_BLOCK)
