"""Temperature, min_p, top_k and top_p, and one draw per row by inverse CDF.

*Heights* are logits over temperature, less the row's largest: 0 for the most probable token, and the
exponential of a height is the token's weight. Each filter amounts to a *floor*: what is lower is
dropped, what equals it is kept.

The vocabulary is not sorted. The floor is looked for among the `_CANDIDATES` most probable tokens;
for rows whose kept set reaches beyond them it is found through a histogram of the heights, of which
only the one bucket with the floor in it is sorted.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ridgeline.protocol import Sampling

_CANDIDATES = 128
_CDF_BLOCK = 128
_BUCKETS, _BUCKETS_PER_UNIT = 4096, 64


def draw(logits: torch.Tensor, settings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """One token id per row of [rows, vocab], float32.

    `uniforms` are in [0, 1), one per row. Temperatures are above 0.
    """
    vocab = logits.shape[1]
    temperatures = torch.tensor([s.temperature for s in settings], dtype=torch.float32)
    heights = (logits - logits.amax(-1, keepdim=True)).div_(temperatures[:, None])
    targets = torch.tensor(uniforms, dtype=torch.float64)
    floors = torch.tensor([_log(s.min_p) for s in settings], dtype=torch.float32)
    tokens = [-1] * len(settings)
    filtered = [i for i, s in enumerate(settings) if 0 < s.top_k < vocab or s.top_p < 1.0]
    if filtered:
        chosen = [settings[i] for i in filtered]
        found = _draw_among_candidates(_take(heights, filtered), chosen, targets[filtered])
        for i, token in zip(filtered, found, strict=True):
            tokens[i] = token
            if token < 0:
                floors[i] = _exact_floor(heights[i], settings[i])
    rest = [i for i, token in enumerate(tokens) if token < 0]
    if rest:
        drawn = _draw_by_blocks(_take(heights, rest), floors[rest], targets[rest])
        for i, token in zip(rest, drawn, strict=True):
            tokens[i] = token
    return tokens


def _take(heights: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Those rows; no copy if they are all."""
    return heights if len(rows) == len(heights) else heights[rows]


def _log(fraction: float) -> float:
    return math.log(fraction) if fraction > 0 else -math.inf


def _weights(heights: torch.Tensor, floors: torch.Tensor) -> torch.Tensor:
    """exp(heights) [rows, vocab], 0 below the floors [rows], as [rows, blocks, _CDF_BLOCK]."""
    weights = heights.exp()
    if bool((floors > -math.inf).any()):
        weights.masked_fill_(heights < floors[:, None], 0.0)
    short = -weights.shape[1] % _CDF_BLOCK
    padded = F.pad(weights, (0, short)) if short else weights
    return padded.view(len(weights), -1, _CDF_BLOCK)


def _draw_by_blocks(heights: torch.Tensor, floors: torch.Tensor, uniforms: torch.Tensor) -> list[int]:
    """Inverse CDF over the whole vocabulary in two levels: which block of tokens, then which of it."""
    blocks = _weights(heights, floors)
    cumulative = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    wanted = uniforms * cumulative[:, -1]
    block = _first_above(cumulative, wanted)
    before = F.pad(cumulative, (1, 0)).gather(1, block[:, None])[:, 0]
    inside = blocks[torch.arange(len(block)), block].cumsum(-1, dtype=torch.float64)
    tokens: list[int] = (block * _CDF_BLOCK + _first_above(inside, wanted - before)).tolist()
    return tokens


