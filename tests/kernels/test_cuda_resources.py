"""Kernels compile for real GPUs, spill nothing and fit; done in processes without the interpreter.

Run as a script, this file compiles kernels that ought to be refused and prints what was found.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from ridgeline.kernels.cuda import activation, linear, norm, resources, rotary
from ridgeline.kernels.cuda.plan import DevicePlan
from ridgeline.kernels.cuda.resources import (
    CAPABILITIES,
    FURTHER_CAPABILITIES,
    SHARED_BYTES,
    Resources,
    Row,
    Variant,
)

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "benchmarks" / "gpu_kernels.md"


@triton.jit
def row_kernel(x, y, BLOCK: tl.constexpr):
    """Holds a row in registers, however long."""
    columns = tl.arange(0, BLOCK)
    row = tl.load(x + columns)
    tl.store(y + columns, row * tl.sum(row, 0))


@triton.jit
def product_kernel(x, y, BLOCK: tl.constexpr):
    """Holds several square tiles in shared memory."""
    rows = tl.arange(0, BLOCK)
    tile = rows[:, None] * BLOCK + rows[None, :]
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for i in range(8):
        part = tl.load(x + i * BLOCK * BLOCK + tile)
        total += tl.dot(part, part)
    tl.store(y + tile, total)


def oversized() -> list[Variant]:
    """Two that are too large, one that is no kernel at all, and a good one."""
    rows = {"x": "*fp32", "y": "*fp32", "BLOCK": "constexpr"}
    products = {"x": "*bf16", "y": "*fp32", "BLOCK": "constexpr"}
    return [
        Variant("long row", row_kernel, rows, {"BLOCK": 65_536}, 4, 1),
        Variant("deep pipeline", product_kernel, products, {"BLOCK": 128}, 8, 9),
        Variant("odd row", row_kernel, rows, {"BLOCK": 100}, 4, 1),
        Variant("wrong names", row_kernel, {"x": "*fp32", "BLOCK": "constexpr"}, {"BLOCK": 64}, 4, 1),
        Variant("short row", row_kernel, rows, {"BLOCK": 1024}, 4, 1),
    ]


def accesses() -> dict[str, list[str]]:
    """The small core kernels' loads and stores of global memory for sm_90, in PTX."""
    return {
        variant.name: re.findall(r"\b((?:ld|st)\.global[\w.:]*)", resources.ptx(variant, 90))
        for module in (norm, activation, rotary)
        for variant in module.variants()
        if variant.core
    }


def outside(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run Python where kernels are compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, check=False
    )
    print(run.stderr)
    return run


@pytest.fixture(scope="module")
def script() -> Any:
    run = outside(__file__)
    assert run.returncode == 0
    return json.loads(run.stdout)


def check_all(*options: str) -> list[dict[str, Any]]:
    run = outside("-m", "ridgeline.kernels.cuda.resources", "--json", *options)
    result = json.loads(run.stdout)
    assert result["violations"] == []
    assert run.returncode == 0
    further = "--further" in options
    assert {(row["variant"], row["capability"]) for row in result["rows"]} == {
        (variant.name, capability)
        for variant in resources.wanted_variants(everything="--all" in options, further=further)
        if "--without" not in options or options[-1] not in variant.name
        for capability in (FURTHER_CAPABILITIES if further else CAPABILITIES)
        if capability in variant.capabilities
    }
    for row in result["rows"]:
        taken = row["resources"]
        assert 0 < taken["registers"] <= 255
        assert taken["spill_bytes"] == 0
        assert taken["shared_bytes"] <= SHARED_BYTES[row["capability"]]
    return result["rows"]


@pytest.mark.timeout(300)  # half a minute where Triton's cache is empty and no other work is going on
def test_kernels_of_common_models_fit() -> None:
    check_all()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # five minutes of one core
