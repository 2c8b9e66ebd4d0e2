"""What a step computes, as the few sums that its cost follows from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NO_WINDOW: tuple[int | None, ...] = (None,)


@dataclass(frozen=True, slots=True)
class Work:
    """A step's work, summed over its sequences.

    Where layers have sliding windows, tokens read and pairs differ from layer to layer: they are
    means over the layers then, and need not be whole numbers.

    Attributes:
        new_tokens: tokens computed.
        cached_tokens: tokens in the KV cache that are read.
        attended_pairs: pairs of a new token and a token it attends to, itself included.
        logit_rows: positions whose logits are needed.
        sequences: how many there are.
        singles: those of them with one new token: decoding, or at the last token of a prompt.
        single_cached_tokens: what the singles read of `cached_tokens`.
    """

    new_tokens: int
    cached_tokens: float
    attended_pairs: float
    logit_rows: int
    sequences: int = 0
    singles: int = 0
    single_cached_tokens: float = 0

    @classmethod
    def of(
        cls,
        sequences: Iterable[tuple[int, int]],
        logit_rows: int,
        windows: Sequence[int | None] = (),
    ) -> "Work":
        """Sum (new tokens, context before them) over the sequences of a step.

        Args:
            sequences: of the step.
            logit_rows: positions whose logits are needed.
            windows: of the layers, see `ModelShape`.
        """
        counted = list(sequences)
        windows = windows or NO_WINDOW
        cached = single_cached = pairs = 0
        for window in windows:
            for new, context in counted:
                read = context if window is None else min(context, window - 1)
                cached += read
                pairs += _pairs(new, context, window)
                if new == 1:
                    single_cached += read
        return cls(
            new_tokens=sum(new for new, _ in counted),
            cached_tokens=_mean(cached, len(windows)),
            attended_pairs=_mean(pairs, len(windows)),
            logit_rows=logit_rows,
            sequences=len(counted),
            singles=sum(new == 1 for new, _ in counted),
            single_cached_tokens=_mean(single_cached, len(windows)),
        )

    @classmethod
    def decode(cls, batch: int, context_tokens: float) -> "Work":
        """A step in which so many sequences of this average context draw a token each."""
        cached = batch * context_tokens
        return cls(batch, cached, cached + batch, batch, batch, batch, cached)

    @property
    def chunk_pairs(self) -> float:
        """Of `attended_pairs`, those of sequences with more than one new token."""
        return self.attended_pairs - self.single_cached_tokens - self.singles

    def with_chunk(self, tokens: int, context: int, logit_rows: int = 0) -> "Work":
        """This work and a further sequence with so many new tokens after a context, without windows."""
        is_single = tokens == 1
        return Work(
            self.new_tokens + tokens,
            self.cached_tokens + context,
            self.attended_pairs + _pairs(tokens, context, None),
            self.logit_rows + logit_rows,
            self.sequences + 1,
            self.singles + is_single,
            self.single_cached_tokens + context * is_single,
        )


def _pairs(new: int, context: int, window: int | None) -> int:
    """The token at position p attends to p + 1, or to as many as the window has."""
    if window is None or context + new <= window:
        return new * context + new * (new + 1) // 2
    whole = max(0, window - context)  # tokens whose window is not yet full
    return _pairs(whole, context, None) + (new - whole) * window


def _mean(total: int, count: int) -> float:
    return total if count == 1 else total / count
