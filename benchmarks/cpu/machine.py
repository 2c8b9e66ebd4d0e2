"""What is measured on, and whether others compute on it at the same time."""

import importlib.metadata
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

_PACKAGES = ("torch", "numba", "llvmlite", "numpy")

_KINDS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")

QUIET_CORES = 0.15
"""That others may keep busy before a measurement begins."""


def describe(cores: int) -> dict[str, str]:
    """Processor, cores used, memory and versions; nothing that names the machine."""
    memory = psutil.virtual_memory().total / 2**30
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    return {
        "processor": _processor(),
        "cores": f"{cores} of {os.cpu_count()}",
        "memory": f"{memory:.0f} GiB",
        "Linux": platform.release().split("-")[0],
        "Python": platform.python_version(),
        **versions,
    }


def today() -> str:
    """As in `23 November 2026`, in UTC."""
    now = datetime.now(UTC)
    return f"{now.day} {now:%B %Y}"


def _processor() -> str:
    """Name, family and what decides about kernels."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    fields = {key.strip(): value.strip() for key, value in pairs}
    flags = set(fields.get("flags", "").split())
    kinds = " ".join(kind for kind in _KINDS if kind in flags)
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}, {kinds})"


def busy_cores(seconds: float = 0.3) -> float:
    """How many cores' worth of work was done in so long, all processes and the host's theft together."""
    before, started = psutil.cpu_times(), time.perf_counter()
    time.sleep(seconds)
    after, lasted = psutil.cpu_times(), time.perf_counter() - started
    names = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(after, name, 0.0) - getattr(before, name, 0.0) for name in names) / lasted


def wait_for_quiet(patience_seconds: float) -> bool:
    """Wait until nobody else computes; whether that came to pass."""
    deadline = time.monotonic() + patience_seconds
    while busy_cores() > QUIET_CORES:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True
