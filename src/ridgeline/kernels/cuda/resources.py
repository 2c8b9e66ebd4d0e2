"""What the Triton kernels need of a GPU, found out by compiling them ahead of time, without a GPU.

    python -m ridgeline.kernels.cuda.resources            # the models most used, as a page
    python -m ridgeline.kernels.cuda.resources --all      # every model shape and dtype
    python -m ridgeline.kernels.cuda.resources --further  # for the other generations of GPUs
    python -m ridgeline.kernels.cuda.resources --json

A kernel that spills registers or wants more shared memory than a block may have is a violation;
they are named on standard error and the exit status is 1.
"""

import argparse
import importlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from ridgeline.kernels.cuda.launch import FLOAT8, FLOAT8_CAPABILITY, OVERLAP, OVERLAP_CAPABILITY

MODULES = ("norm", "activation", "linear", "rotary", "attention", "sampling")
"""Modules beside this one that launch kernels; each yields its launches by `variants()`."""

CAPABILITIES = (80, 90)
"""Compiled for by default: A100, and H100 and H200."""

FURTHER_CAPABILITIES = (86, 89, 100, 120)
"""Compiled for on demand: the small Ampere, Ada, B200, and the small Blackwell."""

_KIB = 1024
SHARED_BYTES = {80: 163 * _KIB, 86: 99 * _KIB, 89: 99 * _KIB, 90: 227 * _KIB, 100: 227 * _KIB, 120: 99 * _KIB}
"""Most shared memory that a block may have, by compute capability (CUDA C++ Programming Guide,
"Technical Specifications per Compute Capability")."""

REGISTERS = 255
"""Most registers that a thread may have."""

_COMPILATIONS_AT_ONCE = 2
"""Triton lets go of Python's lock while it compiles."""

TRITON_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
"""Names of element types in signatures; `"*" + name` is a pointer to them."""

FLOAT8_CAPABILITIES = tuple(c for c in CAPABILITIES + FURTHER_CAPABILITIES if c >= FLOAT8_CAPABILITY)


def kv_kind(dtype: torch.dtype) -> str:
    """The name of a KV cache's element type in signatures."""
    return (TRITON_DTYPES | {FLOAT8: "fp8e4nv"})[dtype]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a model that kernels are compiled for; `core` ones also in the short check."""

    name: str
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    qk_norm: bool = False
    core: bool = False


MODEL_SHAPES = (
    ModelShape("SmolLM2-135M", 576, 1536, 9, 3, 64, 49_152),
    ModelShape("Qwen2.5-0.5B", 896, 4_864, 14, 2, 64, 151_936),
    ModelShape("Qwen3-0.6B", 1_024, 3_072, 16, 8, 128, 151_936, qk_norm=True),
    ModelShape("Llama-3.2-1B", 2_048, 8_192, 32, 8, 64, 128_256, core=True),
    ModelShape("heads of 96", 3_072, 8_192, 32, 32, 96, 32_064),
    ModelShape("heads of 256", 3_072, 24_576, 16, 16, 256, 256_000),
    ModelShape("Llama-3.1-8B", 4_096, 14_336, 32, 8, 128, 128_256, core=True),
    ModelShape("Qwen3-14B", 5_120, 17_408, 40, 8, 128, 151_936, qk_norm=True),
    ModelShape("Llama-3.1-70B", 8_192, 28_672, 64, 8, 128, 128_256),
    ModelShape("Llama-3.1-405B", 16_384, 53_248, 128, 8, 128, 128_256),
)
"""One model of each size that matters to a kernel. Variants are made from these alone."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which a launcher launches a kernel.

    Attributes:
        name: unique, such as "rms_norm bf16 hidden=4096".
        kernel: what `triton.jit` made.
        signature: argument names to Triton's types: "*bf16", "i32", "fp32", "constexpr". Pointers
            are taken to be aligned to 16 bytes; an integer that is always a multiple of 16, as most
            strides are, is "i32:16" or "i64:16".
        constexprs: values of the constexpr arguments.
        num_warps: of a block.
        num_stages: of the pipelines of its loops.
        core: whether the short check compiles it too.
        capabilities: where it is launched; elsewhere the launcher chooses another.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
    core: bool = False
    capabilities: tuple[int, ...] = CAPABILITIES + FURTHER_CAPABILITIES


