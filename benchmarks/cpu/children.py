"""Processes that are measured: each in a group of its own, stopped while another has its turn."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cpu.answering import MARK


class ChildError(RuntimeError):
    """A process ended, was silent for too long or told of a failure; says where its log is."""


class Child:
    """A process with its descendants.

    Args:
        command: what to run.
        log: takes its errors, and its output where nobody reads it.
        environment: beside that of this process.
        talks: keep its input and output, for `Worker`.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        talks: bool = False,
    ) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else errors,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    def pause(self) -> None:
        """Let it and its descendants compute nothing, not even wait by spinning."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def stop(self, patience_seconds: float = 15.0) -> None:
        """End all of them."""
        self.resume()
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_seconds)
        self._signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def check(self) -> None:
        """Raise `ChildError` where it has ended."""
        if self.process.poll() is not None:
            raise ChildError(f"ended with {self.process.returncode}; see {self.log}")

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return


class Worker(Child):
    """A child that answers a line of JSON with a line of JSON; see `answer_requests`."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(command, log, environment, talks=True)
        self._rest = b""

    def ask(self, request: Mapping[str, Any], patience_seconds: float = 120.0) -> dict[str, Any]:
        """Its answer; raises `ChildError`."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.check()
        return self.answer(patience_seconds)

    def answer(self, patience_seconds: float) -> dict[str, Any]:
        """The next line of JSON; the first one comes unasked, when the worker is ready."""
        deadline = time.monotonic() + patience_seconds
        while True:
            line = self._line(deadline)
            if line.startswith(MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                if "error" in answer:
                    raise ChildError(f"{answer['error']}; see {self.log}")
                return answer

    def _line(self, deadline: float) -> str:
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        while b"\n" not in self._rest:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ChildError(f"silent for too long; see {self.log}")
            found = os.read(pipe, 65536)
            if not found:
                self.process.wait()
                self.check()
            self._rest += found
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="replace")


def run_once(
    command: Sequence[str | Path],
    log: Path,
    patience_seconds: float,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a command prints; raises `ChildError` where it fails or takes too long."""
    with log.open("ab") as errors:
        try:
            done = subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                timeout=patience_seconds,
                check=False,
                text=True,
            )
        except subprocess.TimeoutExpired:
            raise ChildError(f"took longer than {patience_seconds:.0f} s; see {log}") from None
    if done.returncode:
        raise ChildError(f"ended with {done.returncode}; see {log}")
    return done.stdout
