"""Tensors on their way from host memory to a device, through two buffers used in turn.

Copies out of memory that is not pinned are made by the driver in small pieces, and the caller
waits for each of them. Here one part is read from the file, and converted, while the one before it
is sent.
"""

from collections.abc import Callable
from typing import Protocol

import torch

BUFFER_BYTES = 32 << 20
"""Of each buffer: sending one takes longer than starting the copy, by far."""


class Lane(Protocol):
    """A buffer of host memory that a device reads at its own pace."""

    buffer: torch.Tensor
    """[bytes], uint8."""

    def wait(self) -> None:
        """Return once the device has read all that was sent, so that the buffer may be written."""
        ...

    def send(self, part: torch.Tensor, target: torch.Tensor) -> None:
        """Begin to copy a part of the buffer to the device."""
        ...


class DeviceLane:
    """A pinned buffer, and the event that follows the last copy out of it."""

    def __init__(self, buffer_bytes: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self.buffer = torch.empty(buffer_bytes, dtype=torch.uint8, pin_memory=pinned)
        self._device = device
        self._sent = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """See `Lane.wait`."""
        if self._sent is not None:
            self._sent.synchronize()

    def send(self, part: torch.Tensor, target: torch.Tensor) -> None:
        """See `Lane.send`."""
        target.copy_(part, non_blocking=True)
        if self._sent is not None:
            self._sent.record(torch.cuda.current_stream(self._device))


class Staging:
    """Copies to one device. The buffers are made when they are first needed.

    Args:
        device: where the targets lie.
        buffer_bytes: of each of the two buffers.
        lane: makes a buffer.
    """

    def __init__(
        self,
        device: torch.device,
        buffer_bytes: int = BUFFER_BYTES,
        lane: Callable[[int, torch.device], Lane] = DeviceLane,
    ) -> None:
        self._device = device
        self._buffer_bytes = buffer_bytes
        self._lane = lane
        self._lanes: list[Lane] = []

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy `source` to the contiguous `target` of the same shape, converting to its dtype.

        The target is whole for what the device does next; `finish` waits for it.
        """
        if source.device == target.device:
            target.copy_(source)
            return
        if not self._lanes:
            self._lanes = [self._lane(self._buffer_bytes, self._device) for _ in range(2)]
        whole_source, whole_target = source.reshape(-1), target.view(-1)
        size = self._buffer_bytes // target.element_size()
        for begin in range(0, whole_source.numel(), size):
            rest = whole_source[begin : begin + size]
            lane = self._lanes[0]
            self._lanes.reverse()
            lane.wait()
            part = lane.buffer.view(target.dtype)[: rest.numel()]
            part.copy_(rest)
            lane.send(part, whole_target[begin : begin + size])

    def finish(self) -> None:
        """Wait until everything has arrived, for any stream to use, and give the buffers up."""
        for lane in self._lanes:
            lane.wait()
        self._lanes = []
        if self._device.type == "cuda":  # what was made there is not in a lane
            torch.cuda.synchronize(self._device)
