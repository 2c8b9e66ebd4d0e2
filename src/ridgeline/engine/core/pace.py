"""How large the next step may be: by fixed numbers, or so that no answer falls behind its target.

Of a step, decoding comes first: each running answer takes one token of it. What is left goes to
prompts. With a target of inter-token latency a step grows until it is predicted to take as long as
the target allows: a large batch leaves little for prompts, so that fewer answers begin, and the batch
shrinks until both flow. Nothing of that depends on the model, the device or the kind of work; all
three are in the predicted time, which is learned from the steps themselves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ridgeline.engine.core.limits import Limits
from ridgeline.roofline import StepTime, Work

DECODE_SHARE = 0.9
"""Of the target, for decoding alone: some of each step is left for prompts, or no answer would begin."""

LEAST_PREFILL = 16
"""Prompt tokens of a step in any case, so that whoever has a place gets on."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How large a step may be.

    Attributes:
        tokens: in all.
        sequences: in the batch.
        target_seconds: of inter-token latency that this follows; 0: from none.
    """

    tokens: int
    sequences: int
    target_seconds: float = 0.0


class Pace(Protocol):
    """Sets the size of steps."""

    def tokens(self, decoding: Work, context_tokens: int) -> int:
        """Tokens that a step may have, those of `decoding` included.

        Args:
            decoding: what the step computes in any case.
            context_tokens: cached before the prompt tokens that would be added.
        """
        ...

    def sequences(self, context_tokens: float) -> int:
        """Sequences of this mean context that the batch may have."""
        ...

    @property
    def target_seconds(self) -> float:
        """Of inter-token latency; 0 if there is none."""
        ...


class FixedPace:
    """The same for every step."""

    target_seconds = 0.0

    def __init__(self, limits: Limits, max_batch: int) -> None:
        self._tokens = limits.max_batch_tokens
        self._sequences = max_batch

    def tokens(self, decoding: Work, context_tokens: int) -> int:
        """See `Pace.tokens`."""
        return self._tokens

    def sequences(self, context_tokens: float) -> int:
        """See `Pace.sequences`."""
        return self._sequences


class TargetPace:
    """As much as is predicted to keep the time between two tokens under a target.

    Args:
        step_time: predicts steps on this machine.
        target_seconds: of inter-token latency; 98 of 100 steps are to keep it.
        limits: most tokens of a step.
        max_batch: most sequences.
    """

    def __init__(self, step_time: StepTime, target_seconds: float, limits: Limits, max_batch: int) -> None:
        if target_seconds <= 0:
            raise ValueError(f"target_seconds must be above 0, it is {target_seconds}")
        self._time = step_time
        self.target_seconds = target_seconds
        self._most_tokens = limits.max_batch_tokens
        self._most_sequences = max_batch

    def tokens(self, decoding: Work, context_tokens: int) -> int:
        """See `Pace.tokens`. Where no answer is being written, nobody's next token is late."""
        if not decoding.sequences:
            return self._most_tokens
        room = self._most_tokens - decoding.new_tokens
        allowed = self._allowed
        found = _most(
            room, lambda count: self._time.seconds(decoding.with_chunk(count, context_tokens, 1)) <= allowed
        )
        return decoding.new_tokens + min(room, max(found, LEAST_PREFILL))

    def sequences(self, context_tokens: float) -> int:
        """See `Pace.sequences`; at least one."""
        allowed = self._allowed * DECODE_SHARE
        return max(
            1,
            _most(
                self._most_sequences,
                lambda count: self._time.seconds(Work.decode(count, context_tokens)) <= allowed,
            ),
        )

    @property
    def _allowed(self) -> float:
        """What may be predicted for a step that is to keep the target."""
        return self.target_seconds / self._time.high_ratio


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """Largest number up to `limit` that fits, where whatever is smaller fits too; 0 if none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
