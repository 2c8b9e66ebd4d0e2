"""RMS norms: a program holds a whole row in registers, so every element is read and written once."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from ridgeline.kernels.cuda.launch import Launch, let_next_start, wait_for_earlier
from ridgeline.kernels.cuda.resources import MODEL_SHAPES, TRITON_DTYPES, Variant

MAX_HIDDEN = 16_384
"""Longest row: at 512 threads, 32 elements of it in each thread's registers."""

_ELEMENTS_PER_THREAD = 16
"""Of a row, unless it is very long: two loads of 16 bytes in flight, where elements have 2 bytes."""


@triton.jit
def _rms_norm_kernel(
    x, residual, weight, normed, eps,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * HIDDEN
    columns = tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    wait_for_earlier(OVERLAP)
    # Not before: the products after a norm would settle unevenly beside those that still compute.
    let_next_start(OVERLAP)
    wide = tl.load(x + row + columns, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        wide += tl.load(residual + row + columns, mask=inside, other=0.0).to(tl.float32)
        total = wide.to(residual.dtype.element_ty)
        tl.store(residual + row + columns, total, mask=inside)
        # The norm is of what later layers will read, not of the unrounded sum.
        wide = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / HIDDEN + eps)
    tl.store(normed + row + columns, (wide * scale * gain).to(normed.dtype.element_ty), mask=inside)


@functools.cache
def _launch_of(hidden: int) -> Launch:
    block = triton.next_power_of_2(hidden)
    warps = min(max(block // (32 * _ELEMENTS_PER_THREAD), 1), 16)
    return Launch({"HIDDEN": hidden, "BLOCK": block}, warps, 1)


def _launch(x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
    hidden = x.shape[-1]
    if hidden > MAX_HIDDEN:
        raise ValueError(f"A norm is over {hidden} elements; the kernel takes up to {MAX_HIDDEN}.")
    if not (x.is_contiguous() and (residual is None or residual.is_contiguous())):
        raise ValueError("A norm was asked for of a tensor that is not contiguous.")
    normed = x.new_empty(x.shape)
    _launch_of(hidden)(_rms_norm_kernel, (x.numel() // hidden,), x, residual, weight, normed, eps)
    return normed


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See `Kernels.rms_norm`: `x` is [..., hidden], contiguous, `weight` [hidden].

    Raises:
        ValueError: rows are longer than `MAX_HIDDEN`, or not contiguous.
    """
    return _launch(x, None, weight, eps)


def add_rms_norm(residual: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See `Kernels.add_rms_norm`; the sum is rounded to the dtype of `residual` before the norm.

    Raises:
        ValueError: as `rms_norm`.
    """
    return _launch(x, residual, weight, eps)


def variants() -> Iterator[Variant]:
    """Every way in which the models' norms are launched."""
    core = {shape.hidden for shape in MODEL_SHAPES if shape.core}
    sizes = sorted({shape.hidden for shape in MODEL_SHAPES})
    for kind, hidden, added in itertools.product(TRITON_DTYPES.values(), sizes, (False, True)):
        launch = _launch_of(hidden)
        pointer = f"*{kind}"
        signature = {
            "x": pointer,
            "residual": pointer if added else "constexpr",
            "weight": pointer,
            "normed": pointer,
            "eps": "fp32",
            **dict.fromkeys(launch.constants, "constexpr"),
        }
        name = f"{'add_' if added else ''}rms_norm {kind} hidden={hidden}"
        absent: dict[str, Any] = {} if added else {"residual": None}
        yield Variant(
            name,
            _rms_norm_kernel,
            signature,
            launch.constants | absent,
            launch.num_warps,
            launch.num_stages,
            kind == "bf16" and hidden in core,
        )
