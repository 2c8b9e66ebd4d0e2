"""What chat completions and completions share about an answer: collecting it, its usage, its headers."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ridgeline.api.errors import error_response
from ridgeline.api.schemas import BATCH_TIERS, Generation
from ridgeline.api.streaming import Chunks, EventStream, Gone, run, while_connected
from ridgeline.protocol import Backend, Delta, FinishReason, Refusal, Request, TokenLogprob, Usage
from ridgeline.protocol.request import SERVED_MODEL

LEAST_LOGPROB = -9999.0
"""What OpenAI writes for a token that cannot be drawn; JSON has no minus infinity."""

BEAT_SECONDS = 15.0
"""Well within the time after which a front door takes a silent replica for broken."""


@dataclass(slots=True)
class Answer:
    """One answer, put together from its deltas."""

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    stop_reason: str | int | None = None
    continued: bool = False


class UsageSum:
    """Tokens over all answers of all requests; a prompt counts once however many answers it has."""

    def __init__(self, requests: int) -> None:
        self._parts: list[Usage | None] = [None] * requests

    def add(self, position: int, delta: Delta) -> None:
        """Count a delta of the request at `position`."""
        if delta.usage is not None:
            so_far = self._parts[position]
            self._parts[position] = delta.usage if so_far is None else so_far + delta.usage

    def as_json(self) -> dict[str, object]:
        """OpenAI's usage object."""
        parts = [part for part in self._parts if part is not None]
        prompt = sum(part.prompt_tokens for part in parts)
        completion = sum(part.completion_tokens for part in parts)
        cached = sum(part.cached_tokens for part in parts)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields that every object of one response carries alike."""

    id: str
    model: str
    created: int
    fingerprint: str | None
    service_tier: str | None
    told: Mapping[str, str]

    def wrap(self, kind: str, choices: Sequence[Mapping[str, object]]) -> dict[str, object]:
        """An object of OpenAI's around choices."""
        body: dict[str, object] = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.told.get(SERVED_MODEL, self.model),
            "choices": choices,
            "system_fingerprint": self.fingerprint,
        }
        if self.service_tier is not None:
            body["service_tier"] = self.service_tier
        return body


def envelope(backend: Backend, body: Generation, requests: Sequence[Request]) -> Envelope:
    """The envelope of a response to `requests`, which are of one model."""
    model = requests[0].model
    prints = [status.fingerprint for status in backend.status().models if status.name == model]
    tier = None if body.service_tier is None else "flex" if body.service_tier in BATCH_TIERS else "default"
    fingerprint = prints[0] if prints else None
    return Envelope(requests[0].id, model, int(time.time()), fingerprint, tier, requests[0].told)


Completion = Callable[[Sequence[Answer]], dict[str, object]]
"""Makes the object of a response of answers; the usage is not in it."""


async def whole(
    http: HttpRequest, backend: Backend, requests: Sequence[Request], completion: Completion
) -> Response:
    """The response that carries whole answers; raises the Refusal that the backend refuses with."""
    if requests[0].begin_at_once:
        return HeadFirst(backend, requests, completion)
    try:
        body = await while_connected(http.receive, collected(backend, requests, completion))
    except Gone:
        return nobody()
    return Response(body, media_type="application/json", headers=served_headers(requests[0].model))


async def collected(
    backend: Backend,
    requests: Sequence[Request],
    completion: Completion,
    began: Callable[[], Awaitable[None]] | None = None,
) -> bytes:
    """Run requests to their end; answer `i` of the request at `p` is at `p * n + i`. `began` is called once.

    Raises:
        Refusal: what the backend refuses with.
    """
    n = requests[0].n
    answers = [Answer() for _ in range(n * len(requests))]
    usage = UsageSum(len(requests))
    waiting = began

    async def emit(position: int, delta: Delta) -> None:
        nonlocal waiting
        answer = answers[position * n + delta.index]
        answer.text.append(delta.text)
        answer.logprobs.extend(delta.logprobs or ())
        answer.token_ids.extend(delta.token_ids)
        answer.continued |= delta.continued
        if delta.finish is not None:
            answer.finish, answer.stop_reason = delta.finish, delta.stop_reason
        usage.add(position, delta)
        if waiting is not None:
            tell, waiting = waiting, None
            await tell()

    await run(backend, requests, emit)
    if any(answer.finish is None for answer in answers):
        raise Refusal("internal_error", "The backend ended an answer without a reason.")
    return orjson.dumps(completion(answers) | {"usage": usage.as_json()})


class HeadFirst(Response):
    """A whole answer whose head is sent as soon as its first token is there, for a front door.

    So that door knows that the prompt is computed without reading each token, and by a space now and then,
    which JSON allows before a value, that the answer is still being made. A failure after the head breaks
    the connection: nobody has seen anything of the answer, and another replica can be asked for all of it.
    """

    def __init__(self, backend: Backend, requests: Sequence[Request], completion: Completion) -> None:
        super().__init__(headers=served_headers(requests[0].model), media_type="application/json")
        del self.headers["content-length"]
        self._backend, self._requests, self._completion = backend, requests, completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; return early, with everything cancelled, when the client is gone."""
        started = False

        async def begin() -> None:
            nonlocal started
            started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

        async def produce() -> None:
            body = await collected(self._backend, self._requests, self._completion, begin)
            await send({"type": "http.response.body", "body": body})

        async def beat() -> None:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                if started:
                    await send({"type": "http.response.body", "body": b" ", "more_body": True})

        try:
            await while_connected(receive, produce(), beat())
        except Gone:
            return
        except Refusal as refusal:
            if started:
                raise
            await error_response(refusal)(scope, receive, send)


def stream(http: HttpRequest, backend: Backend, requests: Sequence[Request], chunks: Chunks) -> Response:
    """The response that streams `requests` as `chunks`."""
    return EventStream(
        backend,
        requests,
        chunks,
        headers=served_headers(requests[0].model),
        send_timeout_seconds=http.app.state.settings.send_timeout_seconds,
    )


def nobody() -> Response:
    """What stands for a response where the client is gone; it is never read."""
    return Response(status_code=499)


def served_headers(model: str) -> dict[str, str]:
    """`x-served-model`; header values are Latin-1, names of models need not be."""
    return {SERVED_MODEL: model.encode("ascii", "backslashreplace").decode("ascii")}


def finite(logprob: float | None) -> float | None:
    """A log probability as JSON can carry it."""
    return None if logprob is None else max(logprob, LEAST_LOGPROB)
