"""uvicorn with what a public HTTP server needs besides: limits on request heads, and draining."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ridgeline.protocol import Backend

HEAD_SECONDS = 20.0
"""How long a client may take to send a request's head, and a new connection to send anything."""
MAX_HEAD_BYTES = 64 * 1024
"""Unfinished heads are dropped beyond this; what the API accepts of whole ones is its own limit."""
KEEP_ALIVE_SECONDS = 30
CLOSING_SECONDS = 5
"""After draining, how long the last bytes may take on their way out."""
IDLE_LOOK_SECONDS = 5.0
BUSY_LOOK_SECONDS = 600.0
"""How often all objects are searched for garbage: while nobody waits, and where somebody always does."""
YOUNG_THRESHOLDS = (2_000, 10)
NEVER = 1 << 30
"""Looks through the young ones before Python looks through all of them by itself."""


class LimitedHttp(HttpToolsProtocol):
    """Ends connections whose request head is endless or never comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock of the first head."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clock."""
        self._head_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before a head is whole."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._deadline is None:
            self._head_bytes = 0
        elif self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """A head has begun."""
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        """The head is whole; the body has limits of its own."""
        self._head_done()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._refuse, b"408 Request Timeout")

    def _head_done(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()


def connection_limit(max_requests: int) -> int:
    """How many connections to take: twice the requests, as far as file descriptors go."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * max_requests + 256
    if soft < wanted and hard != soft:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(16, min(2 * max_requests, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200))


async def collect_garbage(backend: Backend) -> None:
    """Look through all objects for garbage while nobody waits, and now and then if somebody always does.

    With a thousand requests open it takes 100 ms, in which nothing is answered, and finds next to nothing.
    The young ones, which are quickly looked through, are left to Python.
    """
    gc.freeze()  # what was imported and built at the start stays
    gc.enable()
    gc.set_threshold(*YOUNG_THRESHOLDS, NEVER)
    looked = time.monotonic()
    while True:
        await asyncio.sleep(IDLE_LOOK_SECONDS)
        now = time.monotonic()
        idle = not backend.status().requests_in_flight
        if gc.get_count()[2] and (idle or now - looked >= BUSY_LOOK_SECONDS):
            gc.collect()
            looked = now


class DrainingServer(uvicorn.Server):
    """Serves one app; the first SIGINT or SIGTERM drains the backend, the second ends at once.

    While draining, the server goes on answering: health says that it is not ready, new requests are
    refused as `shutting_down`, and running answers stream to their ends.

    Args:
        app: the ASGI app.
        backend: drained before the end.
        drain_seconds: how long running answers may take; then they are cancelled.
        max_requests: see `connection_limit`.
        before: awaited before connections are taken.
        ready: called once they are.
        say: tells the person at the terminal.
        leave: awaited before draining, so that others send nothing new here.
    """

    def __init__(
        self,
        app: Any,
        backend: Backend,
        *,
        drain_seconds: float,
        max_requests: int,
        before: Callable[[], Awaitable[None]],
        ready: Callable[[], None],
        say: Callable[[str], None],
        leave: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=LimitedHttp,
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=CLOSING_SECONDS,
                limit_concurrency=connection_limit(max_requests),
                backlog=1024,
            )
        )
        self._backend = backend
        self._drain_seconds = drain_seconds
        self._before = before
        self._ready = ready
        self._say = say
        self._leave = leave
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen only when the first answer has been made, so that a connection means readiness."""
        await self._before()
        await super().startup(sockets)
        if self.started:
            self._collecting = asyncio.create_task(collect_garbage(self._backend))
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Our own handlers for as long as the server runs; no signal is raised again afterwards."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        if self._draining is not None or not self.started:
            self._say("Ending at once.")
            sys.stdout.flush()
            sys.stderr.flush()
            # Not sys.exit: that would wait for the engine's thread and for every stream.
            os._exit(128 + number)
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        in_flight = self._backend.status().requests_in_flight
        if in_flight:
            answers = "1 answer is" if in_flight == 1 else f"{in_flight} answers are"
            self._say(
                f"Draining: {answers} being made and may take up to {self._drain_seconds:g} s more;"
                " Ctrl-C again ends at once."
            )
        try:
            if self._leave is not None:
                await self._leave()
            await self._backend.drain(self._drain_seconds)
        finally:
            self.should_exit = True
