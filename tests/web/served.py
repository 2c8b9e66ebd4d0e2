"""A chat site in a thread, as the tests of routes and page talk to it."""

import asyncio
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from scripted import ScriptedBackend

from ridgeline.api.app import create_app
from ridgeline.api.settings import ApiSettings
from ridgeline.store.store import Store
from ridgeline.telemetry.metrics import Metrics
from ridgeline.web.app import mount
from ridgeline.web.settings import WebSettings


@dataclass
class Server:
    """A chat site in a thread of its own; can be stopped and started again at the same address."""

    backend: ScriptedBackend
    database: Path
    settings: WebSettings
    api_keys: dict[str, str] = field(default_factory=dict)
    port: int = 0
    metrics: Metrics | None = None
    front_door: bool = False
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        app = create_app(self.backend, ApiSettings(api_keys=self.api_keys), self.metrics)
        mount(
            app,
            backend=self.backend,
            store=Store(self.database),
            settings=self.settings,
            front_door=self.front_door,
        )
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
