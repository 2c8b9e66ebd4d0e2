"""The body of `/v1/chat/completions`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ridgeline.api.schemas import MAX_LOGPROBS, Generation, Schema, refused
from ridgeline.api.validation import kind_of, shown

_UNSENDABLE = ("name", "refusal", "audio", "tool_calls", "tool_call_id", "function_call", "annotations")


def _check_content(value: object) -> object:
    """Text as a string, or as a list of text parts, which are joined."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise refused(f"must be a string or a list of text parts, but is {kind_of(value)}.")
    return "".join(_text_of(index, part) for index, part in enumerate(value))


def _text_of(index: int, part: object) -> str:
    if not isinstance(part, dict):
        raise refused(f"must have objects as parts, but part {index} is {kind_of(part)}.")
    kind = part.get("type")
    if kind != "text":
        raise refused(f"may have text parts only, but part {index} is of type {shown(kind)}.")
    for key in part.keys() - {"type", "text"}:
        if part[key] is not None:
            raise refused(f"may not have {shown(key)} in part {index}; a text part has only `text`.")
    text = part.get("text")
    if not isinstance(text, str):
        raise refused(f"must have a string as `text` in part {index}, but has {kind_of(text)}.")
    return text


def _drop_harmless(value: object) -> object:
    """Clients send their last answer back with all its empty fields."""
    if not isinstance(value, dict):
        return value
    role = value.get("role")
    if role in ("tool", "function"):
        raise refused(f"has the role {role!r}, which is not supported: this server calls no tools.")
    for key in _UNSENDABLE:
        if value.get(key) not in (None, []):
            raise refused(f"has `{key}`, which is not supported.")
    return {key: item for key, item in value.items() if key not in _UNSENDABLE}


class ChatMessage(Schema):
    """One turn; `developer` is another word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_check_content)]


Messages = Annotated[
    list[Annotated[ChatMessage, BeforeValidator(_drop_harmless)]], Field(min_length=1, max_length=4096)
]


class ChatRequest(Generation):
    """Chat completions, with vLLM's extras."""

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
