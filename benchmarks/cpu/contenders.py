"""What all contenders have in common: they take turns without a server, then as servers."""

import json
import socket
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpu.children import Child, ChildError, run_once
from cpu.rows import Task

LOAD = Path(__file__).with_name("load.py")

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What all contenders are given.

    Attributes:
        peers: folder of the peers' environments and models; see `install_peers.py`.
        logs: folder for what they write.
        threads: to compute with.
        model: Ridgeline's name of the model.
        dtype, kv_dtype: Ridgeline's.
        step_tokens: Ridgeline's budget of a step where it runs without a server.
    """

    peers: Path
    logs: Path
    threads: int
    model: str
    dtype: str
    kv_dtype: str
    step_tokens: int


class Contender(ABC):
    """Something that is measured. `name` is a column of the table.

    Between `enter` and `leave` it may have a process that is paused while others have their turn.
    """

    name: str
    serves = True
    """Whether it takes part over HTTP."""

    slow_start = False
    """Started once only: it takes minutes."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.child: Child | None = None
        self.url = ""

    @abstractmethod
    def missing(self) -> str | None:
        """Why it cannot be measured here; None if it can."""

    @abstractmethod
    def facts(self) -> Figures:
        """Versions and settings, for the record."""

    @abstractmethod
    def enter(self) -> None:
        """Get ready for tasks without a server."""

    @abstractmethod
    def offline(self, task: Task) -> Figures:
        """Do one; raises `ChildError`."""

    @abstractmethod
    def command(self, port: int) -> tuple[list[str | Path], dict[str, str]]:
        """What starts its server, and environment beside this process's."""

    def serve(self) -> float:
        """Start the server; seconds from the command to the first token of a chat."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command, environment = self.command(port)
        started = time.perf_counter()
        self.child = Child(command, self.log("server"), environment)
        _wait_for_a_token(self.url, self.served_name, self.child)
        return time.perf_counter() - started

    served_name = "m"

    def online(self, task: Task, seed: int) -> Figures:
        """Put chats on the server; raises `ChildError`."""
        assert self.child is not None
        self.child.check()
        command: list[str | Path] = [sys.executable, LOAD, "--url", self.url, "--model", self.served_name]
        command += ["--users", str(task.sequences), "--seed", str(seed)]
        if task.kind == "streams":
            command.append("--streamed")
        found: dict[str, Any] = json.loads(run_once(command, self.log("load"), 600.0))
        return found

    def leave(self) -> None:
        """End what runs."""
        if self.child is not None:
            self.child.stop()
            self.child = None

    def pause(self) -> None:
        """Another has its turn."""
        if self.child is not None:
            self.child.pause()

    def resume(self) -> None:
        """It has its turn again."""
        if self.child is not None:
            self.child.resume()

    def log(self, what: str) -> Path:
        """Where something of it writes to."""
        return self.setting.logs / f"{self.name.replace(' ', '-')}-{what}.log"


def _wait_for_a_token(url: str, model: str, child: Child, patience_seconds: float = 400.0) -> None:
    """Ask again and again for an answer of one token; a server that is not up refuses at once."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=patience_seconds) as response:
                response.read()
                return
        except urllib.error.HTTPError as error:
            if error.code != 503:  # loading
                raise ChildError(f"HTTP {error.code} instead of a first token; see {child.log}") from error
        except OSError:
            child.check()
        time.sleep(0.02)
    raise ChildError(f"no first token within {patience_seconds:.0f} s; see {child.log}")
