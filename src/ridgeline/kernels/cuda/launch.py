"""Launches of Triton kernels: what Triton works out anew at every launch is kept here.

A forward pass launches hundreds of kernels. What `kernel[grid](...)` does for each, binding names and
hashing options, takes the host longer than small kernels take the GPU.

From Hopper on, a kernel is also launched before the one ahead of it has ended (programmatic dependent
launch). What it reads of the weights and of the step's plan is on its way by the time it may go on.

    kernel n      | let next | plan, weights | wait | read, compute, write ... |
    kernel n + 1               | let next | plan, weights | wait .............. | read, compute, write
"""

from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

OVERLAP = "OVERLAP"
"""The last constant of every kernel that may be launched before the one ahead of it has ended."""

OVERLAP_CAPABILITY = 90
"""Compute capability from which on GPUs can do so."""

FLOAT8 = torch.float8_e4m3fn
"""What K and V may be stored in, beside the dtype that is computed in."""

FLOAT8_CAPABILITY = 89
"""Compute capability from which on GPUs convert it."""


@triton.jit
def let_next_start(OVERLAP: tl.constexpr):
    """The next kernel may start once every program has called this: it finds room as programs end."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait_for_earlier(OVERLAP: tl.constexpr):
    """Until all kernels ahead have ended and what they wrote can be read.

    Every program calls this, even one that has nothing to do: else its kernel might end, and the next
    one go on, while the one ahead is still writing. Before it, programs write nothing, and read only
    weights and the step's plan, which stand when the first layer begins.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_wait()


@triton.jit
def fetch_lines(cells):
    """Ask for the lines of memory that hold these cells, 128 bytes each, without waiting for them."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [cells], dtype=tl.int32, is_pure=False, pack=1
    )


class Launch:
    """How a kernel is launched. To be kept, as it remembers what was compiled.

    Args:
        constants: of the kernel, but for `OVERLAP`.
        num_warps: of a program.
        num_stages: of the pipelines of its loops.
    """

    def __init__(self, constants: dict[str, Any], num_warps: int, num_stages: int) -> None:
        self.constants, self.num_warps, self.num_stages = constants, num_warps, num_stages
        self._compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}

    def __call__(self, kernel: Any, grid: tuple[int, ...], *arguments: Any) -> None:
        """Launch the kernel that this is for; the first argument is a tensor."""
        if not isinstance(kernel, JITFunction):  # Triton's interpreter
            kernel[grid](*arguments, **self.constants, num_warps=self.num_warps, num_stages=self.num_stages)
            return
        key = (arguments[0].get_device(), *map(_kind, arguments))
        found = self._compiled.get(key)
        if found is None:
            self._launch_anew(kernel, grid, arguments, key)
            return
        compiled, constants = found
        compiled[(*grid, 1, 1)[:3]](*arguments, *constants)

    def _launch_anew(
        self, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], key: tuple[Any, ...]
    ) -> None:
        """The long way, which also compiles."""
        constants, options = self.constants, {}
        if kernel.arg_names[-1] == OVERLAP and _can_overlap():
            constants, options = constants | {OVERLAP: True}, {"launch_pdl": True}
        compiled = kernel[grid](
            *arguments, **constants, num_warps=self.num_warps, num_stages=self.num_stages, **options
        )
        if compiled is not None:  # as where a hook of Triton's keeps it from compiling
            names = kernel.arg_names[len(arguments) :]
            self._compiled[key] = compiled, tuple(constants.get(name, False) for name in names)


def _can_overlap() -> bool:
    """Whether the GPU can launch a kernel before the one ahead of it has ended."""
    target = triton.runtime.driver.active.get_current_target()
    return target.backend == "cuda" and int(target.arch) >= OVERLAP_CAPABILITY


def _kind(argument: Any) -> Any:
    """What Triton compiles differently for."""
    if isinstance(argument, torch.Tensor):
        return argument.dtype if argument.data_ptr() % 16 == 0 else (argument.dtype,)
    if isinstance(argument, int):
        return argument == 1, argument % 16 == 0, argument.bit_length() > 31
    return type(argument)