def test_kernels_of_all_models_fit() -> None:
    """In bfloat16, and what has no dtype: float16 takes what that does, and float32 is seldom served."""
    check_all("--all", "--without", "fp")


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute of one core
def test_kernels_fit_other_generations_of_gpus() -> None:
    rows = check_all("--further", "--without", "fp")
    assert {row["capability"] for row in rows} == set(FURTHER_CAPABILITIES)
    # What has the least shared memory gets shapes of its own.
    assert {row["capability"] for row in rows if "x128 tile=16x64x3" in row["variant"]} == {86, 89, 120}


def test_a_variant_is_for_the_gpus_whose_shared_memory_it_fits() -> None:
    shapes: dict[str, set[int]] = {}
    for variant in resources.all_variants():
        if (
            variant.name.startswith("attend tokens bf16 heads=32/8x128 tile=")
            and "window" not in variant.name
        ):
            shapes.setdefault(variant.name.rpartition("=")[2], set()).update(variant.capabilities)
    assert shapes == {"16x64x4": {80, 90, 100}, "16x64x3": {86, 89, 120}}


def test_kernels_that_do_not_fit_are_named(script: Any) -> None:
    found = script["violations"]
    for capability in CAPABILITIES:
        at = f"sm_{capability}: "
        assert any(v.startswith(f"long row, {at}spills ") for v in found)
        assert any(
            re.match(rf"deep pipeline, {at}[\d,]+ bytes of shared memory, the limit is {limit:,}\.", v)
            for v in found
            for limit in [SHARED_BYTES[capability]]
        )
        assert any(v.startswith(f"odd row, {at}CompilationError: ") for v in found)
        assert any(v.startswith(f"wrong names, {at}ValueError: ") for v in found)
    assert len(found) == 4 * len(CAPABILITIES)
    assert not any(v.startswith("short row") for v in found)


@pytest.mark.parametrize("kernel", ["rms_norm", "add_rms_norm", "silu_mul", "rotate_and_store"])
def test_what_streams_through_memory_does_so_16_bytes_at_a_time(script: Any, kernel: str) -> None:
    listed = {name: found for name, found in script["accesses"].items() if name.startswith(f"{kernel} ")}
    assert listed
    for name, found in listed.items():
        narrow = [access for access in found if not access.endswith(".v4.b32")]
        # A token's position, slot and block are single integers; what is stored in float8 is half as wide.
        wanted = ["ld.global.b32"] * 3 if kernel == "rotate_and_store" else []
        assert narrow == wanted + ["st.global.v2.b32"] * (2 if "kv=" in name else 0), name
        assert len(found) > len(narrow)


def test_every_kernel_is_checked() -> None:
    folder = Path(resources.__file__).parent
    launched = {
        f"{file.stem}.{name}"
        for file in folder.glob("*.py")
        for name in re.findall(r"^@triton\.jit.*\ndef (\w+_kernel)\(", file.read_text("utf-8"), re.MULTILINE)
    }
    checked = {
        f"{v.kernel.fn.__module__.rpartition('.')[2]}.{v.kernel.fn.__name__}"
        for v in resources.all_variants()
    }
    assert launched == checked
    core = {f"{v.kernel.fn.__name__}" for v in resources.all_variants() if v.core}
    assert {name.partition(".")[2] for name in launched} == core


def test_the_page_lists_what_is_checked() -> None:
    listed = re.findall(r"^\| ([^|]+) \| \d+ \|", PAGE.read_text("utf-8"), re.MULTILINE)
    wanted = [
        variant.name
        for variant in resources.wanted_variants()
        if set(variant.capabilities) & set(CAPABILITIES)
    ]
    assert listed == wanted, f"run `python -m ridgeline.kernels.cuda.resources > {PAGE.relative_to(ROOT)}`"


