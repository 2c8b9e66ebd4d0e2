"""A chat site as a process of its own, that tests may kill; and as much of the path to it as they may cut."""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

from scripted import ScriptedBackend
from served import Server

from ridgeline.protocol import Delta, Request
from ridgeline.web.settings import WebSettings

HEARTBEAT_SECONDS = 0.5


class TellingBackend(ScriptedBackend):
    """Tells one long text, and goes on with it from wherever it is to be gone on from."""

    def __init__(self, text: str, delay_seconds: float) -> None:
        super().__init__()
        self.text = text
        self.delay_seconds = delay_seconds

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        begun = (request.messages or ())[-1].content if request.continue_final_message else ""
        self.reply = self.text[len(begun) :] if self.text.startswith(begun) else "That was never said."
        async for delta in super().generate(request):
            yield delta


def make_server(database: Path, text: str, *, delay_seconds: float, port: int = 0) -> Server:
    """A site that tells a text slowly."""
    settings = WebSettings(heartbeat_seconds=HEARTBEAT_SECONDS, save_interval_seconds=0.2)
    return Server(TellingBackend(text, delay_seconds), database, settings, port=port)


class Door:
    """Such a site in a process; can be killed, and started again at the same address."""

    def __init__(self, database: Path, text: str, delay_seconds: float) -> None:
        self._arguments = [str(database), text, str(delay_seconds)]
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self._arguments, str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """As the kernel does it, with no time to say anything."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


class Way:
    """A way to a server, through which tests can be cut off, made to wait, and led elsewhere."""

    def __init__(self, port: int) -> None:
        self.to_port = port
        self._open = threading.Event()
        self._open.set()
        self._refusing = False
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection, and each new one at once."""
        self._refusing = True
        self._end_all()

    def mend(self, port: int | None = None) -> None:
        """Let connections through again, maybe to another server."""
        self.to_port = port or self.to_port
        self._refusing = False
        self._open.set()

    def stall(self) -> None:
        """Let nothing through, and end nothing."""
        self._open.clear()

    def close(self) -> None:
        self._open.set()
        self._listener.close()
        self._end_all()

    def _end_all(self) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._refusing:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self.to_port))
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serve until killed, or until whoever started it is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("database", type=Path)
    parser.add_argument("text")
    parser.add_argument("delay_seconds", type=float)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    server = make_server(given.database, given.text, delay_seconds=given.delay_seconds, port=given.port)
    server.start()
    print(server.port, flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


if __name__ == "__main__":
    main()
