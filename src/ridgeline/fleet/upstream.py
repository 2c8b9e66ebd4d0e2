"""A replica behind its HTTP address: any server that speaks OpenAI's API."""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson

from ridgeline.fleet.logprobs import logprobs_of
from ridgeline.protocol import Delta, FinishReason, Refusal, Request, Usage
from ridgeline.protocol.cached import CacheReport
from ridgeline.protocol.errors import Code
from ridgeline.protocol.load import LOAD_HEADER, ReplicaLoad
from ridgeline.protocol.request import BEGIN_AT_ONCE

CONNECT_SECONDS = 2.0
SILENCE_SECONDS = 120.0
"""A stream that says nothing for so long is broken."""

MAX_LINE_BYTES = 4 << 20

_FINISHES: dict[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "stop"}


class Full(Exception):
    """The replica has no place now. It is not broken."""


class Fault(Exception):
    """The replica, or the way to it, is broken."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """An address, and how to talk to what is there.

    Attributes:
        url: without `/v1`.
        model: as it is called there.
        key: to show; None for none.
        speaks_ridgeline: it is one of ours.
        takes_salt: it knows `cache_salt`, as ours and vLLM do.
    """

    url: str
    model: str
    key: str | None = None
    speaks_ridgeline: bool = True
    takes_salt: bool = True

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    async def answer(
        self,
        session: aiohttp.ClientSession,
        request: Request,
        heard: Callable[[ReplicaLoad], None],
        began: Callable[[], None],
    ) -> AsyncGenerator[Delta, None]:
        """Ask, and yield the answer's deltas; each answer has a finish.

        What nobody looks at before its end is had as a whole from replicas of ours: reading it token by
        token would cost a front door many times as much.

        Args:
            session: to ask with.
            request: goes by the name here and there.
            heard: called with the replica's load, where it tells it, whether it answers or refuses.
            began: called when the first token is there.

        Raises:
            Full: try another.
            Fault: the connection or the stream broke, or the server failed.
            Refusal: the request is at fault; no other replica would say otherwise.
        """
        whole = request.whole and self.speaks_ridgeline
        path, body = body_of(request, self, stream=not whole)
        headers = self.headers | _JSON | {"x-request-id": request.name or request.id}
        if self.speaks_ridgeline:
            headers[BEGIN_AT_ONCE] = "1"
        with _faults():
            async with session.post(
                f"{self.url}{path}", data=orjson.dumps(body), headers=headers
            ) as response:
                load = ReplicaLoad.parse(response.headers.get(LOAD_HEADER, ""))
                if load is not None:
                    heard(load)
                if response.status != 200:
                    raise _refused(response.status, await response.read())
                if whole:
                    began()
                    for delta in deltas_of(orjson.loads(await response.read())):
                        yield delta
                    return
                lines, first = Lines(), True
                async for data in response.content.iter_any():
                    for line in lines.ended_by(data):
                        if not line.startswith(b"data:"):
                            continue
                        text = line[5:].strip()
                        if text == b"[DONE]":
                            return
                        for delta in deltas_of(orjson.loads(text)):
                            if first:
                                first = False
                                began()
                            yield delta
            raise Fault("the stream ended before its end mark")

    async def ask(self, session: aiohttp.ClientSession, path: str, body: Mapping[str, Any]) -> Any:
        """POST and read JSON; raises as `answer` does."""
        with _faults():
            async with session.post(
                f"{self.url}{path}", data=orjson.dumps(body), headers=self.headers | _JSON
            ) as response:
                content = await response.read()
                if response.status != 200:
                    raise _refused(response.status, content)
                return orjson.loads(content)

    async def metrics(self, session: aiohttp.ClientSession) -> str:
        """What it tells at /metrics, nothing where it has none; raises Fault where it does not answer."""
        status, content = await self._get(session, "/metrics")
        return content.decode("utf-8", "replace") if status == 200 else ""

    async def context(self, session: aiohttp.ClientSession) -> int | None:
        """Tokens that its model can look back on, where it tells; raises Fault."""
        status, content = await self._get(session, "/v1/models")
        if status != 200:
            raise Fault(f"/v1/models answers with {status}")
        try:
            return _context(orjson.loads(content), self.model)
        except (ValueError, AttributeError) as error:
            raise Fault("/v1/models is no list of models") from error

    async def cache_report(self, session: aiohttp.ClientSession, since: str) -> CacheReport | None:
        """What it tells of its cache since EPOCH:NUMBER; None where it does not tell; raises Fault."""
        asked = {"model": self.model} | ({"since": since} if since else {})
        status, content = await self._get(session, f"/v1/fleet/cache?{urlencode(asked)}")
        if status == 404:
            return None
        if status != 200:
            raise Fault(f"/v1/fleet/cache answers with {status}")
        try:
            return CacheReport.from_json(orjson.loads(content))
        except ValueError as error:
            raise Fault(f"/v1/fleet/cache: {error}") from error

    async def _get(self, session: aiohttp.ClientSession, path: str) -> tuple[int, bytes]:
        with _faults():
            async with session.get(f"{self.url}{path}", headers=self.headers) as response:
                return response.status, await response.read()


class Lines:
    """Cuts what comes into lines; aiohttp's own would take as long for each as parsing it does."""

    def __init__(self) -> None:
        self._rest = b""

    def ended_by(self, data: bytes) -> list[bytes]:
        """Lines that are whole now, without their ends; raises Fault for one that is too long."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise Fault(f"a line of the stream has more than {MAX_LINE_BYTES} bytes")
        return lines


@contextmanager
def _faults() -> Iterator[None]:
    """What aiohttp and the parsers raise, as Fault."""
    try:
        yield
    except TimeoutError as error:
        raise Fault("no answer in time") from error
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise Fault(str(error) or type(error).__name__) from error


_JSON = {"Content-Type": "application/json", "Accept": "text/event-stream"}


def body_of(request: Request, upstream: Upstream, *, stream: bool) -> tuple[str, dict[str, Any]]:
    """Path and body of a request as OpenAI's API takes it."""
    sampling, stopping = request.sampling, request.stopping
    body: dict[str, Any] = {
        "model": upstream.model,
        "stream": stream,
        "n": request.n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    optional = {
        "stream_options": {"include_usage": True} if stream else None,
        "seed": sampling.seed,
        "max_tokens": stopping.max_tokens,
        "stop": list(stopping.stop) or None,
        "top_k": sampling.top_k or None,
        "min_p": sampling.min_p or None,
        "repetition_penalty": sampling.repetition_penalty if sampling.repetition_penalty != 1 else None,
        "logit_bias": {str(k): v for k, v in sampling.logit_bias.items()} or None,
        "min_tokens": stopping.min_tokens or None,
        "stop_token_ids": list(stopping.stop_token_ids) or None,
        "ignore_eos": stopping.ignore_eos or None,
        # Who asked is known here alone: replicas share nothing between two salts.
        "cache_salt": salt_of(request) if upstream.takes_salt else None,
        "return_token_ids": upstream.speaks_ridgeline or None,
        "service_tier": "flex" if upstream.speaks_ridgeline and request.priority else None,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    if request.messages is None:
        prompt = request.prompt
        body |= {"prompt": list(prompt) if isinstance(prompt, tuple) else prompt, "echo": request.echo}
        if sampling.logprobs is not None:
            body["logprobs"] = sampling.logprobs
        return "/v1/completions", body
    if sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    body["messages"] = [{"role": each.role, "content": each.content} for each in request.messages]
    if request.continue_final_message:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return "/v1/chat/completions", body


def salt_of(request: Request) -> str:
    """What separates one key's owner from another where things are cached, and each one's own salts."""
    whose = f"{request.tenant}\0{request.cache_salt}" if request.cache_salt else request.tenant
    return blake2b(whose.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def deltas_of(event: Mapping[str, Any]) -> list[Delta]:
    """Of one event, or of a whole answer.

    Usage comes in an event of its own, after the finish: it has index 0 and no text.

    Raises:
        Fault: it tells of an error.
    """
    if "error" in event:
        raise Fault(str(event["error"])[:300])
    deltas, fingerprint = [], event.get("system_fingerprint")
    for choice in event.get("choices") or ():
        said = choice.get("delta") or choice.get("message") or {}
        text = choice.get("text") or said.get("content") or ""
        index, finish = int(choice.get("index", 0)), choice.get("finish_reason")
        ids, logprobs = tuple(choice.get("token_ids") or ()), choice.get("logprobs")
        if text or ids or logprobs:
            drawn = logprobs_of(logprobs) if logprobs else None
            deltas.append(Delta(index, text, ids, drawn, fingerprint=fingerprint))
        if finish:
            ended, reason = _FINISHES.get(finish, "stop"), choice.get("stop_reason")
            deltas.append(Delta(index, finish=ended, stop_reason=reason, fingerprint=fingerprint))
    usage = event.get("usage")
    if usage:
        details = usage.get("prompt_tokens_details") or {}
        counted = Usage(
            int(usage.get("prompt_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
            int(details.get("cached_tokens") or 0),
        )
        deltas.append(Delta(0, usage=counted))
    return deltas


def _refused(status: int, content: bytes) -> Exception:
    """What an answer other than 200 means."""
    try:
        error = orjson.loads(content)
    except orjson.JSONDecodeError:
        error = {}
    error = error.get("error", error) if isinstance(error, dict) else {}
    error = error if isinstance(error, dict) else {}
    code, message = error.get("code"), str(error.get("message") or f"HTTP {status}")[:1000]
    if status == 429 or (status == 503 and code != "no_replica"):  # who is ending is no more broken than full
        return Full(message)
    if status == 413:
        return Refusal("request_too_large", message)
    if status in (400, 404, 422):
        too_long = code == "context_length_exceeded"
        known: Code = "context_length_exceeded" if too_long else "invalid_request"
        param = error.get("param")
        return Refusal(known, message, param=param if isinstance(param, str) else None)
    return Fault(f"HTTP {status}: {message}")


def _context(models: Any, name: str) -> int | None:
    for each in models.get("data") or ():
        told = each.get("max_model_len") or (each.get("meta") or {}).get("n_ctx_train")
        if each.get("id") == name and isinstance(told, int) and told > 0:
            return told
    return None
