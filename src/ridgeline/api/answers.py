"""What chat completions and completions share about an answer: collecting it, its usage, its headers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ridgeline.api.schemas import BATCH_TIERS, Generation
from ridgeline.api.streaming import Chunks, EventStream, Gone, run, while_connected
from ridgeline.protocol import Backend, Delta, FinishReason, Refusal, Request, TokenLogprob, Usage
from ridgeline.protocol.request import SERVED_MODEL

LEAST_LOGPROB = -9999.0
"""What OpenAI writes for a token that cannot be drawn; JSON has no minus infinity."""


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


async def collect(
    http: HttpRequest, backend: Backend, requests: Sequence[Request]
) -> tuple[list[Answer], UsageSum]:
    """Run requests to their end; answer `i` of the request at `p` is at `p * n + i`.

    Raises:
        Refusal: what the backend refuses with.
        Gone: the client went away, and everything has been cancelled.
    """
    n = requests[0].n
    answers = [Answer() for _ in range(n * len(requests))]
    usage = UsageSum(len(requests))

    async def emit(position: int, delta: Delta) -> None:
        answer = answers[position * n + delta.index]
        answer.text.append(delta.text)
        answer.logprobs.extend(delta.logprobs or ())
        answer.token_ids.extend(delta.token_ids)
        answer.continued |= delta.continued
        if delta.finish is not None:
            answer.finish, answer.stop_reason = delta.finish, delta.stop_reason
        usage.add(position, delta)

    await while_connected(http.receive, run(backend, requests, emit))
    if any(answer.finish is None for answer in answers):
        raise Refusal("internal_error", "The backend ended an answer without a reason.")
    return answers, usage


def stream(http: HttpRequest, backend: Backend, requests: Sequence[Request], chunks: Chunks) -> Response:
    """The response that streams `requests` as `chunks`."""
    return EventStream(
        backend,
        requests,
        chunks,
        headers=served_headers(requests[0].model),
        send_timeout_seconds=http.app.state.settings.send_timeout_seconds,
    )


def complete(body: dict[str, object], model: str) -> Response:
    """The response that carries a whole answer."""
    return Response(orjson.dumps(body), media_type="application/json", headers=served_headers(model))


def nobody() -> Response:
    """What stands for a response where the client is gone; it is never read."""
    return Response(status_code=499)


def served_headers(model: str) -> dict[str, str]:
    """`x-served-model`; header values are Latin-1, names of models need not be."""
    return {SERVED_MODEL: model.encode("ascii", "backslashreplace").decode("ascii")}


def finite(logprob: float | None) -> float | None:
    """A log probability as JSON can carry it."""
    return None if logprob is None else max(logprob, LEAST_LOGPROB)


__all__ = [
    "Answer",
    "Envelope",
    "Gone",
    "UsageSum",
    "collect",
    "complete",
    "envelope",
    "finite",
    "nobody",
    "stream",
]
