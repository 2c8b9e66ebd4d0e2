"""Keeps one `ridgeline serve` running on this machine: what an actor on Ray does, without Ray.

The process is started again when it ends, with pauses that grow while it does not get ready, and it is
killed by the system when this process ends. Requests go to it directly.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import IO

from ridgeline.fleet.core.placing import FIRST_PAUSE_SECONDS, STEADY_SECONDS, State, pause_seconds

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
"""From one look at the process to the next."""

READY_LOOK_SECONDS = 2.0
"""From one question whether it is ready to the next, once it has been."""

PATIENCE_SECONDS = 2.0
"""For an answer to that question."""

UNREADY_SECONDS = 60.0
"""A process that was ready and has not been for so long is killed, and started again."""

LINES = 12
"""Of what it said last, looked through for why it ended."""

KEY_NAME = "fleet"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a replica is told.

    Attributes:
        arguments: of `ridgeline serve`, without the address and the data folder.
        data_dir: of all replicas of a machine: each has a folder in it. None: the user's data folder.
        folder: of this one in it.
        drain_seconds: it may take to end its answers.
        token: the fleet's.
    """

    arguments: tuple[str, ...]
    data_dir: str | None
    folder: str
    drain_seconds: float
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Report:
    """How it is.

    Attributes:
        state: of the replica.
        host: of its machine.
        url: where it answers; empty before it was first started.
        pid: of the process; 0 while there is none.
        restarts: times that it was started again.
        why: it ended the last time.
    """

    state: State
    host: str
    url: str = ""
    pid: int = 0
    restarts: int = 0
    why: str = ""


class Keeper:
    """Starts at once, in a thread of its own. `report` and `stop` return at once.

    Args:
        settings: of the replica.
        host: address of this machine, that others reach it by.
    """

    def __init__(self, settings: Settings, host: str) -> None:
        self._settings, self._host = settings, host
        self._report = Report("starting", host)
        self._stopping = threading.Event()
        self._port = 0
        # Processes are tied to the thread that starts them: it lives as long as this process.
        threading.Thread(target=self._run, name="ridgeline-keeper", daemon=True).start()

    def report(self) -> Report:
        """How it is now."""
        return self._report

    def stop(self) -> None:
        """Let it end its answers, then itself. `ended` tells when that is done."""
        self._stopping.set()

    def _run(self) -> None:
        try:
            self._keep()
            self._told(state="ended", pid=0, why="")
        except BaseException:
            logger.exception("the replica is not kept any more")
            time.sleep(FIRST_PAUSE_SECONDS)
            os._exit(1)  # who watches this process starts it again, and at once

    def _keep(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            child = self._start()
            ready_seconds = self._watch(child)
            if self._stopping.is_set():
                self._drain(child)
                return
            failures = 1 if ready_seconds >= STEADY_SECONDS else failures + 1
            pause = pause_seconds(failures)
            logger.error("%s; it is started again in %g s", self._report.why, pause)
            self._told(state="failing", pid=0, restarts=self._report.restarts + 1)
            self._stopping.wait(pause)

    def _start(self) -> "_Child":
        self._port = free_port(self._host, self._port)
        child = _Child(command(self._settings, self._host, self._port), environment(self._settings))
        host = f"[{self._host}]" if ":" in self._host else self._host
        # One that has failed counts as failing until it is ready.
        self._told(url=f"http://{host}:{self._port}", pid=child.process.pid)
        return child

    def _watch(self, child: "_Child") -> float:
        """Until it ends or is to end; how long it had been ready."""
        ready_since: float | None = None
        unready_since = looked = time.monotonic()
        while not self._stopping.is_set() and child.process.poll() is None:
            now = time.monotonic()
            if ready_since is None or now - looked >= READY_LOOK_SECONDS:
                looked = now
                if is_ready(self._report.url):
                    unready_since, ready_since = now, now if ready_since is None else ready_since
                    self._told(state="ready")
                elif ready_since is not None and now - unready_since >= UNREADY_SECONDS:
                    child.process.kill()
                    child.process.wait()
                    self._told(why=f"it was not ready for {UNREADY_SECONDS:g} s and was killed")
                    return now - ready_since
            self._stopping.wait(LOOK_SECONDS)
        code = child.process.poll()
        if code is not None:
            self._told(why=child.why(code))
        return 0.0 if ready_since is None else time.monotonic() - ready_since

    def _drain(self, child: "_Child") -> None:
        self._told(state="stopping")
        child.process.send_signal(signal.SIGTERM)
        try:
            # It ends by itself in that time; some more for it to begin and to close.
            child.process.wait(self._settings.drain_seconds + 15.0)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()

    def _told(self, **changes: object) -> None:
        self._report = replace(self._report, **changes)  # type: ignore[arg-type]


class _Child:
    """A running process, and the last that it said."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ridgeline.fleet.tied", str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
        )
        self._said: deque[str] = deque(maxlen=LINES)
        assert self.process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self._reader.start()

    def why(self, code: int) -> str:
        """In a sentence: how it ended, and what it said at last."""
        self._reader.join(1.0)
        said = next((line for line in reversed(self._said) if line.strip(" │╭╰─╮╯\n")), "").strip(" │\n")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return f"its process {how}: {said}" if said and code >= 0 else f"its process {how}"

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self._said.append(line)
                sys.stderr.write(line)  # Ray keeps it in this actor's log


def command(settings: Settings, host: str, port: int) -> list[str]:
    """Of the process. The token is not in it: everybody on the machine can read it."""
    data_dir = settings.data_dir
    if data_dir is None:
        from platformdirs import user_data_path

        data_dir = str(user_data_path("ridgeline") / "clusters")
    return [
        *(sys.executable, "-m", "ridgeline.cli.main", "serve", "--host", host, "--port", str(port)),
        *("--data-dir", f"{data_dir}/{settings.folder}", *settings.arguments),
    ]


def environment(settings: Settings) -> dict[str, str]:
    """Of the process: this machine's, the token, and the key that servers need where others reach them."""
    # Ray sets it to the CPUs that an actor takes of it.
    found = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if settings.token:
        found["RIDGELINE_FLEET_TOKEN"] = settings.token
        found.setdefault("RIDGELINE_API_KEY", f"{KEY_NAME}={settings.token}")
    return found


def free_port(host: str, wanted: int) -> int:
    """That port if it is free, else another: front doors know a replica by it."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return int(probe.getsockname()[1])
    raise OSError(f"no port is free on {host}")


def is_ready(url: str) -> bool:
    """Whether a server there takes requests."""
    try:
        # Not through a proxy that the environment may name.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/health/ready", timeout=PATIENCE_SECONDS) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False
