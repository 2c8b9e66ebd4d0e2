"""Running backend requests for one HTTP request, and sending what they give as server-sent events."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ridgeline.api.errors import error_body, error_response, internal_error
from ridgeline.protocol import Backend, Delta, Refusal, Request

T = TypeVar("T")
Emit = Callable[[int, Delta], Awaitable[None]]

ANSWERS_AT_ONCE = 128
"""Of one body, which may ask for many more than any line holds, and would always be refused."""


class Gone(Exception):
    """The client went away; what it asked for has been cancelled."""


async def run(backend: Backend, requests: Sequence[Request], emit: Emit) -> None:
    """Run requests side by side and hand each delta on, with the position of its request.

    No more than `ANSWERS_AT_ONCE` are being made at a time; further ones wait for those before.
    A delta is taken from the backend only when the one before it has been handed on. The first
    failure, or the caller's cancellation, closes the streams of all.
    """
    if len(requests) == 1:
        await _pump(backend, 0, requests[0], emit)
        return
    places = asyncio.Semaphore(max(1, ANSWERS_AT_ONCE // requests[0].n))

    async def in_turn(position: int, request: Request) -> None:
        async with places:
            await _pump(backend, position, request, emit)

    try:
        async with asyncio.TaskGroup() as group:
            for position, request in enumerate(requests):
                group.create_task(in_turn(position, request))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _pump(backend: Backend, position: int, request: Request, emit: Emit) -> None:
    stream = backend.generate(request)
    try:
        async for delta in stream:
            if delta.finish == "cancelled":
                raise _cancelled(backend)
            await emit(position, delta)
    finally:
        # An abandoned iterator would be closed by the garbage collector, some day.
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


def _cancelled(backend: Backend) -> Refusal:
    if backend.status().state == "draining":
        return Refusal(
            "shutting_down", "The server is shutting down and ended this answer before it was complete."
        )
    return Refusal("internal_error", "The server cancelled this answer before it was complete.")


async def while_connected(
    receive: Receive, work: Coroutine[Any, Any, T], *others: Coroutine[Any, Any, None]
) -> T:
    """Await `work`; cancel it at once when the client goes away, or one of `others` ends first.

    Raises:
        Gone: the client went away first.
    """
    task = asyncio.current_task()
    assert task is not None
    before, gone, over = task.cancelling(), False, False

    def ended(watch: asyncio.Task[None]) -> None:
        nonlocal gone
        if not watch.cancelled():
            watch.exception()  # seen
        if not over and not gone:
            gone = True
            task.cancel()

    # The work stays in this task: one of its own would cost more than all that is done for a short answer.
    watches = [asyncio.create_task(other) for other in (_disconnected(receive), *others)]
    for watch in watches:
        watch.add_done_callback(ended)
    try:
        result = await work
    except asyncio.CancelledError:
        if gone and task.uncancel() <= before:
            raise Gone from None
        raise
    finally:
        over = True
        for watch in watches:
            watch.cancel()
    if gone:  # it held on to its end
        task.uncancel()
        raise Gone
    return result


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Chunks(Protocol):
    """Turns deltas into the objects of a stream."""

    def opening(self) -> Iterable[object]:
        """What comes before the first delta."""
        ...

    def of(self, position: int, delta: Delta) -> Iterable[object]:
        """What a delta of the request at `position` becomes."""
        ...

    def closing(self) -> Iterable[object]:
        """What comes after the last delta."""
        ...


class EventStream(Response):
    """An answer as server-sent events.

    The status line waits for the first delta, so that a refusal is a plain error response; a
    failure after it is an event of its own, and the stream ends there. Nothing is buffered here:
    while the client reads slowly the server's `send` waits, the backend's iterator with it, and
    after `send_timeout_seconds` the answer is cancelled.
    """

    def __init__(
        self,
        backend: Backend,
        requests: Sequence[Request],
        chunks: Chunks,
        *,
        headers: dict[str, str],
        send_timeout_seconds: float,
    ) -> None:
        super().__init__(
            headers=headers | {"cache-control": "no-cache", "x-accel-buffering": "no"},
            media_type="text/event-stream",
        )
        del self.headers["content-length"]
        self._backend = backend
        self._requests = requests
        self._chunks = chunks
        self._send_timeout_seconds = send_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; return early, with everything cancelled, when the client is gone."""
        writer = _Writer(send, self.status_code, self.raw_headers, self._send_timeout_seconds)
        produce = self._produce(writer, scope["state"]["request_id"])
        try:
            await while_connected(receive, produce, writer.stalled())
        except Gone:
            return
        except Refusal as refusal:
            await error_response(refusal)(scope, receive, send)

    async def _produce(self, writer: "_Writer", request_id: str) -> None:
        async def emit(position: int, delta: Delta) -> None:
            opening = [] if writer.started else self._chunks.opening()
            await writer.write(events(opening) + events(self._chunks.of(position, delta)))

        try:
            await run(self._backend, self._requests, emit)
            end = events(self._chunks.closing()) + b"data: [DONE]\n\n"
        except Exception as error:
            refusal = error if isinstance(error, Refusal) else internal_error(error, request_id)
            if not writer.started:
                raise refusal from None
            end = events([error_body(refusal)])
        await writer.write(end, last=True)


class _Writer:
    def __init__(
        self, send: Send, status: int, headers: list[tuple[bytes, bytes]], timeout_seconds: float
    ) -> None:
        self.started = False
        self._send = send
        self._start = {"type": "http.response.start", "status": status, "headers": headers}
        self._timeout_seconds = timeout_seconds
        self._sending_since: float | None = None
        self._clock = asyncio.get_running_loop().time
        self._turn = asyncio.Lock()

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send bytes; those of several streams come one after the other."""
        opens, self.started = not self.started, True
        async with self._turn:
            self._sending_since = self._clock()
            if opens:
                await self._send(self._start)
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})
            self._sending_since = None

    async def stalled(self) -> None:
        """Return when one write has waited for too long.

        One sleeper for the whole stream: a timeout around each write would cost as much as the write.
        """
        while True:
            since = self._sending_since
            left = self._timeout_seconds - (0.0 if since is None else self._clock() - since)
            if left <= 0:
                return
            await asyncio.sleep(left)


def events(objects: Iterable[object]) -> bytes:
    """Objects as server-sent events."""
    return b"".join(b"data: " + orjson.dumps(item) + b"\n\n" for item in objects)
