"""The steps by which an executor finds out, before any request, whether all that it does can be done."""

from ridgeline.engine.core.plan import IN_FLIGHT, Admission, Geometry, Row, StepPlan
from ridgeline.kernels.cuda.linear import FEW_ROWS
from ridgeline.protocol import Sampling

_DRAWN = Sampling(temperature=0.7, top_p=0.9, seed=0)
_SPECIAL = Sampling(temperature=0.7, repetition_penalty=1.1, logprobs=1, seed=0)


def warm_up_plans(geometry: Geometry, max_batch_tokens: int) -> list[StepPlan]:
    """Plans that launch every kernel there is, and compute as many tokens at once as ever.

    One sequence is computed whole, then its last two tokens again: so few tokens have their context
    cut into parts, which another kernel merges. It draws twice, the second time from a graph. Then one
    with penalties and scores draws once, and as many sequences as have products of their own, or as there
    may be, compute a token each. No slot is taken in the end.
    """
    slot, longest = geometry.max_batch - 1, geometry.longest_sequence_tokens
    tokens = max(1, min(max_batch_tokens, longest - 2))
    end = min(tokens + 2, longest)
    blocks = tuple(range(-(-end // geometry.block_size_tokens)))
    whole = Admission(slot, (0,) * tokens, tokens, _DRAWN)
    special = Admission(slot, (0,), 1, _SPECIAL)
    plans = [StepPlan(0, (Row(slot, 0, (0,) * tokens, blocks, sample=True),), (whole,))]
    if tokens > 1:
        plans.append(StepPlan(1, (Row(slot, tokens - 2, (0, 0), sample=True),)))
    plans += [
        StepPlan(position, (Row(slot, position, (IN_FLIGHT,), sample=True),))
        for position in range(tokens, end)
    ]
    plans.append(StepPlan(end, (Row(slot, 0, (0,), blocks[:1], sample=True),), (special,), (slot,)))
    count = min(geometry.max_batch, geometry.blocks, FEW_ROWS)
    together = tuple(Row(i, 0, (0,), (i,), sample=True) for i in range(count))
    admissions = tuple(Admission(i, (0,), 1, _DRAWN) for i in range(count))
    plans.append(StepPlan(end + 1, together, admissions, (slot,)))
    plans.append(StepPlan(end + 2, (), releases=tuple(range(count))))
    return plans
