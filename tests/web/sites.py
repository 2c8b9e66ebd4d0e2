"""A chat site without HTTP, as the tests of what is behind the routes use it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from scripted import ScriptedBackend

from ridgeline.store.records import StoredMessage
from ridgeline.store.store import Store
from ridgeline.web.job import Event, Job
from ridgeline.web.settings import WebSettings
from ridgeline.web.site import Site

ME = "local"


@asynccontextmanager
async def opened(
    path: Path, backend: ScriptedBackend, *, is_shared: bool = False, **changes: object
) -> AsyncIterator[Site]:
    """A site that is open; `changes` are to its settings."""
    settings = replace(WebSettings(save_interval_seconds=0.01), **changes)  # type: ignore[arg-type]
    site = Site(backend, Store(path), settings, is_shared=is_shared)
    await site.open()
    try:
        yield site
    finally:
        backend.hold_after, backend.hold_titles = None, False
        await site.close()


async def told(job: Job) -> list[Event]:
    """All events of an answer, to its end."""
    return [event async for event in job.listen(None) if event is not None]


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that is sure to come."""
    while True:
        if holds():
            return
        await asyncio.sleep(0.002)


async def stored(site: Site, conversation_id: str) -> list[StoredMessage]:
    """What the database itself has."""
    return await site.conversations._store.messages(conversation_id)
