"""Drawing the next token of each row on the GPU, by the rules of sampling on the CPU.

Temperature, min_p, top_k, top_p, then inverse CDF in the order of token ids from one uniform number:
a row's token depends on its logits and its settings, on nothing else in the batch.

One program draws one row. It goes over the row once for the largest logit, which is all that a
greedy row needs, and keeps the largest of each lane. A row with temperature alone is gone over a
second time, for the weight of each block, then once over the block that the number falls into. For
top_k and top_p the lanes' maxima give a bound that a thousand or so tokens reach; the second pass
gathers those, and floor and token are found among them in registers. Only if the kept set reaches
beyond them (a flat distribution, a large top_k, thousands of ties) is the floor looked for by further
passes over the row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from ridgeline.kernels.cuda import floors, penalties
from ridgeline.kernels.cuda.resources import MODEL_SHAPES, Variant

GREEDY_BELOW = tl.constexpr(1e-5)
"""Temperatures under this are greedy: `ridgeline.models.sampling.GREEDY_BELOW`."""

HELD = 2048
"""Most tokens of a row among which top_k and top_p are looked for without going over the row again."""

_BLOCK, _WARPS = 4096, 16
_HELD_PIVOTS, _LANE_PIVOTS = 8, 4
_RESOLVED = 256


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """How each row is drawn; tensors [rows] on the device of the logits.

    Attributes:
        temperature: float32; greedy below `GREEDY_BELOW`.
        top_k: int32; 0 or at least the vocabulary: off.
        top_p: float32; at least 1: off.
        min_p: float32 in [0, 1]; 0: off.
        uniform: float32 in [0, 1). Whoever rounds it to float32 keeps it below 1; a 1 does no harm, it
            falls on the last token that is kept.
        slot: int32, place in `drawn` that the token goes to; negative: nowhere.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    uniform: torch.Tensor
    slot: torch.Tensor


