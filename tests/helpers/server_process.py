"""`ridgeline serve` as a process of its own, for tests of what a terminal would see."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RIDGELINE = (sys.executable, "-m", "ridgeline.cli.main")

# The sizes of an 8B model: some 6 ms a token on a simulated H100, so that an answer lasts seconds.
CONFIG_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}


def write_config(folder: Path, **changes: object) -> Path:
    """A config.json whose model is called `sim`."""
    path = folder / "sim.json"
    path.write_text(json.dumps({**CONFIG_8B, **changes}))
    return path


def clean_environment() -> dict[str, str]:
    """The environment without anybody's RIDGELINE_ settings, except where models are kept."""
    kept = {"RIDGELINE_CACHE"}
    return {
        name: value for name, value in os.environ.items() if not name.startswith("RIDGELINE_") or name in kept
    }


def run_serve(
    *arguments: str, timeout: float = 60, preexec: Callable[[], None] | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run `ridgeline serve` that is expected to end by itself."""
    return subprocess.run(
        [*RIDGELINE, "serve", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=clean_environment() | environment,
        preexec_fn=preexec,
    )


class Served:
    """A running server; `url` is where it answers."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.url = ""
        self.lines: list[str] = []
        self._errors: list[str] = []
        self._up = threading.Event()
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(r"OpenAI-compatible\s+(\S+)/v1", line)
            if found:
                self.url = found[1]
            if "Ctrl-C ends it" in line:
                self._up.set()
        self._up.set()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._errors.append(line)

    @property
    def errors(self) -> str:
        """Standard error so far."""
        return "".join(self._errors)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    def wait_until_up(self, seconds: float) -> None:
        """Wait for the announcement; fails with what the server said instead."""
        assert self._up.wait(seconds), f"not up after {seconds} s:\n{self.errors}"
        assert self.url, f"ended with {self.process.wait(10)}:\n{self.errors}"

    def wait_for_error(self, text: str, seconds: float = 60) -> None:
        """Wait until standard error contains the text."""
        until = time.monotonic() + seconds
        while text not in self.errors:
            assert time.monotonic() < until, f"'{text}' not in:\n{self.errors}"
            time.sleep(0.02)

    def wait(self, seconds: float = 30) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(10)
        return code

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON (or text) of a GET."""
        return self._open(urllib.request.Request(self.url + path))

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON of a POST."""
        headers = {"Content-Type": "application/json"}
        return self._open(urllib.request.Request(self.url + path, json.dumps(body).encode(), headers))

    def _open(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, text = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def stream(self, **body: object) -> Iterator[dict[str, Any]]:
        """Events of a streamed chat completion, and `{"done": True}` for its end mark."""
        body = {"messages": [{"role": "user", "content": "Hello"}], "model": "sim", "stream": True, **body}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(
            self.url + "/v1/chat/completions", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            for line in response:
                if line.startswith(b"data: [DONE]"):
                    yield {"done": True}
                elif line.startswith(b"data:"):
                    yield json.loads(line[5:])


@contextmanager
def serving(
    *arguments: str, data_dir: Path, port: int = 0, seconds: float = 60, **environment: str
) -> Iterator[Served]:
    """A server that is up, and gone afterwards whatever happened."""
    process = subprocess.Popen(
        [*RIDGELINE, "serve", "--port", str(port), "--data-dir", str(data_dir), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment() | environment,
    )
    served = Served(process)
    try:
        served.wait_until_up(seconds)
        yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        served.wait()