def test_violations_are_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fine, spilling = Resources(40, 1024, 0, 0.5), Resources(255, 1024, 8, 0.5)
    for taken, status in ((fine, 0), (spilling, 1)):
        rows = [Row("a kernel", 4, 1, 90, taken)]
        found = resources.violations_of(rows[0])
        monkeypatch.setattr(resources, "check", lambda *_, result=(rows, found): result)
        assert resources.main([]) == status
        printed = capsys.readouterr()
        assert f"| a kernel | 4 | 1 | {taken.registers} | 1,024 | {taken.spill_bytes} |" in printed.out
        assert printed.err == ("a kernel, sm_90: spills 8 bytes of registers per thread.\n" * status)


def test_kernels_of_the_interpreter_are_refused() -> None:
    variant = Variant("interpreted", print, {}, {}, 4, 1)
    with pytest.raises(RuntimeError, match="unset TRITON_INTERPRET"):
        resources.compile_variant(variant, 90)


class Recorder:
    """Takes the place of a kernel and notes its last launch."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **options: Any) -> None:
            self.arguments, self.options = arguments, options

        return launch


def launch_rotation(heads: int, kv_heads: int, head_dim: int) -> None:
    qkv = torch.zeros(2, (heads + 2 * kv_heads) * head_dim)
    pool = torch.zeros(4, 2, kv_heads, 16, head_dim)
    integers = torch.zeros(2, dtype=torch.int32)
    plan = DevicePlan(integers, integers, integers[:, None], works=())
    rotary.rotate_and_store(qkv, None, 1e-5, torch.zeros(8, head_dim), plan, pool, heads)


def launch_product(weight: torch.Tensor, *, gated: bool) -> None:
    linear.FewRows(weight, None, gated=gated)(weight.new_zeros(2, weight.shape[1]))


LAUNCHES: dict[str, tuple[ModuleType, str, Callable[[], object]]] = {
    "rms_norm fp32 hidden=576": (
        norm,
        "_rms_norm_kernel",
        lambda: norm.rms_norm(torch.zeros(2, 576), torch.zeros(576), 1e-5),
    ),
    "add_rms_norm fp32 hidden=16384": (
        norm,
        "_rms_norm_kernel",
        lambda: norm.add_rms_norm(torch.zeros(1, 16_384), torch.zeros(1, 16_384), torch.zeros(16_384), 1e-5),
    ),
    "silu_mul fp32 ffn=4864": (
        activation,
        "_silu_mul_kernel",
        lambda: activation.silu_mul(torch.zeros(3, 2 * 4864)),
    ),
    "product bf16 tile=16x32x256x6": (
        linear,
        "_few_rows_kernel",
        lambda: launch_product(torch.zeros(4096, 512, dtype=torch.bfloat16), gated=False),
    ),
    "product bf16 gated ragged tile=16x32x128x5": (
        linear,
        "_few_rows_kernel",
        lambda: launch_product(torch.zeros(64, 160, dtype=torch.bfloat16), gated=True),
    ),
    "rotate_and_store fp32 heads=9/3 head_dim=64": (
        rotary,
        "_rotate_and_store_kernel",
        lambda: launch_rotation(9, 3, 64),
    ),
    "rotate_and_store fp32 heads=32/8 head_dim=128": (
        rotary,
        "_rotate_and_store_kernel",
        lambda: launch_rotation(32, 8, 128),
    ),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_launches_are_those_that_are_checked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A launch at a model's size has the constants, warps and stages of the variant of that name."""
    module, kernel, launch = LAUNCHES[name]
    (variant,) = (found for found in module.variants() if found.name == name)
    recorder = Recorder()
    monkeypatch.setattr(module, kernel, recorder)
    launch()
    launched = dict(zip(variant.signature, recorder.arguments, strict=False)) | recorder.options
    assert {key: launched[key] for key in variant.constexprs} == variant.constexprs
    assert (launched["num_warps"], launched["num_stages"]) == (variant.num_warps, variant.num_stages)


if __name__ == "__main__":
    _, violations = resources.check(oversized())
    print(json.dumps({"violations": violations, "accesses": accesses()}))
