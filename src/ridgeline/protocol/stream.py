"""What comes back: deltas of an answer, with the usage on the last."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of the answer with its log probability and the alternatives to it.

    `text_bytes` are the token's own bytes; a character may be spread over several tokens.
    `logprob` is None only for the first token of an echoed prompt, which nothing predicts.
    """

    token_id: int
    text: str
    text_bytes: bytes
    logprob: float | None
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request; `cached_tokens` of the prompt were found in the KV cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Sum over the answers of one request; the prompt counts once."""
        return Usage(
            max(self.prompt_tokens, other.prompt_tokens),
            self.completion_tokens + other.completion_tokens,
            max(self.cached_tokens, other.cached_tokens),
        )


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of answer `index`.

    Attributes:
        text: whole characters only; may be empty while one is incomplete.
        token_ids: the tokens that this delta stands for.
        logprobs: one entry per token where the request asked for them.
        finish: set on the last delta of this answer, and only there.
        stop_reason: the stop string or stop token that ended the answer, if one did.
        usage: this answer's tokens; set on its last delta, and only there.
        fingerprint: of the replica that made it, where a front door knows it.
        continued: from here on another replica goes on, whose text may not be what the first one's would
            have been.
    """

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    fingerprint: str | None = None
    continued: bool = False
