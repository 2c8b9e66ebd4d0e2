"""Documented parameters that change nothing here: harmless values pass, all others are refused by name."""

from collections.abc import Callable
from dataclasses import dataclass

from ridgeline.protocol import Refusal


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A parameter of OpenAI's that this server does not carry out.

    Attributes:
        harmless: whether a value asks for nothing, or for what is done anyway.
        reason: ends the sentence "`tools` is not supported: ...".
    """

    harmless: Callable[[object], bool]
    reason: str

    def check(self, name: str, value: object) -> None:
        """Let a harmless value pass.

        Raises:
            Refusal: `invalid_request` for any other.
        """
        if value is not None and not self.harmless(value):
            raise Refusal("invalid_request", f"`{name}` is not supported: {self.reason}.", param=name)


def never(_: object) -> bool:
    """Only null is harmless."""
    return False


def empty(value: object) -> bool:
    """Null and an empty list are harmless."""
    return value == []


def one_of(*values: object) -> Callable[[object], bool]:
    """These values ask for what is done anyway."""
    return lambda value: any(type(value) is type(known) and value == known for known in values)


def any_boolean(value: object) -> bool:
    """Both true and false ask for nothing."""
    return isinstance(value, bool)


def any_label(value: object) -> bool:
    """A string for the client's own bookkeeping, which asks for nothing."""
    return isinstance(value, str) and len(value) <= 512


def metadata(value: object) -> bool:
    """OpenAI's metadata: up to 16 pairs of strings, which ask for nothing."""
    return (
        isinstance(value, dict)
        and len(value) <= 16
        and all(len(key) <= 64 and isinstance(item, str) and len(item) <= 512 for key, item in value.items())
    )


_TOOLS = "this server calls no tools and no functions"
_LABEL = Unsupported(any_label, "it may only be a string of up to 512 characters, which changes nothing")

_OF_SGLANG = {
    "no_stop_trim": Unsupported(one_of(False), "stop strings are cut off; only false is accepted"),
    "skip_special_tokens": Unsupported(one_of(True), "they are no text; only true is accepted"),
    "return_hidden_states": Unsupported(one_of(False), "answers are text; only false is accepted"),
}
"""SGLang's router says these in every request."""

COMPLETIONS: dict[str, Unsupported] = {
    **_OF_SGLANG,
    "user": _LABEL,
    "suffix": Unsupported(one_of(""), "text can be continued, not filled in between prompt and suffix"),
}

CHAT: dict[str, Unsupported] = {
    **_OF_SGLANG,
    "separate_reasoning": Unsupported(any_boolean, "it must be true or false"),
    "stream_reasoning": Unsupported(any_boolean, "it must be true or false"),
    "user": _LABEL,
    "safety_identifier": _LABEL,
    "prompt_cache_key": _LABEL,
    "metadata": Unsupported(
        metadata, "it may only be an object of up to 16 short strings, which changes nothing"
    ),
    "store": Unsupported(one_of(False), "answers are not stored; only false is accepted"),
    "tools": Unsupported(empty, _TOOLS),
    "tool_choice": Unsupported(one_of("none", "auto"), _TOOLS),
    "parallel_tool_calls": Unsupported(any_boolean, "it must be true or false"),
    "functions": Unsupported(empty, _TOOLS),
    "function_call": Unsupported(one_of("none", "auto"), _TOOLS),
    "audio": Unsupported(never, "answers are text"),
    "modalities": Unsupported(one_of(["text"]), 'answers are text; only ["text"] is accepted'),
    "moderation": Unsupported(never, "this server has no moderation model"),
    "prediction": Unsupported(never, "predicted output is not used"),
    "prompt_cache_options": Unsupported(
        one_of({"mode": "implicit"}), 'the prefix cache is automatic; only {"mode": "implicit"} is accepted'
    ),
    "prompt_cache_retention": Unsupported(
        one_of("in_memory"), 'cached prefixes live in memory; only "in_memory" is accepted'
    ),
    "reasoning_effort": Unsupported(
        one_of("none"), 'the models have no levels of effort; only "none" is accepted'
    ),
    "response_format": Unsupported(
        one_of({"type": "text"}), 'output is free text; only {"type": "text"} is accepted'
    ),
    "verbosity": Unsupported(one_of("medium"), 'say it in the prompt instead; only "medium" is accepted'),
    "web_search_options": Unsupported(never, "this server does not search the web"),
}

TOKENIZE: dict[str, Unsupported] = {
    "add_special_tokens": Unsupported(
        one_of(True), "tokens are counted as a request would; only true is accepted"
    ),
    "add_generation_prompt": Unsupported(one_of(True), "only true is accepted"),
    "continue_final_message": Unsupported(one_of(False), "only false is accepted"),
    "return_token_strs": Unsupported(one_of(False), "use /detokenize; only false is accepted"),
}
