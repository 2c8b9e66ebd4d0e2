"""Pure ASGI middleware before all routes: request ids, allowed callers, sizes and counts."""

import asyncio
import ipaddress
import re
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ridgeline.api.errors import error_response, internal_error
from ridgeline.api.settings import ApiSettings, is_loopback
from ridgeline.protocol import Refusal

_SAFE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestIds:
    """Outermost: gives each request an id, the client's own where that is safe, and returns it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        request_id = offered if _SAFE_REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in scope["state"].get("told", {}).items():
                    headers[name] = value
            await send(message)

        await self.app(scope, receive, send_with_id)


class ErrorBoundary:
    """Turns whatever escapes into an answer; inside CORS, so that pages may read it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except BodyRefused as refused:
            response = refused.response
        except Refusal as refusal:
            response = error_response(refusal)
        except Exception as error:
            response = error_response(internal_error(error, scope["state"]["request_id"]))
        else:
            return
        if not started:
            await response(scope, receive, send)


class AllowedCallers:
    """Refuses names and pages that this server does not go by, whatever the request wants.

    Without it a page of another site could make its own name resolve to this machine and read
    what is served here.
    """

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self.app = app
        names = {"localhost", "127.0.0.1", "[::1]", _bracketed(settings.host)}
        self._names = {name.lower() for name in names | set(settings.allowed_hosts) if "*" not in name}
        self._suffixes = tuple(name[1:].lower() for name in settings.allowed_hosts if name.startswith("*."))
        self._any_address = not is_loopback(settings.host)
        self._origins = {origin.lower() for origin in settings.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        refusal = self._refusal(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await error_response(refusal)(scope, receive, send)

    def _refusal(self, headers: Headers) -> Refusal | None:
        hosts = headers.getlist("host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        if not self._is_known(_without_port(host)):
            return Refusal(
                "forbidden",
                f"The Host header {host[:100]!r} is not a name of this server; its operator can add it with "
                "--allowed-host.",
            )
        origin = headers.get("origin")
        if origin is None or origin.lower() in self._origins or origin.lower().partition("://")[2] == host:
            return None
        return Refusal(
            "forbidden",
            f"Pages of the origin {origin[:100]!r} may not call this server; its operator can add it with "
            "--allowed-origin.",
        )

    def _is_known(self, name: str) -> bool:
        if name in self._names or (self._suffixes and name.endswith(self._suffixes)):
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0]


class Limits:
    """Bounds headers, body and requests in flight. The body is counted as it arrives."""

    def __init__(
        self, app: ASGIApp, settings: ApiSettings, estimated_wait_seconds: Callable[[], float]
    ) -> None:
        self.app = app
        self._settings = settings
        self._estimated_wait_seconds = estimated_wait_seconds
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != "http" or f"{scope['path']}/".startswith("/health/"):
            await self.app(scope, receive, send)
            return
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        limit = self._settings.max_header_bytes
        if size > limit:
            refusal = Refusal(
                "request_too_large",
                f"The headers may be {limit} bytes together (max_header_bytes), but are {size}.",
            )
            await error_response(refusal, status=431, headers=_CLOSE)(scope, receive, send)
            return
        if self._in_flight >= self._settings.max_requests:
            raise Refusal(
                "at_capacity",
                f"The server has {self._in_flight} requests in flight, its limit (max_requests).",
                retry_after_seconds=self._estimated_wait_seconds(),
            )
        self._in_flight += 1
        try:
            await self._bounded(scope, receive, send)
        finally:
            self._in_flight -= 1

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._settings.max_body_bytes
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            await _refuse_body(declared, limit)(scope, receive, send)
            return
        body = _BoundedBody(receive, limit, self._settings.body_timeout_seconds)
        await self.app(scope, body.receive, send)


_CLOSE = {"connection": "close"}


class BodyRefused(Exception):
    """A body that is too long or too slow; carries the answer."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def _refuse_body(size: str, limit: int) -> Response:
    refusal = Refusal(
        "request_too_large", f"The body may be {limit} bytes (max_body_bytes), but is {size[:20]}."
    )
    return error_response(refusal, headers=_CLOSE)


class _BoundedBody:
    def __init__(self, receive: Receive, limit: int, timeout_seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._timeout_seconds = timeout_seconds
        self._deadline: float | None = None
        self._bytes = 0
        self._complete = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + self._timeout_seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            refusal = Refusal(
                "invalid_request",
                f"The body did not arrive within {self._timeout_seconds:g} s (body_timeout_seconds).",
            )
            raise BodyRefused(error_response(refusal, status=408, headers=_CLOSE)) from error
        self._complete = not message.get("more_body", False)
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limit:
            raise BodyRefused(_refuse_body(f"at least {self._bytes}", self._limit))
        return message
