"""One process kept running: started again, drained, and never outliving its keeper."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ridgeline.fleet import keeper
from ridgeline.fleet.keeper import Keeper, Report, Settings, command, environment

HERE = "127.0.0.1"

SERVER = """
import http.server, signal, sys, threading, time, pathlib
folder = pathlib.Path(sys.argv[2])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if (folder / "unready").exists() else 200)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
def end(*_):
    time.sleep(0.3)
    (folder / "drained").touch()
    sys.exit()
signal.signal(signal.SIGTERM, end)
server.serve_forever()
"""

BROKEN = "import sys; sys.exit('there is no such model')"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Keeper]:
    """Keeps a program in place of `ridgeline serve`."""

    def start(program: str) -> Keeper:
        monkeypatch.setattr(
            keeper,
            "command",
            lambda settings, host, port: [sys.executable, "-c", program, str(port), str(tmp_path)],
        )
        return Keeper(Settings((), None, "a-0", 1.0), HERE)

    return start


def until(keeper: Keeper, true: Callable[[Report], object], seconds: float = 30) -> Report:
    end = time.monotonic() + seconds
    while not true(keeper.report()):
        assert time.monotonic() < end, keeper.report()
        time.sleep(0.02)
    return keeper.report()


def test_what_is_killed_is_started_again_where_it_was(kept: Callable[[str], Keeper], tmp_path: Path) -> None:
    keeper = kept(SERVER)
    first = until(keeper, lambda report: report.state == "ready")
    os.kill(first.pid, signal.SIGKILL)
    second = until(keeper, lambda report: report.state == "ready" and report.pid != first.pid)
    assert second.restarts == 1 and second.url == first.url
    assert second.why == "its process was killed by SIGKILL"
    keeper.stop()
    assert until(keeper, lambda report: report.state != "ready").state == "stopping"
    assert until(keeper, lambda report: report.state == "ended").pid == 0
    assert (tmp_path / "drained").exists(), "it had its time"
    assert not psutil.pid_exists(second.pid)


def test_what_cannot_work_says_why_and_does_not_spin(kept: Callable[[str], Keeper]) -> None:
    keeper, began = kept(BROKEN), time.monotonic()
    report = until(keeper, lambda report: report.restarts == 3)
    assert time.monotonic() - began > 1.5, "pauses of 0.5 and 1 s"
    assert report.state == "failing"
    assert report.why == "its process ended with 1: there is no such model"
    keeper.stop()
    until(keeper, lambda report: report.state == "ended")


def test_what_is_not_ready_for_long_is_killed_and_started_again(
    kept: Callable[[str], Keeper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "UNREADY_SECONDS", 0.5)
    monkeypatch.setattr(keeper, "READY_LOOK_SECONDS", 0.1)
    one = kept(SERVER)
    first = until(one, lambda report: report.state == "ready")
    (tmp_path / "unready").touch()
    until(one, lambda report: report.why == "it was not ready for 0.5 s and was killed")
    (tmp_path / "unready").unlink()
    assert until(one, lambda report: report.state == "ready").pid != first.pid
    one.stop()
    until(one, lambda report: report.state == "ended")


def test_nothing_outlives_its_keeper() -> None:
    program = f"""
import sys, time
from ridgeline.fleet import keeper
keeper.command = lambda settings, host, port: [sys.executable, "-c", {SERVER!r}, str(port), "/nowhere"]
one = keeper.Keeper(keeper.Settings((), None, "a-0", 1.0), "{HERE}")
while one.report().state != "ready": time.sleep(0.02)
print(one.report().pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs([child], 5)
    assert not alive


def test_the_token_is_in_the_environment_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RIDGELINE_API_KEY", raising=False)
    settings = Settings(("smollm2-135m", "--max-batch", "4"), "/data", "us-a-0", 30.0, "a-secret")
    asked = command(settings, "10.0.0.4", 4567)
    assert asked[-5:] == ["--data-dir", "/data/us-a-0", "smollm2-135m", "--max-batch", "4"]
    assert "10.0.0.4" in asked and "4567" in asked
    assert "a-secret" not in " ".join(asked) and "a-secret" not in repr(settings)
    found = environment(settings)
    assert found["RIDGELINE_FLEET_TOKEN"] == "a-secret" and found["RIDGELINE_API_KEY"] == "fleet=a-secret"
    assert "OMP_NUM_THREADS" not in found
