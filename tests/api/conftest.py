"""A real server on a free port in a thread, with the fake backend behind it.

`test_openai_client.py` knows only `base_url` and `model`: override these two fixtures, or set
`RIDGELINE_TEST_BASE_URL` and `RIDGELINE_TEST_MODEL`, to run it against another server.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from fakes import FakeBackend
from ridgeline.api.app import create_app
from ridgeline.api.settings import ApiSettings
from ridgeline.telemetry.metrics import Metrics


class Stage:
    """An ASGI app that is whatever app the running test put on it: one server serves all tests."""

    app: FastAPI | None = None

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


@contextmanager
def serving(app: object) -> Iterator[str]:
    """Serve an app on a free port in a thread; yields its address without a path."""
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def startup_and_tell(*args: object, **kwargs: object) -> None:
        await startup(*args, **kwargs)
        started.set()

    server.startup = startup_and_tell
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    assert started.wait(60)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def stage() -> Iterator[tuple[Stage, str]]:
    empty = Stage()
    with serving(empty) as address:
        yield empty, address


@pytest.fixture
def fake() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def settings() -> ApiSettings:
    return ApiSettings()


@pytest.fixture
def app(fake: FakeBackend, settings: ApiSettings) -> FastAPI:
    return create_app(fake, settings, Metrics())


@pytest.fixture
def server(app: FastAPI, stage: tuple[Stage, str]) -> str:
    """Address of a real server of `app`."""
    on, address = stage
    on.app = app
    return address


@pytest.fixture
def base_url(request: pytest.FixtureRequest) -> str:
    return os.environ.get("RIDGELINE_TEST_BASE_URL") or f"{request.getfixturevalue('server')}/v1"


@pytest.fixture
def model() -> str:
    return os.environ.get("RIDGELINE_TEST_MODEL", "fake-model")


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client without sockets, for what needs no real connection."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        yield client
