"""A request's way in: from messages or text to the sequences that the engine is asked for."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

from ridgeline.engine.core.sequence import Mark, SequenceSpec
from ridgeline.engine.served import ServedModel
from ridgeline.protocol import Message, Refusal, Request
from ridgeline.protocol.prefix_keys import PIECE_BYTES, prefix_keys, text_of, text_with_answer

LONG_TEXT_CHARACTERS = 16_384
"""Longer texts are tokenised in a thread, so that they do not hold up everybody's stream."""

MAX_CHARACTERS_PER_TOKEN = 64
"""No text is this much longer than its tokens; beyond it a prompt is not even tokenised."""


async def encode(
    served: ServedModel,
    text: str | None,
    messages: Sequence[Message] | None,
    continue_final_message: bool = False,
) -> list[int]:
    """Token ids of plain text, or of a conversation rendered with the model's template.

    Raises:
        Refusal: the text is longer than anything that fits, or the template refuses the messages.
    """
    length = len(text or "") + sum(len(message.content) for message in messages or ())
    limit = MAX_CHARACTERS_PER_TOKEN * served.info.max_context_tokens
    if length > limit:
        raise Refusal(
            "context_length_exceeded",
            f"The prompt has {length} characters; with a context of {served.info.max_context_tokens} "
            f"tokens at most {limit} are looked at.",
            param="messages" if messages is not None else "prompt",
        )

    def encoded() -> list[int]:
        if messages is None:
            return served.tokenizer.encode(text or "")
        return served.tokenizer.encode_chat(messages, continue_final_message=continue_final_message)

    return encoded() if length <= LONG_TEXT_CHARACTERS else await asyncio.to_thread(encoded)


async def prompt_of(served: ServedModel, request: Request) -> tuple[int, ...]:
    """The request's prompt as token ids; raises `Refusal`."""
    if isinstance(request.prompt, tuple):
        check_ids(request.prompt, served.tokenizer.vocab_size, "prompt")
        return request.prompt
    return tuple(await encode(served, request.prompt, request.messages, request.continue_final_message))


def check_ids(token_ids: Sequence[int], vocab_size: int, param: str) -> None:
    """Raise a `Refusal` naming the first id that the model does not have."""
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise Refusal(
                "invalid_request",
                f"{param} has token id {token_id}, but ids go from 0 to {vocab_size - 1}.",
                param=param,
            )


def sequences_of(served: ServedModel, request: Request, prompt: tuple[int, ...]) -> list[SequenceSpec]:
    """One sequence per answer, with its seed and its limit set; raises `Refusal`."""
    asked = request.sampling.seed
    seed = random.getrandbits(62) if asked is None else asked
    stop_ids = set(request.stopping.stop_token_ids)
    check_ids(request.stopping.stop_token_ids, served.tokenizer.vocab_size, "stop_token_ids")
    if not request.stopping.ignore_eos:
        stop_ids |= served.tokenizer.eos_token_ids
    if request.stopping.min_tokens and len(stop_ids) >= served.info.vocab_size:
        raise Refusal(
            "invalid_request",
            f"min_tokens is {request.stopping.min_tokens}, but every token of {served.info.name} is a "
            "stop token: none is left to draw.",
            param="min_tokens",
        )
    max_tokens = _max_tokens(served, request, len(prompt))
    return [
        SequenceSpec(
            id=f"{request.id}/{index}",
            prompt=prompt,
            sampling=replace(request.sampling, seed=seed + index),
            max_tokens=max_tokens,
            stop_token_ids=frozenset(stop_ids),
            min_tokens=request.stopping.min_tokens,
            priority=request.priority,
            tenant=request.tenant,
            cache_salt=request.cache_salt,
            begin_at_once=request.begin_at_once,
            # All answers share the prompt, so one of them says where keys end in it.
            marks=prompt_marks(request, len(prompt)) if index == 0 else (),
        )
        for index in range(request.n)
    ]


def prompt_marks(request: Request, prompt_tokens: int) -> tuple[Mark, ...]:
    """Where a front door's keys end in the prompt; none where the request does not come from one."""
    if not request.begin_at_once:
        return ()
    text = text_of(request)
    return tuple(
        Mark(_share(end, len(text), prompt_tokens), key)
        for end, key in _ends(prefix_keys(request.cache_salt, text))
    )


def answer_marks(
    request: Request, asked: Sequence[Mark], said: str, prompt_tokens: int, answer_tokens: int
) -> tuple[Mark, ...]:
    """Where a front door's keys end in the whole conversation, those of its prompt left out.

    Args:
        request: from a front door.
        asked: marks of its prompt.
        said: text of its first answer.
        prompt_tokens: of the request.
        answer_tokens: of the answer.
    """
    before, text = len(text_of(request)), text_with_answer(request, said)
    keys = prefix_keys(request.cache_salt, text, [mark.key for mark in asked])
    return tuple(
        Mark(prompt_tokens + _share(end - before, len(text) - before, answer_tokens), key)
        for end, key in _ends(keys)[len(asked) :]
    )


def _ends(keys: Sequence[bytes]) -> list[tuple[int, bytes]]:
    return [((place + 1) * PIECE_BYTES, key) for place, key in enumerate(keys)]


def _share(part_bytes: int, all_bytes: int, tokens: int) -> int:
    """Tokens of a part of a text, as if each had as many bytes; at least 1."""
    return max(1, -(-part_bytes * tokens // all_bytes))


def _max_tokens(served: ServedModel, request: Request, prompt_tokens: int) -> int:
    """The answer's limit: what was asked for, else what the context leaves."""
    limit = served.info.max_context_tokens
    asked = request.stopping.max_tokens
    if prompt_tokens + (1 if asked is None else asked) > limit:
        wish = "" if asked is None else f" and max_tokens is {asked}"
        raise Refusal(
            "context_length_exceeded",
            f"The prompt has {prompt_tokens} tokens{wish}, but the context of {served.info.name} "
            f"holds {limit}.",
            param="messages" if request.messages is not None else "prompt",
        )
    return limit - prompt_tokens if asked is None else asked
