"""What is foretold of a sequence when it arrives, kept to be compared with what comes."""

from dataclasses import dataclass
from typing import Literal

from ridgeline.engine.core.pace import Pace
from ridgeline.roofline import StepTime, Work


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one sequence.

    Attributes:
        wait_seconds: from arrival to its first step.
        first_token_seconds: from arrival to its first token.
        cached_tokens: of its prompt that will be found in the KV cache.
    """

    wait_seconds: float
    first_token_seconds: float
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """A part of a forecast beside what came, in seconds or tokens."""

    what: Literal["time_to_first_token", "cached_tokens", "wait"]
    predicted: float
    outcome: float


def prefill_seconds(step_time: StepTime, pace: Pace, decoding: Work, tokens: int) -> float:
    """How long so many prompt tokens take beside what is being decoded, in as many steps as it needs.

    Args:
        step_time: of this engine.
        pace: sets the size of steps.
        decoding: what each of the steps computes in any case.
        tokens: of the prompt itself and of those served before it; at least one.
    """
    chunk = max(1, pace.tokens(decoding, 0) - decoding.new_tokens)
    whole, rest = divmod(tokens, chunk)
    if rest == 0:
        whole, rest = whole - 1, chunk
    # In the middle of the prompt a chunk attends to half of it on average.
    full = step_time.seconds(decoding.with_chunk(chunk, whole * chunk // 2)) if whole else 0.0
    return whole * full + step_time.seconds(decoding.with_chunk(rest, whole * chunk, 1))
