"""This processor as an entry of the hardware catalogue, its peaks measured once and kept."""

import hashlib
import json
import logging
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

import ridgeline
from ridgeline.engine.executors.cpu_models import FLOATS, INT8
from ridgeline.models.cache import cache_dir
from ridgeline.roofline import Hardware
from ridgeline.roofline.hardware import COMPILED_ON_CPU, TORCH_ON_CPU

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peaks:
    """Of all compute threads together.

    Attributes:
        bytes_per_second: read from memory.
        flops_per_second: in the dtype that was measured.
    """

    bytes_per_second: float
    flops_per_second: float


def this_processor(dtype: str, threads: int) -> Hardware:
    """The processor as it is for this dtype; measures for about a second if that was never done.

    What was measured lies in the cache directory, by machine, threads and versions; remove the file to
    have it measured anew.
    """
    machine = _machine(dtype, threads)
    folder = cache_dir().parent / "peaks"
    file = folder / f"{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"
    peaks = _kept(file)
    if peaks is None:
        started = time.perf_counter()
        peaks = _measure(dtype, threads)
        logger.info("measured what this processor reaches in %.1f s", time.perf_counter() - started)
        _keep(file, machine, peaks)
    return Hardware(
        name="cpu",
        memory_bytes=psutil.virtual_memory().total,
        bytes_per_second=peaks.bytes_per_second,
        flops_per_second={dtype: peaks.flops_per_second},
        efficiency=COMPILED_ON_CPU if dtype == INT8 else TORCH_ON_CPU,
    )


def _measure(dtype: str, threads: int) -> Peaks:
    if dtype == INT8:
        from ridgeline.kernels.jit.ceilings import measure

        found = measure(threads)
        # Large products are in bfloat16 tiles where there are any: the most that int8 weights can get.
        fastest = max(found.int8_operations_per_second, found.tile_operations_per_second)
        return Peaks(found.read_bytes_per_second, fastest)
    from ridgeline.kernels.cpu_ceilings import measure_product, measure_reading

    return Peaks(measure_reading(), measure_product(FLOATS[dtype]))


def _machine(dtype: str, threads: int) -> str:
    """All that the peaks depend on."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = " ".join(line for line in lines if line.startswith(("model name", "flags")))[:4000]
    pretended = os.environ.get("NUMBA_CPU_NAME", "")
    return "\n".join(
        (ridgeline.__version__, torch.__version__, model, pretended, dtype, f"{threads} threads")
    )


def _kept(file: Path) -> Peaks | None:
    try:
        found = json.loads(file.read_text())
        peaks = Peaks(float(found["bytes_per_second"]), float(found["flops_per_second"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return peaks if peaks.bytes_per_second > 0 and peaks.flops_per_second > 0 else None


def _keep(file: Path, machine: str, peaks: Peaks) -> None:
    entry = {
        "bytes_per_second": peaks.bytes_per_second,
        "flops_per_second": peaks.flops_per_second,
        "machine": machine[:400],
    }
    part = file.with_suffix(f".{os.getpid()}")  # another process may be at it too
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(entry, indent=1))
        part.replace(file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        logger.warning("what was measured cannot be kept in %s: %s", file.parent, error)
