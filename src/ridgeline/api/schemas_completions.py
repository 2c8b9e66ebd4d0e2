"""The body of `/v1/completions`."""

from typing import Annotated

from pydantic import Field, PlainValidator

from ridgeline.api.schemas import MAX_ANSWERS, MAX_LOGPROBS, Generation, refused
from ridgeline.api.validation import kind_of, shown

MAX_PROMPTS = 64
MAX_PROMPT_TOKENS = 2**20


def _prompt_list(value: object) -> list[str | tuple[int, ...]]:
    """A string, strings, token ids or lists of token ids, as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise refused(
            "must be a string, a list of strings, a list of token ids or a list of such lists, "
            f"but is {kind_of(value)}."
        )
    if not value:
        raise refused("must not be an empty list.")
    if isinstance(value[0], int):
        return [_token_ids(value)]
    if len(value) > MAX_PROMPTS:
        raise refused(f"may have at most {MAX_PROMPTS} prompts, but has {len(value)}.")
    if isinstance(value[0], str):
        for entry in value:
            if not isinstance(entry, str):
                raise refused(f"must not mix strings with other things, but has {kind_of(entry)}.")
        return list(value)
    return [_token_ids(entry) for entry in value]


def _token_ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise refused(f"must have token ids or lists of them, but has {kind_of(value)}.")
    if not value:
        raise refused("must not have an empty list of token ids.")
    if len(value) > MAX_PROMPT_TOKENS:
        raise refused(f"may have at most {MAX_PROMPT_TOKENS} token ids, but has {len(value)}.")
    # Whole-list operations first: a prompt may be long, and all others wait while it is checked.
    if set(map(type, value)) != {int} or min(value) < 0 or max(value) >= 2**31:
        wrong = next(entry for entry in value if type(entry) is not int or not 0 <= entry < 2**31)
        raise refused(f"must have token ids, which are integers from 0, but has {shown(wrong)}.")
    return tuple(value)


class CompletionRequest(Generation):
    """Completions, with vLLM's extras. `prompt` is kept as a list, one entry per prompt."""

    prompt: Annotated[list[str | tuple[int, ...]], PlainValidator(_prompt_list)]
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
