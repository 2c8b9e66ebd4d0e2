"""Server-sent events over HTTP."""

from collections.abc import AsyncIterator

import orjson

from ridgeline.store.records import StoredMessage
from ridgeline.web.job import Event
from ridgeline.web.streamed import StreamedResponse
from ridgeline.web.wire import message_json


class EventResponse(StreamedResponse):
    """Sends events; an answer goes on when its listener is gone."""

    def __init__(self, events: AsyncIterator[Event | None], *, send_timeout_seconds: float) -> None:
        super().__init__(
            _encoded(events),
            media_type="text/event-stream",
            send_timeout_seconds=send_timeout_seconds,
            headers={"x-accel-buffering": "no"},
        )


async def _encoded(events: AsyncIterator[Event | None]) -> AsyncIterator[bytes]:
    try:
        async for event in events:
            yield encode(event)
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


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