def _first_above(cumulative: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Index of each row's first entry above what is wanted: always one of positive weight.

    Rounding may have put what is wanted outside [0, last); it is moved inside.
    """
    last = cumulative[:, -1]
    inside = torch.minimum(wanted, torch.nextafter(last, torch.zeros_like(last))).clamp_(min=0.0)
    return torch.searchsorted(cumulative, inside[:, None], right=True)[:, 0]


def _draw_among_candidates(
    heights: torch.Tensor, settings: Sequence[Sampling], uniforms: torch.Tensor
) -> list[int]:
    """Draw from the most probable tokens; -1 for a row whose kept set may reach beyond them."""
    values, ids = heights.topk(min(_CANDIDATES, heights.shape[1]), dim=-1)
    floors, known = _candidate_floors(heights, values, settings)
    order = ids.argsort(-1)
    weights = values.double().exp().masked_fill_(values < floors[:, None], 0.0).gather(1, order)
    cumulative = weights.cumsum(-1)
    place = _first_above(cumulative, uniforms * cumulative[:, -1])
    tokens = ids.gather(1, order.gather(1, place[:, None]))[:, 0]
    found: list[int] = torch.where(known, tokens, -1).tolist()
    return found


def _candidate_floors(
    heights: torch.Tensor, values: torch.Tensor, settings: Sequence[Sampling]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's floor, and whether it is certain: whether all that it keeps is among the candidates.

    values: [rows, candidates], the largest of `heights` [rows, vocab] in descending order.
    """
    vocab, size = heights.shape[1], values.shape[1]
    last = values[:, -1]
    top_k = torch.tensor([s.top_k if 0 < s.top_k < vocab else 0 for s in settings])
    floors = torch.tensor([_log(s.min_p) for s in settings], dtype=torch.float32)
    kth = values.gather(1, top_k.clamp(1, size)[:, None] - 1)[:, 0]
    floors = torch.where((top_k > 0) & (top_k <= size), torch.maximum(floors, kth), floors)
    # With a larger top_k the floor so far is that of min_p alone, and certain if it keeps fewer.
    known = (top_k <= size) | (floors > last)
    top_p = torch.tensor([s.top_p for s in settings], dtype=torch.float64)
    if bool((top_p < 1.0).any()):
        cumulative = values.double().exp().masked_fill_(values < floors[:, None], 0.0).cumsum(-1)
        total = cumulative[:, -1]
        if size < vocab and bool((floors <= last).any()):
            mass = _weights(heights, floors).sum(-1).sum(-1, dtype=torch.float64)
            total = torch.where(floors <= last, mass, total)
        place = torch.searchsorted(cumulative, (top_p * total)[:, None])
        nucleus = values.gather(1, place.clamp(max=size - 1))[:, 0]
        found = (place[:, 0] < size) & (top_p < 1.0)
        floors = torch.where(found, torch.maximum(floors, nucleus), floors)
    return floors, known & (floors > last) if size < vocab else torch.ones_like(known)


def _exact_floor(heights: torch.Tensor, settings: Sampling) -> float:
    """The floor of one row, [vocab], whatever it keeps."""
    floor = _log(settings.min_p)
    if 0 < settings.top_k < len(heights):
        floor = max(floor, float(heights.kthvalue(len(heights) - settings.top_k + 1).values))
    if settings.top_p < 1.0:
        floor = max(floor, _nucleus_floor(heights, floor, settings.top_p))
    return floor


def _nucleus_floor(heights: torch.Tensor, floor: float, top_p: float) -> float:
    """The height at which the weights above it first reach `top_p` of all that are not below `floor`."""
    weights = heights.double().exp_().masked_fill_(heights < floor, 0.0)
    bucket = (heights * -_BUCKETS_PER_UNIT).clamp_(max=_BUCKETS - 1).long()
    cumulative = bucket.bincount(weights, minlength=_BUCKETS).cumsum(0)
    wanted = top_p * cumulative[-1]
    at = int(torch.searchsorted(cumulative, wanted))
    members = bucket == at
    inside, order = heights[members].sort(descending=True)
    reached = weights[members][order].cumsum(0)
    if at > 0:
        reached += cumulative[at - 1]
    return float(inside[int(torch.searchsorted(reached, wanted).clamp(max=len(inside) - 1))])
