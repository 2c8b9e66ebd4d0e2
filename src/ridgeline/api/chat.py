"""`/v1/chat/completions`."""

from collections.abc import Iterable, Sequence

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ridgeline.api.answers import Answer, Envelope, UsageSum, envelope, finite, nobody, stream, whole
from ridgeline.api.convert import chat_request, check_stream_options, of_caller
from ridgeline.api.models import find_model
from ridgeline.api.schemas_chat import ChatRequest
from ridgeline.api.unsupported import CHAT
from ridgeline.api.validation import ClientGone, read_json
from ridgeline.protocol import Backend, Delta, Request, TokenLogprob

PATH = "/v1/chat/completions"


async def create(http: HttpRequest) -> Response:
    """Answer a conversation, whole or as a stream."""
    try:
        body = await read_json(http, ChatRequest, CHAT)
    except ClientGone:
        return nobody()
    check_stream_options(body)
    backend: Backend = http.app.state.backend
    info = find_model(backend, body.model)
    (request,) = of_caller(http, [chat_request(body, info, http.state.tenant, http.state.request_id)])
    around = envelope(backend, body, [request])
    if body.stream:
        options = body.stream_options
        return stream(
            http,
            backend,
            [request],
            _Chunks(around, request, bool(options and options.include_usage), bool(body.return_token_ids)),
        )

    def completion(answers: Sequence[Answer]) -> dict[str, object]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(answer.text), "refusal": None},
                "logprobs": _logprobs(answer.logprobs) if request.sampling.logprobs is not None else None,
                "finish_reason": answer.finish,
                "stop_reason": answer.stop_reason,
                **({"token_ids": answer.token_ids} if body.return_token_ids else {}),
                **({"continued": True} if answer.continued else {}),
            }
            for index, answer in enumerate(answers)
        ]
        return around.wrap("chat.completion", choices)

    return await whole(http, backend, [request], completion)


class _Chunks:
    def __init__(
        self, around: Envelope, request: Request, include_usage: bool, include_token_ids: bool
    ) -> None:
        self._around = around
        self._request = request
        self._token_ids = include_token_ids
        self._usage = UsageSum(1) if include_usage else None

    def opening(self) -> Iterable[object]:
        """A chunk with the role for each answer."""
        for index in range(self._request.n):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def of(self, position: int, delta: Delta) -> Iterable[object]:
        """A chunk with the text, and one with the reason where the answer ends."""
        if self._usage is not None:
            self._usage.add(position, delta)
        ids = delta.token_ids if self._token_ids else None
        if delta.text or delta.logprobs or ids or delta.continued:
            yield self._chunk(
                delta.index,
                {"content": delta.text},
                logprobs=delta.logprobs,
                token_ids=ids,
                continued=delta.continued,
            )
        if delta.finish is not None:
            yield self._chunk(delta.index, {}, finish=delta.finish, stop_reason=delta.stop_reason)

    def closing(self) -> Iterable[object]:
        """The usage, if asked for."""
        if self._usage is not None:
            yield self._around.wrap("chat.completion.chunk", []) | {"usage": self._usage.as_json()}

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        *,
        logprobs: Sequence[TokenLogprob] | None = None,
        token_ids: Sequence[int] | None = None,
        finish: str | None = None,
        stop_reason: str | int | None = None,
        continued: bool = False,
    ) -> dict[str, object]:
        choice: dict[str, object] = {
            "index": index,
            "delta": delta,
            "logprobs": _logprobs(logprobs) if logprobs else None,
            "finish_reason": finish,
        }
        if token_ids is not None:
            choice["token_ids"] = token_ids
        if finish is not None:
            choice["stop_reason"] = stop_reason
        if continued:
            choice["continued"] = True
        chunk = self._around.wrap("chat.completion.chunk", [choice])
        return chunk if self._usage is None else chunk | {"usage": None}


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, object]:
    content = [_token(token) | {"top_logprobs": [_token(other) for other in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _token(token: TokenLogprob) -> dict[str, object]:
    return {"token": token.text, "logprob": finite(token.logprob), "bytes": list(token.text_bytes)}
