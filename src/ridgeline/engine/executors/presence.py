"""Whether there is a GPU that can be computed on, and if not, why not."""

import importlib.util

import torch

from ridgeline.models.errors import ModelError

OLDEST_CAPABILITY = (8, 0)
"""The first with bfloat16 in tensor cores."""


def require_cuda(index: int) -> None:
    """Raise ModelError unless the GPU of this index can be used."""
    built = torch.version.cuda is not None
    count = torch.cuda.device_count() if built else 0
    capability = torch.cuda.get_device_capability(index) if index < count else None
    fault = cuda_fault(
        index,
        torch_version=torch.__version__,
        built_with_cuda=built,
        has_triton=importlib.util.find_spec("triton") is not None,
        devices=count,
        capability=capability,
    )
    if fault is not None:
        raise ModelError(fault)


def cuda_fault(
    index: int,
    *,
    torch_version: str,
    built_with_cuda: bool,
    has_triton: bool,
    devices: int,
    capability: tuple[int, int] | None,
) -> str | None:
    """Why the GPU cannot be used, and what to do, in a sentence; None if it can.

    Args:
        index: which GPU was asked for.
        torch_version: as torch tells it.
        built_with_cuda: whether torch was.
        has_triton: whether Triton is installed.
        devices: GPUs that torch finds.
        capability: compute capability of the one asked for; None if there is none.
    """
    asked = f"--device cuda:{index}" if index else "--device cuda"
    if not built_with_cuda:
        return (
            f"{asked}: torch {torch_version} was built without CUDA; install a build of torch for CUDA "
            "(docs/guides/gpu.md), or serve with --device cpu."
        )
    if devices == 0:
        return (
            f"{asked}: torch finds no NVIDIA GPU; see whether nvidia-smi lists one, whether its driver is "
            "new enough for this torch, and what CUDA_VISIBLE_DEVICES says, or serve with --device cpu."
        )
    if index >= devices:
        last = f"cuda:0 to cuda:{devices - 1}" if devices > 1 else "cuda:0 only"
        return f"{asked}: there is no such GPU; torch finds {last}."
    if capability is not None and capability < OLDEST_CAPABILITY:
        return (
            f"{asked}: the GPU has compute capability {capability[0]}.{capability[1]}, and bfloat16 and the "
            f"kernels need {OLDEST_CAPABILITY[0]}.{OLDEST_CAPABILITY[1]} (Ampere) or newer; serve with "
            "--device cpu."
        )
    if not has_triton:
        return f"{asked}: Triton is not installed; install it, or a build of torch for CUDA, which brings it."
    return None
