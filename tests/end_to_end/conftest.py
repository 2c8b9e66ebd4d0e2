"""The product as a user starts it: `ridgeline serve` in a process of its own, the default model."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.register_assert_rewrite("api.test_openai_client")


@pytest.fixture(scope="session")
def real_server(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running server; it must end with code 0 on SIGTERM."""
    folder = tmp_path_factory.mktemp("server")
    log = folder / "log"
    command = [sys.executable, "-m", "ridgeline", "serve", "--port", "0", "--data-dir", str(folder / "data")]
    # In bfloat16 the two best tokens are often equal, and which is drawn depends on the batch.
    command += ["--dtype", "float32"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RIDGELINE_")}
    if cache := os.environ.get("RIDGELINE_CACHE"):
        environment["RIDGELINE_CACHE"] = cache
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        yield _address(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(40)
    assert code == 0, log.read_text()


def _address(process: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        found = re.search(r"(http://127\.0\.0\.1:\d+)/v1", log.read_text())
        if found:
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"the server did not say that it is ready:\n{log.read_text()}")


@pytest.fixture
def base_url(real_server: str) -> str:
    return f"{real_server}/v1"


@pytest.fixture
def model() -> str:
    return "smollm2-135m"


@pytest.fixture
def metrics(real_server: str):
    """Reads a metric's value now: `metrics("ridgeline_kv_utilization_ratio")`.

    What has never been counted is 0 where a metric of that name ends in `_total`.
    """

    def read(name: str, **labels: str) -> float:
        for line in httpx.get(f"{real_server}/metrics").text.splitlines():
            if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        if name.endswith("_total"):
            return 0.0
        raise AssertionError(f"no metric {name} with {labels}")

    return read
