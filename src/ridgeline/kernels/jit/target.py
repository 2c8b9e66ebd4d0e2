"""What the processor can do, as far as the kernels care."""

import functools
import os

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
}
"""Processors that `NUMBA_CPU_NAME` may ask for in place of the one that there is."""

if os.environ.get("NUMBA_CPU_NAME") and config.CPU_FEATURES is None:
    # Numba adds what this machine can do to what the named processor can.
    config.CPU_FEATURES = ""


@functools.cache
def instruction_set() -> str | None:
    """The best of the sets that there are kernels for; None where there is none."""
    named = config.CPU_NAME
    if named:
        return _NAMED.get(named)
    try:
        found = {name for name, has in binding.get_host_cpu_features().items() if has}
    except RuntimeError:  # LLVM cannot tell on this kind of machine
        return None
    return next((name for name, needs in _NEEDS.items() if needs <= found), None)


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
