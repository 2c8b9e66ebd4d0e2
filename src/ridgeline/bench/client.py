"""One streamed chat completion against an OpenAI-compatible server, chunk by chunk."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

MAX_LINE_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What the server says a request used; the only count of tokens that can be trusted."""

    prompt: int
    completion: int
    cached: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of the stream. `usage` comes once, at the end, from servers that send it."""

    text: str = ""
    finish: str | None = None
    usage: TokenCounts | None = None


class ServerError(Exception):
    """The server answered with an error, or its stream broke.

    Attributes:
        status: HTTP status; 0 where the connection or the stream itself failed.
        code: the error body's `code`, or the name of what broke.
        message: for people.
        retry_after_seconds: what the server asked for, if it did.
    """

    def __init__(
        self, status: int, code: str, message: str, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    @property
    def refused(self) -> bool:
        """Full or limited rather than broken: worth trying again later."""
        return self.status in (429, 503)


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _error(status: int, body: bytes, retry_after: str | None) -> ServerError:
    try:
        error = orjson.loads(body)
    except orjson.JSONDecodeError:
        error = None
    if isinstance(error, dict):
        error = error.get("error", error)
    if not isinstance(error, dict):
        error = {"message": body[:300].decode(errors="replace")}
    code = error.get("code") or error.get("type") or f"http_{status}"
    return ServerError(
        status, str(code), str(error.get("message") or f"HTTP {status}"), _seconds(retry_after)
    )


def _broken(error: Exception) -> ServerError:
    """What is said of a connection that could not be made, or that broke."""
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0  # of look-ups below zero, and not known to strerror
        text = os.strerror(number) if number > 0 else error.os_error.strerror or str(error.os_error)
        return ServerError(0, "no_connection", text[:1].lower() + text[1:])
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return ServerError(0, "no_connection", f"{error} is not an address of http or https")
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError | ConnectionError):
        return ServerError(0, "stream_cut", "the connection ended before the answer did")
    return ServerError(0, type(error).__name__, str(error) or type(error).__name__)


def _usage(data: Mapping[str, Any] | None) -> TokenCounts | None:
    if not data:
        return None
    details = data.get("prompt_tokens_details") or {}
    return TokenCounts(
        data.get("prompt_tokens") or 0, data.get("completion_tokens") or 0, details.get("cached_tokens") or 0
    )


def _chunk(line: bytes) -> Chunk:
    event = orjson.loads(line)
    if "error" in event:
        raise _error(0, line, None)
    choices = event.get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    return Chunk(delta.get("content") or "", choices[0].get("finish_reason"), _usage(event.get("usage")))


async def stream_chat(
    session: aiohttp.ClientSession, url: str, body: Mapping[str, object]
) -> AsyncIterator[Chunk]:
    """POST `body` to `{url}/v1/chat/completions` with streaming and usage on; yield its chunks.

    Raises `ServerError` for every way in which the answer can fail to arrive whole, including a
    stream that ends before its `[DONE]`.
    """
    payload = orjson.dumps({**body, "stream": True, "stream_options": {"include_usage": True}})
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    try:
        async with session.post(f"{url}/v1/chat/completions", data=payload, headers=headers) as response:
            if response.status != 200:
                raise _error(response.status, await response.read(), response.headers.get("Retry-After"))
            async for line in response.content:
                if line == b"data: [DONE]\n" or line.strip() == b"data: [DONE]":
                    return
                if line.startswith(b"data:"):
                    yield _chunk(line[5:])
        raise ServerError(0, "stream_cut", "the stream ended before its end mark")
    except TimeoutError as error:
        raise ServerError(0, "timeout", "no whole answer within the time limit") from error
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise _broken(error) from error


def new_session(timeout_seconds: float | None, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    """A session without a limit on connections, so that no request waits inside the client."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=timeout_seconds, connect=30),
        headers=dict(headers),
        read_bufsize=MAX_LINE_BYTES,
    )


async def served_models(session: aiohttp.ClientSession, url: str) -> list[str]:
    """Names of the models that the server lists. Raises `ServerError`."""
    return list(await served_contexts(session, url))


async def served_contexts(session: aiohttp.ClientSession, url: str) -> dict[str, int | None]:
    """The models that the server lists, each with its context in tokens where that is told.

    Raises `ServerError`.
    """
    listed = await get_json(session, f"{url}/v1/models")
    try:
        return {str(model["id"]): _context(model) for model in listed["data"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise _broken(error) from error


async def get_json(session: aiohttp.ClientSession, url: str) -> Any:
    """What stands at an address. Raises `ServerError` for anything but JSON with status 200."""
    return await _json(session.get(url))


async def post_json(session: aiohttp.ClientSession, url: str, body: Mapping[str, object]) -> Any:
    """What is answered to a body. Raises `ServerError` for anything but JSON with status 200."""
    return await _json(
        session.post(url, data=orjson.dumps(body), headers={"Content-Type": "application/json"})
    )


async def _json(asked: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> Any:
    try:
        async with asked as response:
            body = await response.read()
            if response.status != 200:
                raise _error(response.status, body, response.headers.get("Retry-After"))
            return orjson.loads(body)
    except TimeoutError as error:
        raise ServerError(0, "timeout", "no answer within the time limit") from error
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise _broken(error) from error


def _context(model: Mapping[str, Any]) -> int | None:
    """Of vLLM's form, which is also ours, or of llama.cpp's."""
    told = model.get("max_model_len") or (model.get("meta") or {}).get("n_ctx_train")
    return told if isinstance(told, int) and told > 0 else None