@dataclass(frozen=True, slots=True)
class Resources:
    """What a compiled kernel takes.

    Attributes:
        registers: of a thread.
        shared_bytes: of a block.
        spill_bytes: local memory of a thread. Kernels here have no arrays of their own, so these are
            registers spilled to memory.
        seconds: to compile; next to none where Triton's cache had it.
    """

    registers: int
    shared_bytes: int
    spill_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """A variant compiled for one compute capability; `resources` is None if that failed."""

    variant: str
    num_warps: int
    num_stages: int
    capability: int
    resources: Resources | None


def _compile(variant: Variant, capability: int) -> Any:
    """Triton's compiled kernel, its texts in `asm`; needs neither a GPU nor a driver.

    Raises:
        RuntimeError: the kernel was defined for Triton's interpreter.
        ValueError: the signature is not that of the kernel.
    """
    if not isinstance(variant.kernel, JITFunction):
        raise RuntimeError(f"{variant.name} is no compilable kernel: unset TRITON_INTERPRET and start anew.")
    names, signature, constants = variant.kernel.arg_names, variant.signature, variant.constexprs
    if names[-1] == OVERLAP:
        signature = signature | {OVERLAP: "constexpr"}
        constants = constants | {OVERLAP: capability >= OVERLAP_CAPABILITY}
    if list(signature) != names:
        raise ValueError(f"{variant.name} has arguments {list(signature)}, the kernel {names}.")
    types = {name: kind.removesuffix(":16") for name, kind in signature.items()}
    aligned = [kind.startswith("*") or kind.endswith(":16") for kind in signature.values()]
    attributes = {(i,): [["tt.divisibility", 16]] for i in range(len(aligned)) if aligned[i]}
    return triton.compile(
        ASTSource(variant.kernel, signature=types, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", capability, 32),
        options={
            "num_warps": variant.num_warps,
            "num_stages": variant.num_stages,
            "enable_fp_fusion": True,  # as at launches; Triton 3.9 warns where it is left out
        },
    )


def ptx(variant: Variant, capability: int) -> str:
    """The kernel in NVIDIA's assembly language, for reading."""
    return str(_compile(variant, capability).asm["ptx"])


def compile_variant(variant: Variant, capability: int) -> Resources:
    """Compile one kernel for a compute capability, such as 90, and ask what it takes.

    Raises:
        RuntimeError: the process runs kernels in Triton's interpreter, or the report of NVIDIA's
            cuobjdump was not understood. Triton's own errors pass through.
    """
    begin = time.perf_counter()
    compiled = _compile(variant, capability)
    seconds = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report)
    if found is None:
        raise RuntimeError(f"cuobjdump says of {variant.name}: {report!r}")
    registers, stack, local = map(int, found.groups())
    return Resources(registers, int(compiled.metadata.shared), stack + local, seconds)


def violations_of(row: Row) -> list[str]:
    """Sentences that say what a compiled kernel takes too much of."""
    taken = row.resources
    if taken is None:
        return []
    where, limit = f"{row.variant}, sm_{row.capability}", SHARED_BYTES[row.capability]
    found = []
    if taken.spill_bytes:
        found.append(f"{where}: spills {taken.spill_bytes:,} bytes of registers per thread.")
    if taken.registers > REGISTERS:
        found.append(f"{where}: {taken.registers} registers per thread, the limit is {REGISTERS}.")
    if taken.shared_bytes > limit:
        found.append(f"{where}: {taken.shared_bytes:,} bytes of shared memory, the limit is {limit:,}.")
    return found


def check(
    variants: Iterable[Variant], capabilities: Sequence[int] = CAPABILITIES
) -> tuple[list[Row], list[str]]:
    """Compile each variant for each capability that it is for: all rows, and the violations as sentences.

    A kernel that does not compile is a violation too.
    """
    wanted = [(v, c) for v in variants for c in capabilities if c in v.capabilities]
    with ThreadPoolExecutor(_COMPILATIONS_AT_ONCE) as pool:
        results = list(pool.map(lambda each: _checked(*each), wanted))
    return [row for row, _ in results], [text for _, found in results for text in found]


