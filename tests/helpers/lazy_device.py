"""A device of host memory that carries work out as late as it may.

What a real device may do at any time before a mark is waited for, this one does at that moment and
not before: whoever changes memory that submitted work still reads, or reads what it has not written
yet, gets wrong numbers every time instead of seldom. Memory is filled with what must not be read.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ridgeline.engine.executors.cuda.device import Mark
from ridgeline.roofline import Hardware, find_hardware

GARBAGE = 0x7FC00000
"""As float32 a nan, as an index far outside of everything."""


@dataclass
class LazyMark:
    device: "LazyDevice"
    place: int

    def wait(self) -> None:
        self.device.run_until(self.place)

    def seconds_since(self, earlier: Mark) -> float:
        assert isinstance(earlier, LazyMark)
        assert self.place <= self.device.done, "a mark is read that has not been reached"
        return float(self.place - earlier.place)


@dataclass
class LazyDevice:
    """One second passes per submitted piece of work."""

    torch_device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    capability: int = 90
    kernels_name: str = "lazy"
    total_bytes: int = 1 << 30
    free: int = 1 << 30
    processors: int = 4
    shared_memory_bytes: int = 227 * 1024
    queue: list[Callable[[], None]] = field(default_factory=list)
    done: int = 0
    recordings: int = 0
    replays: int = 0
    closed: bool = False
    fails: Exception | None = None
    """What work ends with when it is carried out."""
    full: bool = False
    """No memory is left for recordings."""
    refuses: Exception | None = None
    """What the next submission ends with: part of its work is in the stream by then."""

    def pinned(self, integers: int) -> torch.Tensor:
        return torch.full((integers,), GARBAGE, dtype=torch.int32)

    def submit(self, work: Callable[[], None]) -> None:
        self.queue.append(work)
        if self.refuses is not None:
            error, self.refuses = self.refuses, None
            raise error

    def mark(self) -> LazyMark:
        return LazyMark(self, len(self.queue))

    def run_until(self, place: int) -> None:
        while self.done < place:
            if self.fails is not None:
                raise self.fails
            work, self.done = self.queue[self.done], self.done + 1
            work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory")

        def replay() -> None:
            self.replays += 1
            work()

        return replay

    def settle(self) -> None:
        assert self.done == len(self.queue)

    def free_bytes(self) -> int:
        return self.free

    def hardware(self) -> Hardware:
        return find_hardware("h100")

    def close(self) -> None:
        self.run_until(len(self.queue))
        self.closed = True
