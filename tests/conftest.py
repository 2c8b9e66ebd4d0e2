"""Shared by all tests: where kernels run, and that continuous integration skips nothing unseen."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

# Tests run on several processes at once: each has its share of the cores, and threads that wait leave
# theirs to others. OpenMP reads both when torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from numba.core.caching import IndexDataCacheFile

from ridgeline.kernels.jit.kept import kernels_folder

# Triton's kernels run in its interpreter here, GPU or not: it must be told before they are defined.
os.environ.setdefault("TRITON_INTERPRET", "1")

# Compiled kernels are shared by all processes of a run, also those with a cache of their own.
os.environ.setdefault("NUMBA_CACHE_DIR", str(kernels_folder()))


def _save_alone(self: IndexDataCacheFile, key: Any, data: Any) -> None:
    with (Path(self._cache_path) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _save(self, key, data)


# Numba numbers what it keeps of a function by the index, and two processes at it take one number for
# two things: one would then load what the other compiled for another processor.
_save = IndexDataCacheFile.save
IndexDataCacheFile.save = _save_alone

ALLOWED_SKIPS = ("needs_gpu", "needs_data")
NO_SKIPS = os.environ.get("RIDGELINE_NO_SKIPS") == "1"

_skipped: list[str] = []
_unexpected: list[str] = []
_passed: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest begins first, so that no process goes on long after the others."""
    items.sort(key=lambda item: -_own_timeout_seconds(item))


def _own_timeout_seconds(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return marker.args[0] if marker else 0


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note each skipped test, and whether its markers allow that: reports of all processes come here."""
    if report.skipped and not hasattr(report, "wasxfail"):
        allowed = any(name in report.keywords for name in ALLOWED_SKIPS)
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        (_skipped if allowed else _unexpected).append(f"{report.nodeid}: {reason}")
    elif report.passed and report.when == "call":
        _passed.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A module that skips itself as a whole has no item to ask for markers."""
    if report.skipped:
        _unexpected.append(f"{report.nodeid}: skipped as a whole")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where RIDGELINE_NO_SKIPS=1, fail for unexpected skips and for a run that ran nothing."""
    if NO_SKIPS and exitstatus == pytest.ExitCode.OK and not hasattr(session.config, "workerinput"):
        if _unexpected:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif not _passed:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name what did not run and why."""
    if not NO_SKIPS:
        return
    for line in _skipped:
        terminalreporter.write_line(f"skipped, allowed: {line}")
    for line in _unexpected:
        terminalreporter.write_line(f"skipped, NOT allowed here: {line}", red=True)
    if not _passed:
        terminalreporter.write_line("no test ran", red=True)


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The default model's GGUF file, fetched into the normal cache; the test fails where it cannot be."""
    from ridgeline.models.catalogue import pull

    return pull("smollm2-135m")
