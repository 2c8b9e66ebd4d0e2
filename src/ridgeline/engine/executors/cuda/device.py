"""A GPU as the executor sees it: one stream of work, marks in it, and recordings of it.

The executor's logic is tested with another device behind this seam, one that carries out work as
late as it may.
"""

import subprocess
from collections.abc import Callable
from typing import Protocol

import torch
import triton

from ridgeline.models.errors import ModelError
from ridgeline.roofline import Hardware
from ridgeline.roofline.detect import hardware_of


class Mark(Protocol):
    """A place in the stream of work."""

    def wait(self) -> None:
        """Block until all work submitted before it is done. What failed on the device raises here."""
        ...

    def seconds_since(self, earlier: "Mark") -> float:
        """Device time between two marks that have been reached."""
        ...


class Device(Protocol):
    """One GPU. Used from one thread at a time."""

    torch_device: torch.device
    capability: int
    """Compute capability: 90 stands for 9.0."""
    kernels_name: str
    """Of the kernels compiled for it: replicas with the same name compute the same numbers."""
    total_bytes: int
    """Memory of the device."""
    processors: int
    """Multiprocessors that programs of a launch are spread over."""
    shared_memory_bytes: int
    """Most shared memory that one program may have."""

    def pinned(self, integers: int) -> torch.Tensor:
        """Host memory [integers], int32, that the device can copy from and to by itself."""
        ...

    def submit(self, work: Callable[[], None]) -> None:
        """Put work at the end of the stream. It may be carried out at any time before a mark set
        after it has been waited for, so it must not read host memory that changes before then."""
        ...

    def mark(self) -> Mark:
        """Mark the present end of the stream."""
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record work (a CUDA graph) without carrying it out, from inside submitted work.

        Returns what carries it out, with the same tensors as now; to be called inside submitted work.
        It has memory of its own: torch.OutOfMemoryError if there is not enough.
        """
        ...

    def settle(self) -> None:
        """Wait for what was put on the device outside of the stream: weights, tables."""
        ...

    def free_bytes(self) -> int:
        """Memory that can still be allocated."""
        ...

    def hardware(self) -> Hardware:
        """The device in the words of the cost model."""
        ...

    def close(self) -> None:
        """Wait for the stream to end and give unused memory back."""
        ...


class _CudaMark:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._event.record(stream)

    def wait(self) -> None:
        self._event.synchronize()

    def seconds_since(self, earlier: "Mark") -> float:
        assert isinstance(earlier, _CudaMark), "marks of two devices"
        milliseconds: float = earlier._event.elapsed_time(self._event)
        return milliseconds / 1000


def _driver_properties(index: int) -> dict[str, int]:
    """What the driver tells of a GPU. It is Triton's first call there, for which it builds a library.

    Raises:
        ModelError: it cannot.
    """
    try:
        properties: dict[str, int] = triton.runtime.driver.active.utils.get_device_properties(index)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise ModelError(
            f"Triton cannot build what it launches kernels with ({error}); it needs a C compiler and the "
            "headers of Python: gcc, libc6-dev and python3-dev on Debian and Ubuntu."
        ) from error
    return properties


class CudaDevice:
    """See `Device`.

    Args:
        index: which of the GPUs that the process sees; `require_cuda` has found it.

    Raises:
        ModelError: Triton does not work here.
    """

    def __init__(self, index: int = 0) -> None:
        self.torch_device = torch.device("cuda", index)
        found = torch.cuda.get_device_properties(index)
        # What torch tells depends on the CUDA version it was built with; Triton asks the driver.
        limits = _driver_properties(index)
        self.name: str = found.name
        self.total_bytes: int = found.total_memory
        self.processors: int = found.multi_processor_count
        self.capability = 10 * found.major + found.minor
        self.kernels_name = f"cuda-sm{found.major}{found.minor}"
        self.shared_memory_bytes: int = limits["max_shared_mem"]
        self._limits = limits
        self._stream = torch.cuda.Stream(self.torch_device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def pinned(self, integers: int) -> torch.Tensor:
        """See `Device.pinned`."""
        return torch.zeros(integers, dtype=torch.int32, pin_memory=True)

    def submit(self, work: Callable[[], None]) -> None:
        """See `Device.submit`."""
        with torch.cuda.device(self.torch_device), torch.cuda.stream(self._stream):
            work()

    def mark(self) -> Mark:
        """See `Device.mark`."""
        with torch.cuda.device(self.torch_device):
            return _CudaMark(self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Device.record`."""
        # Each thread has a handle of cuBLAS of its own, which cannot be made while recording.
        torch.cuda.current_blas_handle()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        replay: Callable[[], None] = graph.replay
        return replay

    def settle(self) -> None:
        """See `Device.settle`."""
        torch.cuda.synchronize(self.torch_device)

    def free_bytes(self) -> int:
        """See `Device.free_bytes`."""
        free: int = torch.cuda.mem_get_info(self.torch_device)[0]
        # What torch holds without using it is free to us, if not to others.
        held = torch.cuda.memory_reserved(self.torch_device)
        return free + held - torch.cuda.memory_allocated(self.torch_device)

    def hardware(self) -> Hardware:
        """See `Device.hardware`."""
        return hardware_of(
            self.name,
            memory_bytes=self.total_bytes,
            capability=divmod(self.capability, 10),
            multiprocessors=self.processors,
            clock_hz=1e3 * self._limits["sm_clock_rate"],
            memory_clock_hz=1e3 * self._limits["mem_clock_rate"],
            bus_width_bits=self._limits["mem_bus_width"],
        )

    def close(self) -> None:
        """See `Device.close`."""
        self._stream.synchronize()
        torch.cuda.empty_cache()