def _checked(variant: Variant, capability: int) -> tuple[Row, list[str]]:
    try:
        resources = compile_variant(variant, capability)
        found = []
    except Exception as error:  # whatever Triton's compiler or ptxas raises
        resources = None
        found = [f"{variant.name}, sm_{capability}: {type(error).__name__}: {error}"]
    row = Row(variant.name, variant.num_warps, variant.num_stages, capability, resources)
    return row, found + violations_of(row)


def wanted_variants(*, everything: bool = False, further: bool = False) -> Iterator[Variant]:
    """What is compiled: the core models' variants, or all.

    For the further capabilities, those of shared memory that no other capability has are added.
    """
    for variant in all_variants():
        only_there = set(variant.capabilities) <= set(FURTHER_CAPABILITIES)
        if variant.core or everything or (further and only_there):
            yield variant


def all_variants() -> Iterator[Variant]:
    """The variants of all `MODULES`.

    Raises:
        ValueError: two variants have the same name.
    """
    names = set()
    for module in MODULES:
        for variant in importlib.import_module(f"ridgeline.kernels.cuda.{module}").variants():
            if variant.name in names:
                raise ValueError(f"Two variants are named {variant.name!r}.")
            names.add(variant.name)
            yield variant


def markdown(rows: Sequence[Row]) -> str:
    """A page with one line per variant."""
    capabilities = sorted({row.capability for row in rows})
    head = ["kernel", "warps", "stages"]
    for capability in capabilities:
        head += [f"sm_{capability}: registers", "shared bytes", "spilled bytes"]
    lines = [
        "# What the GPU kernels take",
        "",
        f"Compiled ahead of time by Triton {triton.__version__}, without a GPU: registers per thread, shared",
        "memory per block and bytes of registers spilled per thread. There are no times here. Made by",
        "`python -m ridgeline.kernels.cuda.resources`; other versions of Triton give other numbers.",
        "",
        f"Limits: {REGISTERS} registers per thread, no spills, and of shared memory per block",
        " and ".join(f"{SHARED_BYTES[c]:,} bytes (sm_{c})" for c in capabilities) + ".",
        "With `--further` the same is checked for the other generations, "
        + ", ".join(f"sm_{c}" for c in FURTHER_CAPABILITIES)
        + ".",
        "",
        f"| {' | '.join(head)} |",
        f"| --- {'| ---: ' * (len(head) - 1)}|",
    ]
    for (name, warps, stages), group in itertools.groupby(
        rows, lambda row: (row.variant, row.num_warps, row.num_stages)
    ):
        taken = {row.capability: row.resources for row in group}
        cells: list[str | int] = [name, warps, stages]
        for found in map(taken.get, capabilities):
            cells += [found.registers, found.shared_bytes, found.spill_bytes] if found else ["-"] * 3
        texts = (cell if isinstance(cell, str) else f"{cell:,}" for cell in cells)
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print and return the exit status: 1 if there are violations."""
    parser = argparse.ArgumentParser(prog="python -m ridgeline.kernels.cuda.resources")
    parser.add_argument("--all", action="store_true", help="every model shape and dtype, for minutes")
    further = ", ".join(f"sm_{capability}" for capability in FURTHER_CAPABILITIES)
    parser.add_argument("--further", action="store_true", help=f"for {further} instead")
    parser.add_argument("--without", metavar="DTYPE", help="leave out variants with it in their names")
    parser.add_argument("--json", action="store_true", help="rows and violations as JSON")
    options = parser.parse_args(arguments)
    capabilities = FURTHER_CAPABILITIES if options.further else CAPABILITIES
    wanted = wanted_variants(everything=options.all, further=options.further)
    if options.without:
        wanted = (variant for variant in wanted if options.without not in variant.name)
    rows, violations = check(wanted, capabilities)
    if options.json:
        result = {
            "triton": triton.__version__,
            "rows": [asdict(row) for row in rows],
            "violations": violations,
        }
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
    else:
        sys.stdout.write(markdown(rows))
    sys.stderr.writelines(f"{violation}\n" for violation in violations)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
