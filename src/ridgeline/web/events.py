"""Server-sent events over HTTP."""

import asyncio
from collections.abc import AsyncIterator

import orjson

from ridgeline.store.records import StoredMessage
from ridgeline.web.conversations import Conversations
from ridgeline.web.job import Event
from ridgeline.web.settings import WebSettings
from ridgeline.web.streamed import StreamedResponse
from ridgeline.web.wire import message_json

GONE_HEARTBEATS = 3
"""After so many of silence a server is taken to be gone, here as in the page."""

NO_TEXT_YET = 3
"""Times as long for an answer that has not begun: who writes it may be in a line, or at a long prompt."""


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


async def told_elsewhere(
    conversations: Conversations, settings: WebSettings, conversation_id: str, message_id: str
) -> AsyncIterator[Event | None]:
    """An answer that no job here writes: ended long ago, or being written by another server.

    Where that one has not saved anything for long there is no `end`: it may be gone.
    """
    shown: StoredMessage | None = None
    silent_seconds = 0.0
    patience = GONE_HEARTBEATS * settings.heartbeat_seconds
    while silent_seconds < (patience if shown is None or shown.content else NO_TEXT_YET * patience):
        row = await conversations.message(conversation_id, message_id)
        if row is None:
            return
        if row != shown:
            shown, silent_seconds = row, 0.0
            yield Event(row.status, "snapshot", {"message": message_json(row)})
        if row.status != "streaming":
            yield Event("end", "end", {"message": message_json(row), "problem": conversations.problem})
            return
        await asyncio.sleep(settings.save_interval_seconds)
        silent_seconds += settings.save_interval_seconds
        yield None
