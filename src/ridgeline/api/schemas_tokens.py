"""The bodies of `/tokenize` and `/detokenize`, in vLLM's shape."""

from typing import Annotated

from pydantic import Field

from ridgeline.api.schemas import Schema, TokenId
from ridgeline.api.schemas_chat import Messages


class TokenizeRequest(Schema):
    """Exactly one of `prompt` and `messages`."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    prompt: str | None = None
    messages: Messages | None = None


class DetokenizeRequest(Schema):
    """Token ids to be shown as text."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    tokens: Annotated[list[TokenId], Field(max_length=2**20)]
    skip_special_tokens: bool | None = None
