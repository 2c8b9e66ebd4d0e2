"""Repetition, presence and frequency penalties from counts on the device.

A step in flight may be drawing a token that the host does not know yet, so tokens are counted where
they are drawn: an entry of `counts`, [slots, vocab] int32, is twice the times that the token stands
in the answer, plus 1 if it stands in the prompt.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from ridgeline.kernels.cuda.resources import Variant

_LARGEST = tl.constexpr(1e30)
"""Of a penalised logit: that of `ridgeline.models.logits`."""

_BLOCK, _WARPS = 4096, 8
_COUNTED = 128


def penalise(
    logits: torch.Tensor,
    rows: torch.Tensor,
    slots: torch.Tensor,
    repetition: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
    counts: torch.Tensor,
) -> None:
    """Change the listed rows of logits [rows, vocab] float32 in place, by the rules of the CPU.

    Tokens of prompt and answer get the repetition penalty, once each: positive logits are divided by
    it, others multiplied, to within +-1e30. Then the frequency penalty is subtracted per occurrence in
    the answer, and the presence penalty once if there is any. Infinite logits and nan stay, so that
    `draw` finds them.

    Args:
        logits: each row contiguous.
        rows: [listed] int32, distinct; negative: padding.
        slots: [listed] int32, of `counts`.
        repetition: [listed] float32; 1: none.
        presence: [listed] float32; 0: none.
        frequency: [listed] float32; 0: none.
        counts: [slots, vocab] int32, contiguous.
    """
    vocab = counts.shape[1]
    if len(rows):
        grid = (triton.cdiv(vocab, _BLOCK), len(rows))
        _penalise_kernel[grid](
            logits,
            logits.stride(0),
            rows,
            slots,
            repetition,
            presence,
            frequency,
            counts,
            vocab,
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )


def count_drawn(counts: torch.Tensor, slots: torch.Tensor, tokens: torch.Tensor) -> None:
    """Count one more token of the answers of these slots.

    Args:
        counts: [slots, vocab] int32, contiguous.
        slots: [tokens] int32; negative: counted nowhere.
        tokens: [tokens] int32, as `draw` returns them; negative: not counted.
    """
    if len(tokens):
        grid = (triton.cdiv(len(tokens), _COUNTED),)
        _count_kernel[grid](counts, slots, tokens, counts.shape[1], len(tokens), BLOCK=_COUNTED, num_warps=4)


def fill_counts(counts: torch.Tensor, slot: int, prompt_ids: torch.Tensor, answer_ids: torch.Tensor) -> None:
    """Set the counts of a sequence that takes a slot.

    Args:
        counts: [slots, vocab] int32.
        slot: of the sequence.
        prompt_ids: [tokens] int64, on the device of the counts.
        answer_ids: [tokens] int64, there too: tokens generated already.
    """
    line = counts[slot].zero_()
    line.index_fill_(0, prompt_ids, 1)
    line.index_add_(0, answer_ids, torch.full_like(answer_ids, 2, dtype=counts.dtype))


def variants() -> Iterator[Variant]:
    """Every launch of this module, for compiling ahead of time."""
    signature = {"logits": "*fp32", "stride": "i32:16", "rows": "*i32", "slots": "*i32"}
    signature |= {"repetition": "*fp32", "presence": "*fp32", "frequency": "*fp32"}
    signature |= {"counts": "*i32", "vocab": "i32:16", "BLOCK": "constexpr"}
    yield Variant("penalise", _penalise_kernel, signature, {"BLOCK": _BLOCK}, _WARPS, 3, core=True)
    signature = {"counts": "*i32", "slots": "*i32", "tokens": "*i32"}
    signature |= {"vocab": "i32:16", "size": "i32", "BLOCK": "constexpr"}
    yield Variant("count_drawn", _count_kernel, signature, {"BLOCK": _COUNTED}, 4, 3, core=True)


@triton.jit
def _penalise_kernel(
    logits, stride, rows, slots, repetition, presence, frequency, counts, vocab, BLOCK: tl.constexpr
):
    listed = tl.program_id(1)
    row = tl.load(rows + listed)
    if row >= 0:
        ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = ids < vocab
        slot = tl.load(slots + listed)
        counted = tl.load(counts + slot.to(tl.int64) * vocab + ids, mask=inside, other=0)
        line = logits + row.to(tl.int64) * stride
        # Most tokens stand neither in the prompt nor in the answer: their logits need not be loaded.
        seen = counted > 0
        given = tl.load(line + ids, mask=seen, other=0.0)
        times = (counted >> 1).to(tl.float32)
        factor = tl.load(repetition + listed)
        value = tl.where(given > 0, tl.div_rn(given, factor), given * factor)
        value = tl.minimum(tl.maximum(value, -_LARGEST), _LARGEST)
        value -= tl.load(frequency + listed) * times
        value -= tl.where(times > 0, tl.load(presence + listed), 0.0)
        finite = tl.abs(given) < float("inf")
        tl.store(line + ids, tl.where(finite, value, given), mask=seen)


@triton.jit(do_not_specialize=["size"])
def _count_kernel(counts, slots, tokens, vocab, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + at, mask=at < size, other=-1)
    token = tl.load(tokens + at, mask=at < size, other=-1)
    tl.atomic_add(counts + slot.to(tl.int64) * vocab + token, 2, mask=(slot >= 0) & (token >= 0))
