"""Who gets how much of a step's prefill budget."""

from collections.abc import Sequence as Seq

from ridgeline.engine.core.sequence import Sequence

OLDEST_SHARE = 4
"""The oldest prefill gets at least one part in this many, so that it never starves."""


def prefill_order(sequence: Sequence) -> tuple[int, int, int]:
    """Shortest remaining first within a priority: the least mean time to first token.

    Prompts of equal length are served one after the other, for the one begun is the shorter.
    """
    return (sequence.spec.priority, sequence.remaining, sequence.order)


def share_prefill(prefilling: Seq[Sequence], budget: int) -> list[tuple[Sequence, int]]:
    """Chunks of this step, at least one token each, at most `budget` in all."""
    if not prefilling or budget <= 0:
        return []
    ordered = sorted(prefilling, key=prefill_order)
    oldest = min(ordered, key=lambda s: (s.spec.priority, s.order))
    reserved = min(oldest.remaining, max(1, budget // OLDEST_SHARE))
    left = budget - reserved
    chunks = []
    for sequence in ordered:
        extra = min(sequence.remaining - (reserved if sequence is oldest else 0), left)
        left -= extra
        count = extra + (reserved if sequence is oldest else 0)
        if count:
            chunks.append((sequence, count))
    return chunks


def served_before(candidate: Sequence, prefilling: Seq[Sequence]) -> int:
    """Prefill tokens that go before the candidate's first, were it admitted now."""
    key = prefill_order(candidate)
    return sum(s.remaining for s in prefilling if prefill_order(s) < key)
