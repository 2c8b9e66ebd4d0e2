"""The engines' process: `python -m ridgeline.engine.worker DESCRIPTOR`, started by `EngineProcess`."""

import gc
import logging
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from ridgeline.engine.build import build_engines
from ridgeline.engine.core.copies import Moved
from ridgeline.engine.core.plan import Geometry
from ridgeline.engine.loop import EngineThread
from ridgeline.engine.process import MeterCall
from ridgeline.engine.runner import Envelope, Report


class MeterMessenger:
    """Collects an engine's meter calls until the next report takes them along."""

    def __init__(self, model: str, calls: list[MeterCall]) -> None:
        self._model = model
        self._calls = calls

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any, **keywords: Any) -> None:
            self._calls.append(MeterCall(self._model, method, arguments, keywords))

        return call


def main() -> None:
    """Load what the first message asks for, answer with what was loaded, run until the pipe ends."""
    # A Ctrl-C in the terminal and a supervisor's SIGTERM reach the whole group; when to end is the
    # server's decision, which drains first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe = Connection(int(sys.argv[1]))
    specs, options, level, started = pipe.recv()
    phases: list[tuple[str, float]] = []

    def on_phase(phase: str, seconds: float) -> None:
        phases.append((phase, seconds))

    on_phase("program", time.monotonic() - started)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
    calls: list[MeterCall] = []

    def meter_of(name: str, geometry: Geometry) -> Any:
        del geometry
        return MeterMessenger(name, calls)

    gc.disable()  # nothing of what follows is garbage, but there is enough of it to look through often
    try:
        engines = build_engines(specs, options, meter_of, on_phase)
    except Exception as error:
        _tell(pipe, error)
        return
    gc.freeze()
    gc.enable()
    thread = EngineThread([engine for engine, _ in engines])
    _tell(pipe, (phases, [loaded for _, loaded in engines]))

    def deliver(report: Report) -> None:
        _tell(pipe, (report, tuple(calls)))
        calls.clear()

    thread.start(deliver)
    _listen(pipe, thread)
    thread.join()


def _tell(pipe: Connection, message: object) -> None:
    try:
        pipe.send(message)
    except OSError:
        os._exit(0)  # the server is gone, and nobody else waits for anything


def _listen(pipe: Connection, thread: EngineThread) -> None:
    """Hand messages on until told to stop, or until the server is gone."""
    while True:
        try:
            message: Envelope | None = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)  # whatever is being computed, nobody waits for it
        if message is None:
            thread.stop()
            return
        assert not isinstance(message.message, Moved), "tiers belong to the engines' process"
        thread.send(message.model, message.message)


if __name__ == "__main__":
    threading.current_thread().name = "ridgeline-messages"
    main()
