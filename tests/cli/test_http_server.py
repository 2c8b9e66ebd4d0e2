"""Limits on request heads, and what draining does, with a small application and a known backend."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ridgeline.cli import http_server
from ridgeline.cli.http_server import DrainingServer, connection_limit
from ridgeline.cli.listen import bind
from ridgeline.protocol import Status

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


class KnownBackend:
    """Says how many requests are in flight, and drains when it is told to."""

    def __init__(self) -> None:
        self.in_flight = 2
        self.may_end = asyncio.Event()
        self.drained_with: float | None = None

    def status(self) -> Status:
        return Status("ready", requests_in_flight=self.in_flight)

    async def drain(self, timeout_seconds: float) -> None:
        self.drained_with = timeout_seconds
        await self.may_end.wait()


async def application(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Any) -> None:
    """Answers `ok` once the whole body is there."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Up:
    """A running server, its backend, what it said, and the order of what happened."""

    def __init__(self, listener: socket.socket) -> None:
        self.backend = KnownBackend()
        self.port: int = listener.getsockname()[1]
        self.said: list[str] = []
        self.events: list[str] = []
        self._ready = asyncio.Event()
        self.server = DrainingServer(
            application,
            self.backend,  # type: ignore[arg-type]
            drain_seconds=7.0,
            max_requests=100,
            before=self._before,
            ready=self._on_ready,
            say=self.said.append,
        )
        self.task = asyncio.create_task(self.server.serve(sockets=[listener]))

    async def _before(self) -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", self.port)
        self.events.append("before")

    def _on_ready(self) -> None:
        self.events.append("ready")
        self._ready.set()

    async def wait_until_ready(self) -> None:
        await asyncio.wait_for(self._ready.wait(), 60)

    async def exchange(self, *pieces: bytes) -> bytes:
        """What the server answers on one connection until it closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer


@asynccontextmanager
async def running() -> AsyncIterator[Up]:
    up = Up(bind("127.0.0.1", 0))
    await up.wait_until_ready()
    try:
        yield up
    finally:
        up.backend.may_end.set()
        up.server.should_exit = True
        await asyncio.wait_for(up.task, 60)


async def test_connections_are_taken_only_when_the_first_answer_was_made() -> None:
    async with running() as up:
        assert up.events == ["before", "ready"]


async def test_requests_are_served_over_one_connection() -> None:
    async with running() as up:
        answer = await up.exchange(HEAD + b"\r\n", HEAD + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 2


async def test_a_head_that_never_ends_is_refused() -> None:
    async with running() as up:
        many = b"X-A: " + b"a" * (http_server.MAX_HEAD_BYTES + 1)
        answer = await up.exchange(HEAD + many)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_a_long_body_is_not_taken_for_a_head() -> None:
    size = 4 * http_server.MAX_HEAD_BYTES
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
    async with running() as up:
        answer = await up.exchange(head, b"b" * (size // 2), b"b" * (size // 2))
    assert answer.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "pieces", [(), (HEAD,), (HEAD + b"\r\n", HEAD)], ids=["nothing", "half", "second half"]
)
async def test_a_head_that_does_not_come_is_not_waited_for(
    pieces: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.1)
    async with running() as up:
        answer = await up.exchange(*pieces)
    assert answer.split(b"HTTP/1.1 ")[-1].startswith(b"408 ")


async def test_the_first_signal_drains_and_says_what_is_in_flight() -> None:
    async with running() as up:
        os.kill(os.getpid(), signal.SIGTERM)
        while up.backend.drained_with is None:  # noqa: ASYNC110  (the handler has no event to offer)
            await asyncio.sleep(0.01)
        assert up.backend.drained_with == 7.0
        assert "2 answers are being made" in up.said[0]
        assert not up.task.done()
        answer = await up.exchange(HEAD + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK")
        up.backend.may_end.set()
        await asyncio.wait_for(up.task, 60)


def test_connections_keep_within_file_descriptors() -> None:
    assert 16 <= connection_limit(10) <= 20
    assert connection_limit(10**9) < 2 * 10**9
