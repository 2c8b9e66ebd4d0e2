"""A served chat site, and Chromium to look at it."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedBackend
from served import Server

from ridgeline.web.settings import WebSettings

CHROMIUM = "/usr/bin/chromium-headless-shell"
TIMEOUT_MS = 30_000  # what holds passes at once; the rest is for machines that are busy otherwise
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages that may write no error to the console and ask no other host for anything.

    They are past their first requests when they are handed out.
    """
    from playwright.sync_api import expect

    with contextlib.ExitStack() as stack:
        faults: list[str] = []

        def open_page(url: str, *, allow: tuple[str, ...] = (), **options: Any) -> Any:
            context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
            stack.callback(context.close)
            context.set_default_timeout(TIMEOUT_MS)
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
            expect(page.locator("main.gate[aria-busy=true]")).to_have_count(0)
            return page

        yield open_page
        assert faults == []
