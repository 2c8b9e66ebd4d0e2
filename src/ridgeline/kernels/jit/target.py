"""What the processor can do, as far as the kernels care."""

import ctypes
import functools
import os
import sys

from llvmlite import binding, ir
from numba.core import config

from ridgeline.kernels.jit.kept import keep_kernels

keep_kernels()

AVX512 = "avx512-vnni"
AVX_VNNI = "avx-vnni"
AVX2 = "avx2"

_NEEDS = {
    AVX512: {"avx512f", "avx512bw", "avx512vl", "avx512vnni", "f16c"},
    AVX_VNNI: {"avxvnni", "avx2", "fma", "f16c"},
    AVX2: {"avx2", "fma", "f16c"},
}
_NAMED = {
    "haswell": AVX2,
    "skylake": AVX2,
    "znver1": AVX2,
    "znver2": AVX2,
    "znver3": AVX2,
    "alderlake": AVX_VNNI,
    "icelake-server": AVX512,
    "znver4": AVX512,
}
"""Processors that `NUMBA_CPU_NAME` may ask for in place of the one that there is; none of them has tiles."""

if os.environ.get("NUMBA_CPU_NAME") and config.CPU_FEATURES is None:
    # Numba adds what this machine can do to what the named processor can.
    config.CPU_FEATURES = ""


@functools.cache
def instruction_set() -> str | None:
    """The best of the sets that there are kernels for; None where there is none."""
    named = config.CPU_NAME
    if named:
        return _NAMED.get(named)
    if sys.platform != "linux":  # threads wait for one another by its means
        return None
    try:
        found = {name for name, has in binding.get_host_cpu_features().items() if has}
    except RuntimeError:  # LLVM cannot tell on this kind of machine
        return None
    return next((name for name, needs in _NEEDS.items() if needs <= found), None)


_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""Of Linux on x86-64."""


@functools.cache
def has_tiles() -> bool:
    """Whether there are AMX tiles for bfloat16, and the system lets this process have them."""
    if config.CPU_NAME or instruction_set() != AVX512:
        return False
    found = binding.get_host_cpu_features()
    # Conversion to bfloat16 is apart from the tiles, but no processor has these without it.
    if not all(found.get(name) for name in ("amx-tile", "amx-bf16", "avx512bf16")):
        return False
    # Threads need more room to be saved in once they use tiles, so each process has to ask.
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0


@functools.cache
def takes_bytes(instruction: str, lanes: int) -> bool:
    """Whether an LLVM int8 product is declared over bytes; older releases have it over 32-bit lanes."""
    wide, narrow = ir.VectorType(ir.IntType(32), lanes), ir.VectorType(ir.IntType(8), 4 * lanes)
    module = ir.Module()
    ir.Function(module, ir.FunctionType(wide, [wide, narrow, narrow]), instruction)
    try:
        binding.parse_assembly(str(module)).verify()
    except RuntimeError:
        return False
    return True
