"""`/v1/completions`."""

import codecs
from collections.abc import Iterable, Sequence

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ridgeline.api.answers import Answer, Envelope, UsageSum, envelope, finite, nobody, stream, whole
from ridgeline.api.convert import check_stream_options, completion_requests, of_caller
from ridgeline.api.models import find_model
from ridgeline.api.schemas_completions import CompletionRequest
from ridgeline.api.unsupported import COMPLETIONS
from ridgeline.api.validation import ClientGone, read_json
from ridgeline.protocol import Backend, Delta, Request, TokenLogprob

PATH = "/v1/completions"


async def create(http: HttpRequest) -> Response:
    """Continue one or several prompts, whole or as a stream."""
    try:
        body = await read_json(http, CompletionRequest, COMPLETIONS)
    except ClientGone:
        return nobody()
    check_stream_options(body)
    backend: Backend = http.app.state.backend
    info = find_model(backend, body.model)
    requests = of_caller(http, completion_requests(body, info, http.state.tenant, http.state.request_id))
    around = envelope(backend, body, requests)
    if body.stream:
        options = body.stream_options
        return stream(
            http,
            backend,
            requests,
            _Chunks(around, requests, bool(options and options.include_usage), bool(body.return_token_ids)),
        )

    def completion(answers: Sequence[Answer]) -> dict[str, object]:
        choices = [
            _choice(
                index,
                "".join(answer.text),
                _logprobs(answer.logprobs, _Offsets()) if body.logprobs is not None else None,
                answer.finish,
                answer.stop_reason,
                answer.token_ids if body.return_token_ids else None,
            )
            | ({"continued": True} if answer.continued else {})
            for index, answer in enumerate(answers)
        ]
        return around.wrap("text_completion", choices)

    return await whole(http, backend, requests, completion)


class _Chunks:
    def __init__(
        self, around: Envelope, requests: Sequence[Request], include_usage: bool, include_token_ids: bool
    ) -> None:
        self._around = around
        self._token_ids = include_token_ids
        self._n = requests[0].n
        self._offsets = [_Offsets() for _ in range(self._n * len(requests))]
        self._usage = UsageSum(len(requests)) if include_usage else None

    def opening(self) -> Iterable[object]:
        """Nothing: completions have no roles."""
        return ()

    def of(self, position: int, delta: Delta) -> Iterable[object]:
        """One chunk with the text, and the reason where the answer ends."""
        if self._usage is not None:
            self._usage.add(position, delta)
        ids = delta.token_ids if self._token_ids else None
        if not (delta.text or delta.logprobs or delta.finish or ids or delta.continued):
            return
        index = position * self._n + delta.index
        logprobs = _logprobs(delta.logprobs, self._offsets[index]) if delta.logprobs else None
        choice = _choice(index, delta.text, logprobs, delta.finish, delta.stop_reason, ids)
        choice |= {"continued": True} if delta.continued else {}
        chunk = self._around.wrap("text_completion", [choice])
        yield chunk if self._usage is None else chunk | {"usage": None}

    def closing(self) -> Iterable[object]:
        """The usage, if asked for."""
        if self._usage is not None:
            yield self._around.wrap("text_completion", []) | {"usage": self._usage.as_json()}


def _choice(
    index: int,
    text: str,
    logprobs: dict[str, object] | None,
    finish: str | None,
    stop_reason: str | int | None,
    token_ids: Sequence[int] | None,
) -> dict[str, object]:
    choice = {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish,
        "stop_reason": stop_reason,
    }
    return choice if token_ids is None else choice | {"token_ids": token_ids}


class _Offsets:
    """Counts characters of an answer; a token that ends within one begins no further character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def before(self, token: TokenLogprob) -> int:
        """Whole characters before a token, which is the next one."""
        here = self._characters
        self._characters += len(self._decoder.decode(token.text_bytes))
        return here


def _logprobs(tokens: Sequence[TokenLogprob], offsets: _Offsets) -> dict[str, object]:
    return {
        "tokens": [_label(token) for token in tokens],
        "token_logprobs": [finite(token.logprob) for token in tokens],
        "top_logprobs": [_top(token) for token in tokens],
        "text_offset": [offsets.before(token) for token in tokens],
    }


def _top(token: TokenLogprob) -> dict[str, float | None] | None:
    """Alternatives by text, the chosen token among them; the likelier of two with the same text stays."""
    if token.logprob is None:
        return None
    top: dict[str, float | None] = {}
    for other in (*sorted(token.top, key=lambda one: -(one.logprob or 0.0)), token):
        top.setdefault(_label(other), finite(other.logprob))
    return top


def _label(token: TokenLogprob) -> str:
    """A token's text; of a part of a character its bytes, as OpenAI writes them."""
    try:
        return token.text_bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.text_bytes)
