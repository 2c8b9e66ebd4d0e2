"""Engines in a process of their own, and the messages between it and the server's.

An eager step of torch makes some 900 calls that each give up the interpreter's lock. Beside an
event loop that is never idle it took 2 to 10 times as long in one process, whatever the switch
interval; across a process border the two meet only where a step's messages are passed.

    server's process                                     engines' process
    EngineProcess.send --- Envelope, None to stop ------> inbox of the EngineThread
    reader thread, `deliver` <- (Report, meter calls) --- after each turn

The pipe carries pickles, which is safe for both ends are ours. When the server dies, the pipe
ends and with it the other process; when the engines' process dies, every stream is told.
"""

import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Self

from ridgeline.engine.options import EngineOptions, ModelSpec
from ridgeline.engine.runner import Envelope, Report
from ridgeline.models.errors import ModelError

if TYPE_CHECKING:  # what is imported here keeps the process from being started
    from ridgeline.engine.build import Loaded
    from ridgeline.engine.core.messages import Cancel, MarkAnswer, Submit
    from ridgeline.telemetry.meter import EngineMeter

logger = logging.getLogger(__name__)

JOIN_SECONDS = 10.0
"""A step takes less than this; a process that has not ended by then is killed."""


@dataclass(frozen=True, slots=True)
class MeterCall:
    """A call of the meter of `model`, to be made in the server's process."""

    model: str
    method: str
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


class EngineProcess:
    """Implements `Runner` with a child process; loading begins at once.

    As a context manager it sees to it that the process is gone at the end.

    Attributes:
        names: models it runs, once they are loaded.
        phases: what took how many seconds until they were.
    """

    def __init__(self, specs: Sequence[ModelSpec], options: EngineOptions) -> None:
        started = time.monotonic()
        ours, theirs = socket.socketpair()
        # Not forked: torch's threads and ours do not survive it. Only this one descriptor is
        # inherited, so that a server killed outright leaves its port free.
        command = [sys.executable, "-m", "ridgeline.engine.worker", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._pipe = Connection(ours.detach())
        self._sending = threading.Lock()
        self._meters: Mapping[str, EngineMeter] = {}
        self._stopped = False
        self.names: tuple[str, ...] = ()
        self.phases: Sequence[tuple[str, float]] = ()
        self._pipe.send((tuple(specs), options, logging.getLogger().getEffectiveLevel(), started))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def wait_until_loaded(self) -> "list[Loaded]":
        """What was loaded, one entry a model.

        Raises:
            ModelError: a model cannot be served, or the process died while loading.
        """
        try:
            loaded = self._pipe.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            raise ModelError(
                f"the process that loads the models ended with code {code}; if the system killed it "
                "for want of memory, serve a smaller model or give less to --kv-memory"
            ) from None
        if isinstance(loaded, Exception):
            raise loaded
        self.phases, loaded = loaded
        self.names = tuple(entry.name for entry in loaded)
        return list(loaded)

    def report_to(self, meters: "Mapping[str, EngineMeter]") -> None:
        """Where the engines' measurements go, by model."""
        self._meters = meters

    def start(self, deliver: Callable[[Report], None]) -> None:
        """See `Runner.start`."""
        threading.Thread(target=self._read, args=(deliver,), name="ridgeline-reports", daemon=True).start()

    def send(self, model: str, message: "Submit | Cancel | MarkAnswer") -> None:
        """See `Runner.send`."""
        self._put(Envelope(model, message))

    def stop(self) -> None:
        """See `Runner.stop`."""
        self._stopped = True
        self._put(None)

    def join(self) -> None:
        """Wait for the process, and kill it if it does not end."""
        try:
            self._process.wait(JOIN_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("the engines' process did not end in %.0f s and is killed", JOIN_SECONDS)
            self.kill()

    def kill(self) -> None:
        """End the process, whatever it is doing, unless it has ended."""
        self._stopped = True
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Of the engines' process."""
        return self._process.pid

    def _put(self, message: Envelope | None) -> None:
        try:
            with self._sending:
                self._pipe.send(message)
        except OSError:
            return  # it is dead; the reader tells everybody

    def _read(self, deliver: Callable[[Report], None]) -> None:
        while True:
            try:
                report, calls = self._pipe.recv()
            except (EOFError, OSError):
                break
            for call in calls:
                getattr(self._meters[call.model], call.method)(*call.arguments, **call.keywords)
            deliver(report)
        code = self._process.wait()
        if not self._stopped:
            logger.error("the engines' process ended with code %s", code)
            for name in self.names:
                deliver(Report(name, [], None, failure=f"its process ended with code {code}"))
