"""Where the benchmark computes: on a GPU, or for a smoke test in host memory.

Everything that differs between the two is behind `Place`.
"""

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch

from ridgeline.engine.executors.cuda.device import CudaDevice, Device, Mark
from ridgeline.kernels.cuda.kernels import CudaKernels, GpuLimits
from ridgeline.roofline import Hardware, find_hardware

SMOKES = ("plain", "kernels")
"""Smoke tests compute with plain torch, or with the kernels in Triton's interpreter."""


class Switched(Protocol):
    """A device that can be told not to use its recordings.

    Attributes:
        eager: what was recorded is launched piece by piece. There is no way back: what it draws then
            lies elsewhere than a graph would have put it.
    """

    eager: bool


class Place(Protocol):
    """A device and the means to measure on it."""

    torch_device: torch.device
    plain: bool
    """Plain torch stands in for the kernels; it does not draw from what is not finite."""

    def device(self) -> Any:
        """A `Device` that is `Switched`, for an executor."""
        ...

    def kernels(self, max_tiles: int) -> CudaKernels:
        """The kernels, without an executor."""
        ...

    def seconds(self, work: Callable[[], Any], repetitions: int) -> list[float]:
        """Device time of each repetition, after one that is not counted."""
        ...

    def settle(self) -> None:
        """Wait for all that was put on the device."""
        ...


class SwitchedCuda(CudaDevice):
    """See `Switched`."""

    eager = False

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Device.record`."""
        replay = super().record(work)
        return lambda: work() if self.eager else replay()


class CudaPlace:
    """The first GPU that the process sees."""

    plain = False

    def __init__(self) -> None:
        self.torch_device = torch.device("cuda", 0)
        torch.cuda.set_device(self.torch_device)

    def device(self) -> SwitchedCuda:
        """See `Place.device`."""
        return SwitchedCuda(0)

    def kernels(self, max_tiles: int) -> CudaKernels:
        """See `Place.kernels`."""
        return _kernels(CudaDevice(0), max_tiles)

    def seconds(self, work: Callable[[], Any], repetitions: int) -> list[float]:
        """See `Place.seconds`."""
        work()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repetitions + 1)]
        marks[0].record()
        for mark in marks[1:]:
            work()
            mark.record()
        self.settle()
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)]

    def settle(self) -> None:
        """See `Place.settle`."""
        torch.cuda.synchronize()


class HostMark:
    """The time of day: work in host memory is done when it is submitted."""

    def __init__(self) -> None:
        self._seconds = time.perf_counter()

    def wait(self) -> None:
        """See `Mark.wait`."""

    def seconds_since(self, earlier: Mark) -> float:
        """See `Mark.seconds_since`."""
        assert isinstance(earlier, HostMark), "marks of two devices"
        return self._seconds - earlier._seconds


class HostDevice:
    """Host memory in the place of a GPU."""

    torch_device = torch.device("cpu")
    capability = 90
    kernels_name = "host"
    total_bytes = 1 << 30
    processors = 4
    shared_memory_bytes = 227 * 1024
    eager = False

    def pinned(self, integers: int) -> torch.Tensor:
        """See `Device.pinned`."""
        return torch.zeros(integers, dtype=torch.int32)

    def submit(self, work: Callable[[], None]) -> None:
        """See `Device.submit`."""
        work()

    def mark(self) -> HostMark:
        """See `Device.mark`."""
        return HostMark()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Device.record`."""
        return work

    def settle(self) -> None:
        """See `Device.settle`."""

    def free_bytes(self) -> int:
        """See `Device.free_bytes`."""
        return self.total_bytes

    def hardware(self) -> Hardware:
        """See `Device.hardware`."""
        return find_hardware("h200")

    def close(self) -> None:
        """See `Device.close`."""


class HostPlace:
    """Host memory; its times say nothing about a GPU."""

    torch_device = torch.device("cpu")

    def __init__(self, plain: bool) -> None:
        self.plain = plain

    def device(self) -> HostDevice:
        """See `Place.device`."""
        return HostDevice()

    def kernels(self, max_tiles: int) -> CudaKernels:
        """See `Place.kernels`."""
        return _kernels(HostDevice(), max_tiles)

    def seconds(self, work: Callable[[], Any], repetitions: int) -> list[float]:
        """See `Place.seconds`."""
        times = []
        for _ in range(repetitions + 1):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return times[1:]

    def settle(self) -> None:
        """See `Place.settle`."""


def _kernels(device: Device, max_tiles: int) -> CudaKernels:
    limits = GpuLimits(device.processors, device.shared_memory_bytes)
    return CudaKernels(device.torch_device, limits, max_tiles, device.kernels_name)


@contextmanager
def place_of(smoke: str | None) -> Iterator[Place]:
    """The GPU, or where a smoke test of this kind computes."""
    if smoke is None:
        yield CudaPlace()
        return
    with _one_thread():
        yield from _host_place(smoke)


@contextmanager
def _one_thread() -> Iterator[None]:
    """What a smoke test computes is too small to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _host_place(smoke: str) -> Iterator[Place]:
    if smoke == "kernels":
        if os.environ.get("TRITON_INTERPRET") != "1":
            raise RuntimeError("TRITON_INTERPRET must be 1 before Triton's kernels are imported")
        yield HostPlace(plain=False)
    else:
        sys.path.append(str(Path(__file__).parents[2] / "tests" / "helpers"))
        from plain_launchers import plain_launchers

        with plain_launchers():
            yield HostPlace(plain=True)


def free_unused(place: Place) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    place.settle()
    if place.torch_device.type == "cuda":
        torch.cuda.empty_cache()
