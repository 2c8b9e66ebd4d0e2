"""What is measured on, as it was found; nothing is set, and nothing that names the machine is told."""

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime

from gpu.bench import Record

_ASKED = "name driver_version memory.total clocks.sm clocks.mem clocks.max.sm power.limit temperature.gpu"
_PACKAGES = ("torch", "triton", "transformers", "numpy")


def describe_machine() -> Record:
    """Versions, date, and what nvidia-smi says of the first GPU."""
    found: Record = {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
    found["python"] = platform.python_version()
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found | _gpu()


def _gpu() -> Record:
    fields = _ASKED.split()
    query = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        line = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {"nvidia-smi": None}
    values = [value.strip() for value in line.strip().split("\n")[0].split(",")]
    return dict(zip(fields, values, strict=False))
