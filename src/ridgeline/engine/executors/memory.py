"""What the machine has to offer: memory that may be taken, cores that may be used."""

import os
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that can be had without swapping, within the limit of the container if there is one.

    Args:
        cgroup: folder of the control group (version 2) that limits this process.
    """
    free: int = psutil.virtual_memory().available
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    if limit == "max":
        return free
    # Pages of files that nobody has open lately are given up when memory is asked for.
    return max(0, min(free, int(limit) - used + int(statistics.get("inactive_file", 0))))


def physical_cores() -> int:
    """Physical cores that this process may run on, at least one."""
    cores = psutil.cpu_count(logical=False) or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(1, cores)


def gib(amount: float) -> str:
    """Bytes for people."""
    return f"{amount / 2**30:.2f} GiB"
