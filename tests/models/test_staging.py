"""Copies through two buffers: whole, converted, and never over what the device still reads."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.models.staging import DeviceLane, Staging

META = torch.device("meta")
"""Stands for a device: nothing in host memory is equal to it."""


class LateLane:
    """A device that reads a buffer at the last moment it may: when it is waited for."""

    made = 0

    def __init__(self, buffer_bytes: int, device: torch.device) -> None:
        del device
        self.buffer = torch.empty(buffer_bytes, dtype=torch.uint8)
        self.sent: list[tuple[torch.Tensor, torch.Tensor]] = []
        LateLane.made += 1

    def wait(self) -> None:
        for part, target in self.sent:
            target.copy_(part)
        self.sent.clear()

    def send(self, part: torch.Tensor, target: torch.Tensor) -> None:
        assert len(self.sent) == 0, "written before the device had read it"
        self.sent.append((part, target))


class FarTensor(torch.Tensor):
    """A host tensor that says it is on a device."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return META


@given(
    shape=st.sampled_from([(0, 3), (1,), (7,), (8,), (16,), (5, 13), (33, 4), (2, 3, 5)]),
    buffer_bytes=st.sampled_from([8, 32, 64, 4096]),
    source_dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    target_dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_every_element_arrives_once_converted(
    shape: tuple[int, ...], buffer_bytes: int, source_dtype: torch.dtype, target_dtype: torch.dtype
) -> None:
    sources = [torch.randn(shape).to(source_dtype) for _ in range(3)]
    targets = [torch.full(shape, torch.nan, dtype=target_dtype) for _ in range(3)]
    staging = Staging(META, buffer_bytes, LateLane)
    for source, target in zip(sources, targets, strict=True):
        staging.copy(source, target.as_subclass(FarTensor))
    staging.finish()
    for source, target in zip(sources, targets, strict=True):
        assert torch.equal(target, source.to(target_dtype))


def test_a_part_is_read_while_the_one_before_it_is_sent() -> None:
    """With both buffers sent, two parts are on their way and only the third waits."""
    target = torch.full((32,), torch.nan)
    staging = Staging(META, 32, LateLane)
    staging.copy(torch.arange(32.0), target.as_subclass(FarTensor))
    assert torch.equal(target[:16], torch.arange(16.0))
    assert target[16:].isnan().all()
    staging.finish()
    assert torch.equal(target, torch.arange(32.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_there_already_needs_no_buffer(dtype: torch.dtype) -> None:
    before, source, target = LateLane.made, torch.randn(10), torch.empty(10, dtype=dtype)
    Staging(torch.device("cpu"), 8, LateLane).copy(source, target)
    assert torch.equal(target, source.to(dtype))
    assert LateLane.made == before


@pytest.mark.needs_gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_device_gets_what_was_read(dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    source, target = torch.randn(1001, 37), torch.empty(1001, 37, dtype=dtype, device=device)
    staging = Staging(device, 4096, DeviceLane)
    staging.copy(source, target)
    staging.finish()
    assert torch.equal(target.cpu(), source.to(dtype))
