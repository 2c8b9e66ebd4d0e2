"""Server-sent events over HTTP."""

import asyncio
from collections.abc import AsyncIterator

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ridgeline.api.streaming import Gone, while_connected
from ridgeline.store.records import StoredMessage
from ridgeline.web.job import Event
from ridgeline.web.wire import message_json


class EventResponse(Response):
    """Sends events until they end, the client is gone, or it reads nothing for too long."""

    def __init__(self, events: AsyncIterator[Event | None], *, send_timeout_seconds: float) -> None:
        super().__init__(
            headers={"cache-control": "no-store", "x-accel-buffering": "no"}, media_type="text/event-stream"
        )
        del self.headers["content-length"]
        self._events = events
        self._send_timeout_seconds = send_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; the answer itself goes on if the client goes away."""
        try:
            await while_connected(receive, self._send_all(send))
        except (Gone, TimeoutError):
            return

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for event in self._events:
                async with asyncio.timeout(self._send_timeout_seconds):
                    await send({"type": "http.response.body", "body": encode(event), "more_body": True})
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def encode(event: Event | None) -> bytes:
    """An event in the format of server-sent events; None is a comment that keeps the line open."""
    if event is None:
        return b": alive\n\n"
    head = f"id: {event.id}\nevent: {event.kind}\ndata: ".encode()
    return head + orjson.dumps(event.data) + b"\n\n"


async def finished(row: StoredMessage, problem: str | None) -> AsyncIterator[Event | None]:
    """What a listener of an answer that ended long ago is told."""
    yield Event("end", "snapshot", {"message": message_json(row)})
    yield Event("end", "end", {"message": message_json(row), "problem": problem})
