"""A GPU that cannot be used: which of the reasons it is, and what to do about it."""

import subprocess
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from ridgeline.engine.executors.cuda import device
from ridgeline.engine.executors.presence import cuda_fault, require_cuda
from ridgeline.models.errors import ModelError


def fault(index: int = 0, **changes: Any) -> str | None:
    found: dict[str, Any] = {
        "torch_version": "2.99.0",
        "built_with_cuda": True,
        "has_triton": True,
        "devices": 2,
        "capability": (9, 0),
    }
    return cuda_fault(index, **found | changes)


def test_a_gpu_that_can_be_used() -> None:
    assert fault() is None
    assert fault(1) is None
    assert fault(capability=(8, 0)) is None
    assert fault(capability=(12, 0)) is None


@pytest.mark.parametrize(
    ("index", "changes", "says"),
    [
        (
            0,
            {"built_with_cuda": False, "devices": 0, "capability": None},
            "torch 2.99.0 was built without CUDA",
        ),
        (
            1,
            {"built_with_cuda": False, "devices": 0, "capability": None},
            "--device cuda:1: torch 2.99.0 was",
        ),
        (
            0,
            {"devices": 0, "capability": None},
            "torch finds no NVIDIA GPU; see whether nvidia-smi lists one",
        ),
        (2, {"capability": None}, "--device cuda:2: there is no such GPU; torch finds cuda:0 to cuda:1"),
        (1, {"devices": 1, "capability": None}, "torch finds cuda:0 only"),
        (0, {"capability": (7, 5)}, "compute capability 7.5, and bfloat16 and the kernels need 8.0"),
        (0, {"has_triton": False}, "Triton is not installed"),
    ],
)
def test_each_reason_has_a_sentence(index: int, changes: dict[str, Any], says: str) -> None:
    said = fault(index, **changes)
    assert said is not None
    assert says in said
    assert said.startswith("--device cuda")
    assert said.endswith(".")


def test_this_machine() -> None:
    """No machine has a hundred GPUs; whatever this one is, the sentence is that of its own case."""
    with pytest.raises(ModelError) as refused:
        require_cuda(100)
    devices = torch.cuda.device_count()
    expected = fault(
        100,
        torch_version=torch.__version__,
        built_with_cuda=torch.version.cuda is not None,
        devices=devices,
        capability=None,
    )
    assert str(refused.value) == expected


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find C compiler."),
        subprocess.CalledProcessError(1, ["gcc", "cuda_utils.c"]),
        FileNotFoundError(2, "No such file or directory: 'cc'"),
    ],
)
def test_a_compiler_that_is_missing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.torch.cuda, "get_device_properties", lambda index: MagicMock())
    driver = MagicMock(**{"runtime.driver.active.utils.get_device_properties.side_effect": error})
    monkeypatch.setattr(device, "triton", driver)
    with pytest.raises(ModelError, match="needs a C compiler and the headers of Python"):
        device.CudaDevice(0)
