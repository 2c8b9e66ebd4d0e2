"""From a checked schema to the request that a backend takes. Rules that span several fields are here."""

import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from starlette.requests import Request as HttpRequest

from ridgeline.api.schemas import BATCH_TIERS, Generation
from ridgeline.api.schemas_chat import ChatMessage, ChatRequest
from ridgeline.api.schemas_completions import CompletionRequest
from ridgeline.protocol import Message, ModelInfo, Refusal, Request, Sampling, Stopping
from ridgeline.protocol.request import BEGIN_AT_ONCE, PRIORITY_BATCH, PRIORITY_INTERACTIVE

T = TypeVar("T")

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for completions; chat completions go on as long as the context allows."""


def chat_request(body: ChatRequest, info: ModelInfo, tenant: str, name: str) -> Request:
    """One backend request for a chat completion; `name` is the id that its client is told.

    Raises:
        Refusal: `invalid_request` where fields contradict each other or the model.
    """
    if not info.has_chat_template:
        raise _invalid("model", f"{info.name} has no chat template; use /v1/completions")
    if body.top_logprobs is not None and not body.logprobs:
        raise _invalid("top_logprobs", "needs `logprobs` to be true")
    return Request(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        model=info.name,
        messages=to_messages(body.messages),
        n=body.n or 1,
        sampling=_sampling(body, info, logprobs=(body.top_logprobs or 0) if body.logprobs else None),
        stopping=_stopping(body, info, _chat_limit(body)),
        priority=_priority(body),
        tenant=tenant,
        cache_salt=body.cache_salt or "",
        allow_smaller_model=bool(body.allow_smaller_model),
        continue_final_message=continues(body),
        received_seconds=time.monotonic(),
        name=name,
        whole=not body.stream,
    )


def completion_requests(body: CompletionRequest, info: ModelInfo, tenant: str, name: str) -> list[Request]:
    """One backend request per prompt of a completion; all go by the same `name`.

    Raises:
        Refusal: `invalid_request` where fields contradict each other or the model.
    """
    n = body.n or 1
    if body.best_of is not None and body.best_of != n:
        raise _invalid(
            "best_of", f"answers are not ranked, so it must equal `n`, which is {n}, but is {body.best_of}"
        )
    echo = bool(body.echo)
    if body.max_tokens == 0 and not echo:
        raise _invalid("max_tokens", "must be at least 1 unless `echo` is true, but is 0")
    limit = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    for prompt in body.prompt:
        if not isinstance(prompt, str):
            check_token_ids("prompt", prompt, info)
    sampling = _sampling(body, info, logprobs=body.logprobs, prompt_logprobs=body.logprobs if echo else None)
    stopping = _stopping(body, info, limit)
    received, group = time.monotonic(), uuid.uuid4().hex
    return [
        Request(
            id=f"cmpl-{group}-{index}",
            model=info.name,
            prompt=prompt,
            n=n,
            sampling=sampling,
            stopping=stopping,
            echo=echo,
            priority=_priority(body),
            tenant=tenant,
            cache_salt=body.cache_salt or "",
            allow_smaller_model=bool(body.allow_smaller_model),
            received_seconds=received,
            name=name,
            whole=not body.stream,
        )
        for index, prompt in enumerate(body.prompt)
    ]


def of_caller(http: HttpRequest, requests: list[Request]) -> list[Request]:
    """Requests with what their HTTP request says of them; what the backend tells becomes its headers."""
    http.state.told = requests[0].told
    if BEGIN_AT_ONCE not in http.headers:
        return requests
    return [replace(request, begin_at_once=True) for request in requests]


def to_messages(messages: list[ChatMessage]) -> tuple[Message, ...]:
    """Messages as templates know them: `developer` is what newer clients call `system`."""
    return tuple(
        Message("system" if message.role == "developer" else message.role, message.content)
        for message in messages
    )


def continues(body: ChatRequest) -> bool:
    """Whether the last message is to be gone on with, checked as vLLM checks it."""
    goes_on = bool(body.continue_final_message)
    check_continuation(goes_on, body.add_generation_prompt, body.messages)
    return goes_on


def check_continuation(
    goes_on: bool, add_generation_prompt: bool | None, messages: list[ChatMessage]
) -> None:
    """Check the pair `continue_final_message` and `add_generation_prompt`.

    Raises:
        Refusal: `invalid_request` where they contradict each other or the last message.
    """
    if goes_on and add_generation_prompt:
        raise _invalid("continue_final_message", "cannot be true together with `add_generation_prompt`")
    if not goes_on and add_generation_prompt is False:
        raise _invalid("add_generation_prompt", "can be false only where `continue_final_message` is true")
    if goes_on and messages[-1].role != "assistant":
        raise _invalid(
            "continue_final_message",
            f"needs a last message of the role 'assistant', but it is {messages[-1].role!r}",
        )


def _chat_limit(body: ChatRequest) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise _invalid("max_tokens", f"is {old}, but `max_completion_tokens`, its newer name, is {new}")
    return old if new is None else new


def _sampling(
    body: Generation, info: ModelInfo, *, logprobs: int | None, prompt_logprobs: int | None = None
) -> Sampling:
    default = Sampling()
    bias = body.logit_bias or {}
    check_token_ids("logit_bias", bias, info)
    return Sampling(
        temperature=_or(body.temperature, default.temperature),
        top_p=_or(body.top_p, default.top_p),
        # vLLM writes "all" as -1, older versions of it as 0.
        top_k=max(0, _or(body.top_k, default.top_k)),
        min_p=_or(body.min_p, default.min_p),
        repetition_penalty=_or(body.repetition_penalty, default.repetition_penalty),
        presence_penalty=_or(body.presence_penalty, default.presence_penalty),
        frequency_penalty=_or(body.frequency_penalty, default.frequency_penalty),
        logit_bias=bias,
        seed=body.seed,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _stopping(body: Generation, info: ModelInfo, limit: int | None) -> Stopping:
    ids = tuple(body.stop_token_ids or ())
    check_token_ids("stop_token_ids", ids, info)
    min_tokens = body.min_tokens or 0
    if limit is not None and min_tokens > limit:
        raise _invalid("min_tokens", f"must be at most the limit of new tokens, {limit}, but is {min_tokens}")
    return Stopping(
        max_tokens=limit,
        min_tokens=min_tokens,
        stop=tuple(body.stop or ()),
        stop_token_ids=ids,
        ignore_eos=bool(body.ignore_eos),
    )


def check_token_ids(param: str, ids: Iterable[int], info: ModelInfo) -> None:
    """Check that a model has these tokens.

    Raises:
        Refusal: `invalid_request`, naming the highest of them.
    """
    highest = max(ids, default=0)
    if highest >= info.vocab_size:
        raise _invalid(
            param,
            f"must have token ids below {info.vocab_size}, the vocabulary size of {info.name}, "
            f"but has {highest}",
        )


def _priority(body: Generation) -> int:
    return PRIORITY_BATCH if body.service_tier in BATCH_TIERS else PRIORITY_INTERACTIVE


def check_stream_options(body: Generation) -> None:
    """Check that options of a stream come with a stream.

    Raises:
        Refusal: `invalid_request` where they do not.
    """
    if body.stream_options is not None and not body.stream:
        raise _invalid("stream_options", "can be set only where `stream` is true")


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _invalid(param: str, sentence: str) -> Refusal:
    return Refusal("invalid_request", f"`{param}` {sentence}.", param=param)
