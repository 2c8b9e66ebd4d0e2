"""A real server on a free port in a thread, with the fake backend behind it.

To run the client's tests against another server, give its address in `RIDGELINE_TEST_BASE_URL` and
the model in `RIDGELINE_TEST_MODEL`; tests that script the backend are left out by asking for `fake`.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import FastAPI

from fakes import FakeBackend
from ridgeline.api.app import create_app
from ridgeline.api.settings import ApiSettings
from ridgeline.telemetry.metrics import Metrics


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve an app on a free port in a thread; yields its address without a path."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    started = threading.Event()
    startup = server.startup

    async def startup_and_tell(*args: object, **kwargs: object) -> None:
        await startup(*args, **kwargs)
        started.set()

    server.startup = startup_and_tell
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    assert started.wait(20)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


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
def server(app: FastAPI) -> Iterator[str]:
    with serving(app) as address:
        yield address


@pytest.fixture
def base_url(server: str) -> str:
    return f"{server}/v1"


@pytest.fixture
def model() -> str:
    return "fake-model"
