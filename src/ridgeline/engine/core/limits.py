"""What bounds a batch, and how long an answer is expected to be."""

from dataclasses import dataclass

MOST_DRAFTED = 8
"""Tokens of a step up to which drafts are added: reading weights hides so many, and hardly more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of the scheduler.

    Attributes:
        max_batch_tokens: token budget of a step, at least `max_batch`. More makes prefill
            cheaper and every running answer's next token later.
        max_waiting: requests that may wait; beyond it they are refused as `at_capacity`.
        watermark: fraction of the KV blocks kept back at admission, so that running sequences
            can grow a while before one must be preempted. More wastes KV, less preempts more.
        expected_output_tokens: first guess of an answer's length; learned from then on.
    """

    max_batch_tokens: int = 256
    max_waiting: int = 256
    watermark: float = 0.01
    expected_output_tokens: int = 256


class ExpectedOutput:
    """Running mean of the lengths of finished answers (exponential, about the last 50)."""

    def __init__(self, first_guess: int, weight: float = 0.02) -> None:
        self._mean = float(first_guess)
        self._weight = weight

    def observe(self, generated: int) -> None:
        """An answer ended by itself or by its limit after so many tokens."""
        self._mean += self._weight * (generated - self._mean)

    def total(self, generated: int, max_tokens: int) -> int:
        """Expected final length of an answer that has `generated` tokens by now.

        Past the mean there is no better guess than as much again as a block: long answers are
        admitted as they grow, not as they might.
        """
        return min(max_tokens, max(generated + 16, round(self._mean)))