def resolve_tokens(token_ids: torch.Tensor, slots: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Token ids of a step, where the step before may still be drawing some of them.

    Args:
        token_ids: [tokens] int32; negative: what is drawn for the token's slot.
        slots: [tokens] int32, places in `drawn`; any valid one where the id is given.
        drawn: [slots] int32, written by `draw`.

    Returns:
        [tokens] int32, none negative.
    """
    tokens = len(token_ids)
    resolved = torch.empty_like(token_ids)
    if tokens:
        grid = (triton.cdiv(tokens, _RESOLVED),)
        _resolve_kernel[grid](token_ids, slots, drawn, resolved, tokens, BLOCK=_RESOLVED, num_warps=4)
    return resolved


def draw(logits: torch.Tensor, settings: DrawSettings, drawn: torch.Tensor) -> torch.Tensor:
    """One token per row; writes it to `drawn` as well, at the row's slot.

    Args:
        logits: [rows, vocab] float32, each row contiguous.
        settings: of each row.
        drawn: [slots] int32. A row that gives -1 writes 0 here, so that the step which already waits
            for it embeds a token that exists.

    Returns:
        [rows] int32; -1 for a row whose largest logit is nan or infinite.

    Raises:
        ValueError: logits of another dtype, or rows that are not contiguous.
    """
    rows, vocab = logits.shape
    if logits.dtype != torch.float32 or logits.stride(1) != 1:
        raise ValueError(
            f"logits must be float32 with contiguous rows, not {logits.dtype} with strides {logits.stride()}"
        )
    tokens = torch.empty(rows, dtype=torch.int32, device=logits.device)
    held_ids = torch.empty(rows, HELD, dtype=torch.int32, device=logits.device)
    if rows:
        _draw_kernel[(rows,)](
            logits,
            logits.stride(0),
            vocab,
            settings.temperature,
            settings.top_k,
            settings.top_p,
            settings.min_p,
            settings.uniform,
            settings.slot,
            drawn,
            tokens,
            held_ids,
            **_constants(vocab),
            num_warps=_WARPS,
        )
    return tokens


def _constants(vocab: int) -> dict[str, int]:
    """Of the drawing kernel, for a vocabulary of this size."""
    # Logits of a row that is not aligned are loaded one by one, which takes registers for as many addresses.
    largest = _BLOCK if vocab % 16 == 0 else _BLOCK // 2
    block = min(largest, max(triton.next_power_of_2(vocab), 256))
    return {
        "BLOCK": block,
        "BLOCKS": max(triton.next_power_of_2(triton.cdiv(vocab, block)), 2),
        "HELD_SIZE": HELD,
        # A lane's largest stands for the lane: few lanes of many, lest others of theirs be too many.
        "WANTED": min(HELD // 2, block // 4),
        "HELD_PIVOTS": _HELD_PIVOTS,
        "LANE_PIVOTS": _LANE_PIVOTS,
    }


def variants() -> Iterator[Variant]:
    """Every launch that drawing makes, for compiling ahead of time."""
    pointers = ("*i32", "*i32", "*i32", "*i32")
    names = ("token_ids", "slots", "drawn", "resolved")
    signature = dict(zip(names, pointers, strict=True)) | {"tokens": "i32", "BLOCK": "constexpr"}
    yield Variant("resolve_tokens", _resolve_kernel, signature, {"BLOCK": _RESOLVED}, 4, 3, core=True)
    core = {shape.vocab for shape in MODEL_SHAPES if shape.core}
    # GPT-2's is no multiple of 16, so that its rows are not aligned.
    for vocab in sorted({shape.vocab for shape in MODEL_SHAPES} | {50_257}):
        yield _draw_variant(vocab, core=vocab in core)
    yield from penalties.variants()


def _draw_variant(vocab: int, core: bool) -> Variant:
    integer = "i32:16" if vocab % 16 == 0 else "i32"
    signature: dict[str, str] = {"logits": "*fp32", "stride": integer, "vocab": integer}
    signature |= {"temperature": "*fp32", "top_k": "*i32", "top_p": "*fp32", "min_p": "*fp32"}
    signature |= {"uniform": "*fp32", "slot": "*i32", "drawn": "*i32", "tokens": "*i32"}
    signature |= {"held_ids": "*i32"}
    constants: dict[str, Any] = _constants(vocab)
    signature |= dict.fromkeys(constants, "constexpr")
    return Variant(f"draw vocab={vocab}", _draw_kernel, signature, constants, _WARPS, 3, core=core)


@triton.jit
def _resolve_kernel(token_ids, slots, drawn, resolved, tokens, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < tokens
    given = tl.load(token_ids + at, mask=inside, other=0)
    asks = inside & (given < 0)
    slot = tl.load(slots + at, mask=asks, other=0)
    tl.store(resolved + at, tl.where(asks, tl.load(drawn + slot, mask=asks, other=0), given), mask=inside)


@triton.jit
def _lane_maxima(line, vocab, BLOCK: tl.constexpr):
    """The largest logit of each lane and the first id that has it; nan counts as infinite."""
    lanes = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], -float("inf"), tl.float32)
    ids = lanes
    for start in tl.range(0, vocab, BLOCK, num_stages=floors.STAGES):
        logits = tl.load(line + start + lanes, mask=start + lanes < vocab, other=-float("inf"))
        logits = tl.where(logits == logits, logits, float("inf"))  # noqa: PLR0124, nan is unequal to itself
        ids = tl.where(logits > best, start + lanes, ids)
        best = tl.maximum(best, logits)
    return best, ids


@triton.jit
def _draw_row(
    line, vocab, best, peak, temperature, top_k, top_p, min_p, uniform, held_ids,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, HELD_SIZE: tl.constexpr, WANTED: tl.constexpr,
    HELD_PIVOTS: tl.constexpr, LANE_PIVOTS: tl.constexpr,
):  # fmt: skip
    scale = 1.4426950408889634 / temperature
    limit = tl.full([], 3.4028234663852886e38, tl.float32)
    if min_p > 0:
        limit = floors.widest(tl.maximum(-tl.log(min_p), 0.0), temperature)
    token = -1
    if ((top_k > 0) & (top_k < vocab)) | (top_p < 1.0):
        bound = tl.full([], floors.LARGEST_BITS, tl.int32)
        if vocab > HELD_SIZE:
            lanes = (peak - best).to(tl.int32, bitcast=True)
            bound = floors.smallest(
                lanes,
                tl.full([BLOCK], 1.0, tl.float32),
                WANTED,
                bound,
                WANTED * 5 // 4,
                LANE_PIVOTS,
            )
        bound = bound.to(tl.float32, bitcast=True)
        count, mass = floors.compact(line, vocab, peak, scale, limit, bound, held_ids, HELD_SIZE, BLOCK)
        certain = count <= HELD_SIZE
        if certain:
            tl.debug_barrier()  # what other threads of the program have stored is loaded next
            places = tl.arange(0, HELD_SIZE)
            ids = tl.load(held_ids + places, mask=places < count, other=0)
            gaps = peak - tl.load(line + ids, mask=places < count, other=-float("inf"))
            weights = floors.weigh(gaps, scale)
            narrowed, certain = floors.limit_of_held(
                gaps, weights, count, mass, bound, vocab, temperature, limit, top_k, top_p, HELD_PIVOTS
            )
            if certain:
                kept = tl.where(gaps <= narrowed, weights, 0.0)
                place, _ = floors.pick(kept, uniform * tl.sum(kept, 0), HELD_SIZE)
                token = tl.load(held_ids + place)
        if not certain:
            limit = floors.limit_of_row(line, vocab, peak, temperature, scale, limit, top_k, top_p, BLOCK)
    if token < 0:
        token = floors.pick_of_row(line, vocab, peak, scale, limit, uniform, BLOCK, BLOCKS)
    return token


@triton.jit
def _draw_kernel(
    logits, stride, vocab, temperature, top_k, top_p, min_p, uniform, slot,
    drawn, tokens, held_ids,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr, HELD_SIZE: tl.constexpr, WANTED: tl.constexpr,
    HELD_PIVOTS: tl.constexpr, LANE_PIVOTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    line = logits + row.to(tl.int64) * stride
    best, ids = _lane_maxima(line, vocab, BLOCK)
    peak = tl.max(best, 0)
    token = tl.min(tl.where(best == peak, ids, vocab), 0)
    finite = (peak > -float("inf")) & (peak < float("inf"))
    heat = tl.load(temperature + row)
    if finite & (heat >= GREEDY_BELOW):
        held = row.to(tl.int64) * HELD_SIZE
        token = _draw_row(
            line, vocab, best, peak, heat,
            tl.load(top_k + row), tl.load(top_p + row), tl.load(min_p + row), tl.load(uniform + row),
            held_ids + held,
            BLOCK, BLOCKS, HELD_SIZE, WANTED, HELD_PIVOTS, LANE_PIVOTS,
        )  # fmt: skip
    tl.store(tokens + row, tl.where(finite, token, -1))
    place = tl.load(slot + row)
    if place >= 0:
        tl.store(drawn + place, tl.where(finite, token, 0))
