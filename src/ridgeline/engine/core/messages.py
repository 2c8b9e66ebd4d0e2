"""The engine's edge: what goes into its inbox, and the one list that comes out per step."""

from dataclasses import dataclass
from typing import Literal

from ridgeline.engine.core.plan import Score
from ridgeline.engine.core.sequence import Mark, SequenceSpec
from ridgeline.protocol import FinishReason, Refusal


@dataclass(frozen=True, slots=True)
class Submit:
    """Start a sequence."""

    spec: SequenceSpec
    arrived_seconds: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a sequence, waiting or running; unknown ids are ignored (it may have just finished)."""

    sequence_id: str
    reason: Literal["cancelled", "stop"] = "cancelled"


@dataclass(frozen=True, slots=True)
class MarkAnswer:
    """Where front doors' keys end in a sequence that has ended, answer included: its text is known now."""

    sequence_id: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """What a step, or a refusal, has for one sequence.

    Attributes:
        token_ids: new tokens; a stop token is among them, as the last.
        scores: one per new token where the sequence asked for log probabilities.
        prompt_scores: for prompt positions scored since the last output.
        finish: the sequence is over and unknown to the engine from now on.
        stop_token_id: the stop token that ended it.
        cached_tokens: of the prompt, found in the KV cache at first admission.
        queue_seconds: from arrival to first admission; None while never admitted.
        refusal: it was not taken, or failed; then it is over as well.
    """

    sequence_id: str
    token_ids: tuple[int, ...] = ()
    scores: tuple[Score, ...] = ()
    prompt_scores: tuple[Score, ...] = ()
    finish: FinishReason | None = None
    stop_token_id: int | None = None
    cached_tokens: int = 0
    queue_seconds: float | None = None
    refusal: Refusal | None = None
