"""Log probabilities out of OpenAI's two ways to write them."""

from collections.abc import Mapping
from typing import Any

from ridgeline.protocol import TokenLogprob

_BYTES = "bytes:"
UNKNOWN_TOKEN = -1
"""The API tells texts, and not ids."""


def logprobs_of(told: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    """Of a choice's `logprobs`, of chats or of completions."""
    if "content" in told:
        return tuple(_of_chat(token) for token in told["content"] or ())
    tops = told.get("top_logprobs") or [None] * len(told["tokens"])
    drawn = zip(told["tokens"], told["token_logprobs"], tops, strict=True)
    return tuple(
        _labelled(label, logprob, tuple(_labelled(*each) for each in (top or {}).items()))
        for label, logprob, top in drawn
    )


def _of_chat(token: Mapping[str, Any]) -> TokenLogprob:
    text = str(token["token"])
    told = token.get("bytes")
    content = text.encode("utf-8", "surrogatepass") if told is None else bytes(told)
    top = tuple(_of_chat(other) for other in token.get("top_logprobs") or ())
    return TokenLogprob(UNKNOWN_TOKEN, text, content, token["logprob"], top)


def _labelled(label: str, logprob: float | None, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    """Completions tell a token's text or, of a part of a character, its bytes as `bytes:\\xe2\\x82`."""
    if label.startswith(_BYTES + "\\x"):
        content = bytes.fromhex(label.removeprefix(_BYTES).replace("\\x", ""))
        return TokenLogprob(UNKNOWN_TOKEN, content.decode("utf-8", "replace"), content, logprob, top)
    return TokenLogprob(UNKNOWN_TOKEN, label, label.encode("utf-8", "surrogatepass"), logprob, top)
