"""`ridgeline top` against a server whose figures are known."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import measured
import pytest
from rich.console import Console
from server_process import RIDGELINE, clean_environment

from ridgeline.cli import figures
from ridgeline.cli.top_screen import frame
from ridgeline.telemetry.metrics import Metrics
from ridgeline.telemetry.records import RESOURCES


class Served:
    """Answers as `/dashboard/live` does, or as it is told to."""

    def __init__(self) -> None:
        self.clock = measured.Clock()
        self.metrics = Metrics(self.clock)
        self.headers: list[str | None] = []
        self.status = 200
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.headers.append(self.headers["Authorization"])
                body = served.body() if self.path == "/dashboard/live" else b"{}"
                self.send_response(served.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def body(self) -> bytes:
        if self.status != 200:
            return json.dumps({"error": {"code": "some_code", "message": "No."}}).encode()
        live = {name: live.as_json() for name, live in self.metrics.live().items()}
        return json.dumps({"models": live}).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    measured.busy(served.metrics.engine("tiny", blocks_total=100), served.clock)
    yield served
    served.close()


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*RIDGELINE, "top", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment() | {"COLUMNS": "80"},
    )


def test_one_look_is_a_verdict_and_its_figures(served: Served) -> None:
    done = run("--url", served.url, "--once", "--api-key", "k1")
    assert (done.returncode, done.stderr) == (0, "")
    assert served.headers == ["Bearer k1"]
    assert "\x1b" not in done.stdout  # no colours into a pipe
    text = " ".join(done.stdout.split())
    for words in (
        "Reading the KV cache binds",
        "busy does not mean full",
        "What would help: A narrower KV cache",
        "12 answers in a step",
        "ridge out of reach",
        "3 until KV full (first)",
        "52 until slots full",
        "running 70%, idle 20%, free 10%",
        "hit 31%, cold 52%, evicted 16%, short <1%",
        "reading again took 2.5 s",
        "refused: at_capacity 4",
        "steps 50% off PREDICTS BADLY",
        "first token",
    ):
        assert words in text, words


def test_it_fits_80_by_24(served: Served) -> None:
    for resource in RESOURCES:
        measured.busy(served.metrics.engine("tiny"), served.clock, bound=resource)
        console = Console(width=80, file=io.StringIO(), record=True)
        console.print(frame(served.url, json.loads(served.body())["models"]))
        lines = console.export_text().splitlines()
        assert len(lines) <= 24
        assert max(map(len, lines)) <= 80


def test_json_is_the_snapshot_itself(served: Served) -> None:
    done = run("--url", served.url, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["models"]["tiny"]["verdict"]["resource"] == "memory_bandwidth"


def test_one_model_of_several(served: Served) -> None:
    served.metrics.engine("other", blocks_total=10)
    both = run("--url", served.url, "--once").stdout
    assert "tiny  " in both and "other  " in both
    assert "tiny  " not in run("--url", served.url, "--once", "--model", "other").stdout
    done = run("--url", served.url, "--model", "third")
    assert done.returncode == 1
    assert "does not serve 'third'; it serves tiny, other" in done.stderr


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "asks for a key: No. Give it with --api-key."),
        (404, "tells no figures: it is no Ridgeline server"),
        (503, "answered 503 some_code: No."),
    ],
)
def test_what_is_wrong_is_one_sentence(served: Served, status: int, words: str) -> None:
    served.status = status
    done = run("--url", served.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ridgeline: ") and words in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_server_it_says_how_to_start_one() -> None:
    done = run("--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "no server answers at http://127.0.0.1:9 (connection refused)" in done.stderr


class Watching:
    """`ridgeline top` on a terminal of its own."""

    def __init__(self, url: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*RIDGELINE, "top", "--url", url, "--interval", "0.1"],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=clean_environment() | {"COLUMNS": "100", "LINES": "40", "TERM": "xterm"},
        )
        os.close(theirs)
        self.shown = ""

    def until(self, words: str) -> None:
        deadline = time.monotonic() + 60
        while words not in self.shown:
            assert time.monotonic() < deadline, self.shown[-3000:]
            self._read()

    def _read(self) -> bool:
        """Take what has been written; False once nobody will write any more."""
        if select.select([self._ours], [], [], 0.1)[0]:
            try:
                self.shown += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                return False
        return True

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        while self._read():
            pass
        self.process.wait(60)
        os.close(self._ours)
        assert self.process.stderr is not None
        assert self.process.stderr.read() == b""
        return self.process.returncode


def test_it_goes_on_until_ctrl_c(served: Served) -> None:
    watching = Watching(served.url)
    watching.until("Reading the KV cache binds")
    measured.busy(served.metrics.engine("tiny"), served.clock, bound="compute")
    watching.until("Arithmetic binds")
    assert watching.interrupt() == 0
    assert "\x1b[?1049l" in watching.shown  # the terminal is as it was


def test_a_server_that_goes_is_waited_for(served: Served) -> None:
    watching = Watching(served.url)
    watching.until("Reading the KV cache binds")
    served.status = 503
    watching.until("These are the last figures")
    served.status = 200
    watching.shown = ""
    watching.until("Reading the KV cache binds")
    assert watching.interrupt() == 0


def test_figures() -> None:
    assert [figures.seconds(value) for value in (0, 2.5e-4, 0.0123, 4.5, 720)] == [
        "0 s", "250 µs", "12.3 ms", "4.5 s", "12 min",
    ]  # fmt: skip
    assert [figures.percent(share) for share in (0, 0.001, 0.125, 1.2)] == ["0%", "<1%", "12%", "120%"]
    assert [figures.count(value) for value in (3, 4300, 250_000, 1.29e6)] == ["3", "4,300", "250k", "1.29M"]
    assert figures.bar([(0.5, "#"), (0.26, "-"), (0.24, ".")], 10) == "#####---.."
    assert figures.bar([(1.0, "#"), (0.0, ".")], 4) == "####"
