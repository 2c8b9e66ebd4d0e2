"""A served chat site, and Chromium to look at it."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from scripted import ScriptedBackend

from ridgeline.api.app import create_app
from ridgeline.api.settings import ApiSettings
from ridgeline.store.store import Store
from ridgeline.web.app import mount
from ridgeline.web.settings import WebSettings

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Server:
    """A chat site in a thread of its own; can be stopped and started again at the same address."""

    backend: ScriptedBackend
    database: Path
    settings: WebSettings
    api_keys: dict[str, str] = field(default_factory=dict)
    port: int = 0
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        app = create_app(self.backend, ApiSettings(api_keys=self.api_keys))
        mount(app, backend=self.backend, store=Store(self.database), settings=self.settings)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve([listener])))
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            self._thread.join(0.01)

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = None


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(settings: WebSettings | None = None, **options: Any) -> Server:
        server = Server(ScriptedBackend(), tmp_path / "c.db", settings or WebSettings(), **options)
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.backend.hold_after = None
        server.stop()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages that may write no error to the console and ask no other host for anything."""
    with contextlib.ExitStack() as stack:
        faults: list[str] = []

        def open_page(url: str, *, allow: tuple[str, ...] = (), **options: Any) -> Any:
            context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
            stack.callback(context.close)
            context.set_default_timeout(10_000)
            page = context.new_page()
            origin = "/".join(url.split("/")[:3])

            def on_console(message: Any) -> None:
                if message.type in ("error", "warning") and not any(part in message.text for part in allow):
                    faults.append(f"console: {message.text}")

            def on_request(request: Any) -> None:
                if not request.url.startswith((origin, "data:", "blob:")):
                    faults.append(f"request to {request.url}")

            context.on("request", on_request)
            context.on("console", on_console)
            context.on("weberror", lambda error: faults.append(f"exception: {error.error}"))
            page.goto(url)
            return page

        yield open_page
        assert faults == []
