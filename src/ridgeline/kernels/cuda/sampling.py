"""Drawing the next token of each row on the GPU, by the rules of sampling on the CPU.

Temperature, min_p, top_k, top_p, then inverse CDF in the order of token ids from one uniform number:
a row's token depends on its logits and its settings, on nothing else in the batch.

One program draws one row. It goes over the row once for the largest logit, which is all that a
greedy row needs, and once for the weight of each block, of which it then draws one, and of that block
a token. For top_k and top_p the first pass keeps the largest few logits of each lane, among which the
floor is looked for in registers; top_p alone needs one more pass, for the mass of the row. Only if the
kept set may reach beyond them (a flat distribution, a large top_k, many ties) is the floor looked for
by passes over the row. What these look for, and how, is in `floors.py`.
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

_BLOCK, _WARPS = 4096, 16
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
            **_constants(vocab),
            num_warps=_WARPS,
        )
    return tokens


def _constants(vocab: int) -> dict[str, int]:
    """Of the drawing kernel, for a vocabulary of this size."""
    # Logits of a row that is not aligned are loaded one by one, which takes registers for as many addresses.
    largest = _BLOCK if vocab % 16 == 0 else _BLOCK // 2
    block = min(largest, max(triton.next_power_of_2(vocab), 256))
    return {"BLOCK": block, "BLOCKS": max(triton.next_power_of_2(triton.cdiv(vocab, block)), 2)}


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
    constants: dict[str, Any] = _constants(vocab)
    signature |= dict.fromkeys(constants, "constexpr")
    return Variant(f"draw vocab={vocab}", _draw_kernel, signature, constants, _WARPS, 3, core=core)


# A step of one token, or of a multiple of 16, is no reason to compile another kernel.
@triton.jit(do_not_specialize=["tokens"])
def _resolve_kernel(token_ids, slots, drawn, resolved, tokens, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < tokens
    given = tl.load(token_ids + at, mask=inside, other=0)
    asks = inside & (given < 0)
    slot = tl.load(slots + at, mask=asks, other=0)
    tl.store(resolved + at, tl.where(asks, tl.load(drawn + slot, mask=asks, other=0), given), mask=inside)


@triton.jit
def _load(line, start, vocab, BLOCK: tl.constexpr):
    """Logits start .. start + BLOCK of a row; nan as infinity, which no maximum passes over."""
    ids = start + tl.arange(0, BLOCK)
    logits = tl.load(line + ids, mask=ids < vocab, other=-float("inf"))
    return tl.where(logits == logits, logits, float("inf"))  # noqa: PLR0124, nan is unequal to itself


@triton.jit
def _largest(line, vocab, BLOCK: tl.constexpr):
    """The largest logit of a row and the first id that has it."""
    best = tl.full([BLOCK], -float("inf"), tl.float32)
    ids = tl.arange(0, BLOCK)
    for start in tl.range(0, vocab, BLOCK, num_stages=floors.STAGES):
        logits = _load(line, start, vocab, BLOCK)
        ids = tl.where(logits > best, start + tl.arange(0, BLOCK), ids)
        best = tl.maximum(best, logits)
    peak = tl.max(best, 0)
    return peak, tl.min(tl.where(best == peak, ids, vocab), 0)


@triton.jit
def _largest_of_lanes(line, vocab, BLOCK: tl.constexpr):
    """The four largest logits of each lane, in descending order."""
    first = tl.full([BLOCK], -float("inf"), tl.float32)
    second, third, fourth = first, first, first
    for start in tl.range(0, vocab, BLOCK, num_stages=floors.STAGES):
        logits = _load(line, start, vocab, BLOCK)
        lower = tl.minimum(first, logits)
        first = tl.maximum(first, logits)
        lowest = tl.minimum(second, lower)
        second = tl.maximum(second, lower)
        fourth = tl.maximum(fourth, tl.minimum(third, lowest))
        third = tl.maximum(third, lowest)
    return first, second, third, fourth


@triton.jit
def _draw_kernel(
    logits, stride, vocab, temperature, top_k, top_p, min_p, uniform, slot, drawn, tokens,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    line = logits + row.to(tl.int64) * stride
    heat, k, p = tl.load(temperature + row), tl.load(top_k + row), tl.load(top_p + row)
    least = tl.load(min_p + row)
    warm = heat >= GREEDY_BELOW
    scale = 1.4426950408889634 / tl.maximum(heat, GREEDY_BELOW)  # log2(e) / temperature
    # Beyond it are tokens of no weight only: those whose logits are minus infinity.
    limit = tl.full([], floors.LARGEST, tl.float32)
    if warm & (least > 0):
        limit = floors.widest(tl.maximum(-tl.log(least), 0.0), heat)
    token = -1
    if warm & (((k > 0) & (k < vocab)) | (p < 1.0)):
        first, second, third, fourth = _largest_of_lanes(line, vocab, BLOCK)
        peak = tl.max(first, 0)
        if (peak > -float("inf")) & (peak < float("inf")):
            found, certain = floors.limit_of_held(
                first, second, third, fourth, line, vocab, peak, heat, scale, limit, k, p, BLOCK
            )
            if certain:
                limit = found
            else:
                limit = floors.limit_of_row(line, vocab, peak, heat, scale, limit, k, p, BLOCK)
    else:
        peak, token = _largest(line, vocab, BLOCK)
    finite = (peak > -float("inf")) & (peak < float("inf"))
    if finite & warm:
        token = floors.pick_of_row(line, vocab, peak, scale, limit, tl.load(uniform + row), BLOCK, BLOCKS)
    tl.store(tokens + row, tl.where(finite, token, -1))
    place = tl.load(slot + row)
    if place >= 0:
        tl.store(drawn + place, tl.where(finite, token, 0))
