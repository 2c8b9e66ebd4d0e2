"""Which tokens of a conversation every tenant may share: those of registered system prompts."""

from collections.abc import Sequence
from itertools import takewhile

from ridgeline.models.errors import ModelError
from ridgeline.protocol import Message, Refusal
from ridgeline.text.tokenizer import Tokenizer


def tokens_before_user(tokenizer: Tokenizer, system: str) -> list[int]:
    """What all conversations with this system prompt begin with, whatever the user writes.

    Raises:
        ModelError: the model's template has no place for a system prompt.
    """
    try:
        first, second = (
            tokenizer.encode_chat([Message("system", system), Message("user", word)]) for word in ("a", "b")
        )
    except Refusal as refusal:
        raise ModelError(f"--shared-prefix cannot be used with this model: {refusal.message}") from None
    return common_prefix(first, second)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """The tokens that both begin with."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return [token for token, _ in pairs]
