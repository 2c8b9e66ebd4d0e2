"""How long a start takes: from the command to the first token of a first chat, model on disk.

    python benchmarks/cpu/start.py [--repetitions 5] [--model smollm2-135m] [-- OPTIONS OF SERVE]

Starts the server again and again, asks it over HTTP from the first moment on, and ends it. One start
more comes before those that count: it fetches the model, compiles kernels, writes Python's bytecode.
Other programs make the figures larger and never smaller, so beside the median stands the smallest,
and beside seconds of the clock stand those of the processor, of both processes together.
"""

import argparse
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_SECONDS = 0.005
GIVE_UP_SECONDS = 600.0
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": True}


@dataclass(frozen=True, slots=True)
class Start:
    """One start, in seconds from the command on.

    Attributes:
        ready_seconds: until the server lists its models.
        first_token_seconds: until the first text of a chat, asked for as soon as it was ready.
        processor_seconds: of all its processes, until then.
        log: what it wrote to standard error.
    """

    ready_seconds: float
    first_token_seconds: float
    processor_seconds: float
    log: str


def measure_start(command: Sequence[str], repetitions: int) -> list[float]:
    """Seconds from the command to the first token, of each start but one before, which does not count.

    `command` starts a server with an OpenAI-compatible API; `{port}` in it becomes a free port.
    """
    return [start.first_token_seconds for start in measure(command, repetitions)]


def measure(command: Sequence[str], repetitions: int) -> list[Start]:
    """As `measure_start`, with all that is known of each start."""
    return [start_once(command) for _ in range(repetitions + 1)][1:]


def start_once(command: Sequence[str]) -> Start:
    """Start a server, chat with it, end it; raises RuntimeError if it ends by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Of a second start the bytecode is there, also where this environment keeps none.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=kept,
        )
        try:
            model = wait_until_ready(process, port, started + GIVE_UP_SECONDS)
            ready = time.monotonic() - started
            wait_for_text(port, model)
            first_token = time.monotonic() - started
            processor = processor_seconds(process.pid)
        finally:
            end(process)
        log.seek(0)
        return Start(ready, first_token, processor, log.read().decode(errors="replace"))


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int, until: float) -> str:
    """Ask for the models until they are told; the name of the first."""
    while time.monotonic() < until:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request("GET", "/v1/models")
                response = connection.getresponse()
                if response.status == http.HTTPStatus.OK:
                    return str(json.load(response)["data"][0]["id"])
            finally:
                connection.close()
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode} before it was ready")
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"the server was not ready after {GIVE_UP_SECONDS:g} s")


def wait_for_text(port: int, model: str) -> None:
    """Chat until the first characters come."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": model, **CHAT}), headers)
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    return
        raise RuntimeError("the chat ended without any text")
    finally:
        connection.close()


def processor_seconds(pid: int) -> float:
    """Of a process and those that it started."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a server, by force if it takes long."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def phases_of(log: str) -> dict[str, dict[str, float]]:
    """Seconds of each phase by process, from what `ridgeline serve` logs at debug level."""
    found = re.search(r"start: (.*)", log)
    phases = {}
    for number, part in enumerate(found[1].split("; ") if found else ()):
        name, listed = ("server", part) if number == 0 else part.split(": ", 1)
        phases[name] = {
            phase: float(seconds) for phase, seconds in re.findall(r"(?:^|, )([^,]+?) (\d+\.\d+) s", listed)
        }
    return phases


def table(starts: Sequence[Start]) -> str:
    """Phases of the processes side by side with the smallest and the median of each."""
    rows: list[tuple[str, Sequence[float]]] = [
        ("ready", [start.ready_seconds for start in starts]),
        ("first token", [start.first_token_seconds for start in starts]),
        ("processor", [start.processor_seconds for start in starts]),
    ]
    logged: Sequence[Mapping[str, Mapping[str, float]]] = [phases_of(start.log) for start in starts]
    for process, phases in logged[0].items():
        for phase in phases:
            name = f"{process}: {phase}"
            rows.append((name, [one.get(process, {}).get(phase, float("nan")) for one in logged]))
    width = max(len(name) for name, _ in rows)
    lines = [f"{'seconds':{width}}{'least':>8}{'median':>8}"]
    lines += [f"{name:{width}}{min(times):8.2f}{statistics.median(times):8.2f}" for name, times in rows]
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("serve", nargs="*", metavar="OPTION", help="after --, of ridgeline serve")
    options = parser.parse_args()
    program = Path(sys.executable).with_name("ridgeline")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(program), "serve", options.model, "--port", "{port}", "--data-dir", folder]
        starts = measure([*command, "--log-level", "debug", *options.serve], options.repetitions)
    print(table(starts))
    print(
        json.dumps(
            {
                "benchmark": "start",
                "model": options.model,
                "repetitions": options.repetitions,
                "ready_seconds": [start.ready_seconds for start in starts],
                "first_token_seconds": [start.first_token_seconds for start in starts],
                "processor_seconds": [start.processor_seconds for start in starts],
                "phases": [phases_of(start.log) for start in starts],
            }
        )
    )


if __name__ == "__main__":
    main()
