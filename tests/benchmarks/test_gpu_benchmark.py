"""The GPU benchmark goes all its ways on a CPU: what it says on a GPU is then what it measured there."""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_launchers import plain_launchers

from ridgeline.kernels.cuda import kernels as launches

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu" / "run.py"
sys.path.append(str(ROOT / "benchmarks"))

from gpu import draw_checks  # noqa: E402
from gpu.answers import check_answers  # noqa: E402
from gpu.bench import Bench, Record  # noqa: E402
from gpu.compare import put_check  # noqa: E402
from gpu.correctness import check_model, rounded_model  # noqa: E402
from gpu.floors import floors  # noqa: E402
from gpu.goals import verdicts  # noqa: E402
from gpu.kernel_checks import check_kernels  # noqa: E402
from gpu.parts import MARK, Outcome, Part, Stage, run_here, run_stage, stages  # noqa: E402
from gpu.places import HostDevice, HostPlace  # noqa: E402
from gpu.report import tables_of  # noqa: E402
from gpu.run import tell  # noqa: E402
from gpu.scale import FULL, SMOKE  # noqa: E402

TABLES = "correctness ceilings roofs decode prefill load ratio kernels goals".split()

ABSENT = (
    "fastapi pydantic pydantic_settings sqlalchemy alembic orjson aiohttp aiosqlite uvicorn httptools typer "
    "rich platformdirs gguf"
)

HIDES = f"""
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {ABSENT.split()!r}
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""


def run_script(*arguments: str, hidden: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Without GPU; `hidden` is a folder for what makes libraries of the server look absent."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    if hidden is not None:
        (hidden / "sitecustomize.py").write_text(HIDES, encoding="utf-8")
        environment["PYTHONPATH"] = str(hidden)
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def result_of(run: "subprocess.CompletedProcess[str]") -> Any:
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def check_result(result: Any) -> None:
    assert result["faults"] == []
    tables = result["tables"]
    assert set(TABLES) <= set(tables)
    assert all(tables[name] for name in TABLES) and "cut" not in tables
    compared = {(row["model"], row["dtype"]) for row in tables["correctness"]}
    assert {model for model, _ in compared} == {*FULL.compared, "kernels"}
    assert {dtype for _, dtype in compared} == {"float32", "bfloat16", "float16"}
    decodes = [(row["batch"], row["asked_context"], row["graphs"]) for row in tables["decode"]]
    assert len(decodes) == 2 * (len(SMOKE.batches) * len(SMOKE.contexts) + 1)
    assert all(row["steps"] == SMOKE.steps for row in tables["decode"])
    # What does not fit into the KV cache is lowered, and said.
    assert {row["context"] for row in tables["decode"] if row["asked_context"] == 200} == {200, 86}
    ours, theirs = (
        next(row for row in tables["load"] if row["engine"].startswith(name) and row["round"] == "measured")
        for name in ("Ridgeline", "transformers")
    )
    assert ours["output_tokens"] == theirs["output_tokens"] > 0
    assert ours["cached_tokens"] == 4 * 32 and ours["most_running"] == 5
    assert tables["ratio"][0]["same_first_token"] > 0.5
    assert {goal["met"] for goal in tables["goals"] if goal["rows"]} <= {True, False}


def test_all_of_it_runs_with_what_a_plain_image_has(tmp_path: Path) -> None:
    arguments = ("--smoke", "plain", "--in-process", "--seed", "3", "--out", str(tmp_path / "out"))
    run = run_script(*arguments, hidden=tmp_path)
    result = result_of(run)
    check_result(result)
    assert json.loads((tmp_path / "out" / "gpu.json").read_text()) == result
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert text.rstrip() in run.stdout and "these times mean nothing" in text


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_kernels_are_found_right_in_processes_of_their_own() -> None:
    result = result_of(
        run_script("--smoke", "kernels", "--unhurried", "--only", "correctness", "--seed", "3")
    )
    assert result["faults"] == []
    rows = result["tables"]["correctness"]
    assert {row["model"] for row in rows} == {*FULL.compared, "kernels"}
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16", "float16"}
    assert any(row["check"] == "draws from nan" for row in rows)


def test_without_a_gpu_it_says_so() -> None:
    run = run_script()
    assert run.returncode == 2
    assert run.stderr == "This benchmark needs an NVIDIA GPU and a torch built for CUDA.\n"


def test_stages_end_in_time_and_run_nothing_that_is_timed_side_by_side() -> None:
    assert sum(stage.seconds for stage in stages()) < 470
    assert [stage.title for stage in stages() if len(stage.parts) > 1] == ["correctness"]
    assert stages()[0].title == "correctness"


FAKE = f"""
import sys, time
name = sys.argv[sys.argv.index("--part") + 1]
print("chatter of a library")
print('{MARK}["table", {{"part": "' + name + '"}}]', flush=True)
if name == "crashes":
    raise RuntimeError("an illegal memory access was encountered\\nFor debugging consider this.")
if name == "hangs":
    time.sleep(600)
"""


def test_a_part_that_fails_or_hangs_takes_nothing_with_it(tmp_path: Path) -> None:
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    stage = Stage("fakes", 0, tuple(Part(name, "") for name in ("crashes", "works")))
    crashed, worked = run_stage(stage, [sys.executable, str(script)], 60)
    assert crashed.fault is not None and crashed.fault.endswith(
        "status 1: RuntimeError: an illegal memory access was encountered"
    )
    assert crashed.rows == [("table", {"part": "crashes"})]
    assert worked.fault is None and worked.rows == [("table", {"part": "works"})]
    (hung,) = run_stage(Stage("fakes", 0, (Part("hangs", ""),)), [sys.executable, str(script)], 1)
    assert hung.fault == "killed after 1 s"


def test_a_part_without_time_says_what_it_left_out() -> None:
    for part in (part for stage in stages() for part in stage.parts):
        rows: list[tuple[str, Record]] = []
        run_here(
            part, "plain", 1, time.monotonic() - 1, lambda table, row, rows=rows: rows.append((table, row))
        )
        assert {table for table, _ in rows} - {"loads"} == {"cut"}, part.name


def options(out: Path) -> argparse.Namespace:
    return argparse.Namespace(smoke=None, seed=1, out=out)


def checked(error: float) -> Outcome:
    outcome = Outcome("compare:x", 1.0)
    bench = Bench(HostPlace(plain=True), SMOKE, 1, math.inf, lambda *row: outcome.rows.append(row))
    put_check(bench, "x", "float32", "logits", error, 1e-4)
    return outcome


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (checked(1e-5), 0),
        (checked(2e-4), 1),
        (checked(math.nan), 1),
        (Outcome("decode", 1.0, fault="killed after 9 s"), 1),
    ],
    ids=["right", "wrong", "nan", "killed"],
)
def test_exit_status(outcome: Outcome, status: int, tmp_path: Path, capsys: Any) -> None:
    assert tell(options(tmp_path), [outcome], 1.0) == status
    text = (tmp_path / "gpu.json").read_text()
    assert "NaN" not in text and bool(json.loads(text)["faults"]) == bool(status)
    assert ("FAILED" in capsys.readouterr().out) == bool(status)


def test_fractions_are_of_what_was_measured() -> None:
    rows = [
        ("ceilings", {"what": "copy", "rate": 2e12}),
        ("ceilings", {"what": "read (sum)", "rate": 4e12}),
        ("ceilings", {"what": "product, bfloat16", "rate": 800e12}),
        ("decode", {**DECODE, "bytes": 16e9, "flops": 16e9, "step_seconds": 0.005}),
        ("prefill", {"model": "llama-3.1-8b", "bytes": 4e9, "flops": 8e12, "step_seconds": 0.02}),
    ]
    tables = tables_of([Outcome("all", 1.0, rows=rows)])
    (decode,), (prefill,) = tables["decode"], tables["prefill"]
    assert (decode["bound_by"], decode["of_roof"]) == ("memory", pytest.approx(0.8))
    assert not decode["host_hidden"]
    assert (prefill["bound_by"], prefill["of_product"]) == ("product", pytest.approx(0.5))
    assert [goal["met"] for goal in tables["goals"]] == [True, None, None, False, False, None]


def test_the_host_may_be_seen_of_a_small_model() -> None:
    row = {**DECODE, "of_roof": 0.9, "of_product": 0.1}
    hidden, seen = row | {"step_seconds": 0.004}, row | {"step_seconds": 0.008}
    for model, met in (("llama-3.2-1b", True), ("llama-3.1-8b", False)):
        found = verdicts({"decode": [hidden, seen | {"model": model}]})
        assert [goal["met"] for goal in found if "host is hidden" in goal["goal"]] == [met]


DECODE = {"model": "llama-3.1-8b", "graphs": True, "batch": 1, "device_seconds": 0.004, "host_seconds": 0.004}


def without_window(attend: Callable[..., Any]) -> Callable[..., Any]:
    return lambda qkv, pool, plan, heads, window, partials: attend(qkv, pool, plan, heads, None, partials)


def keys_alone(store: Callable[..., Any]) -> Callable[..., Any]:
    def spoiled(
        qkv: torch.Tensor, norms: Any, eps: float, rotary: Any, plan: Any, pool: Any, heads: int
    ) -> None:
        before = pool[:, 1].clone()
        store(qkv, norms, eps, rotary, plan, pool, heads)
        pool[:, 1] = before.nan_to_num()

    return spoiled


def a_little_less(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *operands: operation(*operands) * 0.97


def less_in_products(prepare: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *operands: a_little_less(prepare(*operands))


def another_token(draw: Callable[..., Any]) -> Callable[..., Any]:
    def spoiled(logits: Any, settings: Any, drawn: torch.Tensor) -> Any:
        tokens = draw(logits, settings, drawn)
        return drawn.copy_(tokens.sub_(1).clamp_(min=0))

    return spoiled


@pytest.fixture
def bench() -> Iterator[tuple[Bench, list[Record]]]:
    rows: list[Record] = []
    with plain_launchers():
        yield Bench(HostPlace(plain=True), SMOKE, 5, math.inf, lambda table, row: rows.append(row)), rows


def failed(rows: list[Record]) -> set[str]:
    return {row["check"].split(",")[0] for row in rows if not row["ok"]}


@pytest.mark.parametrize(
    ("module", "name", "spoil", "seen"),
    [
        (launches, "attend", without_window, {"rotary"}),
        (launches, "rotate_and_store", keys_alone, {"rotary"}),
        (launches, "linear", less_in_products, {"product"}),
        (launches, "gated_linear", less_in_products, {"gated product"}),
        (launches, "rms_norm", a_little_less, {"norm"}),
        (launches, "add_rms_norm", a_little_less, {"sum and norm"}),
        (draw_checks.forward, "draw", another_token, {"greedy draws", "sampled draws", "draws from nan"}),
    ],
)
def test_a_wrong_kernel_is_seen(
    module: Any, name: str, spoil: Any, seen: set[str], bench: tuple[Bench, list[Record]], monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, name, spoil(getattr(module, name)))
    check_kernels(bench[0], "kernels")
    assert failed(bench[1]) == seen


def test_a_model_that_computes_otherwise_is_seen(
    bench: tuple[Bench, list[Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "attend", without_window(launches.attend))
    check_model(bench[0], "mistral-window")
    assert {"logits", "chunked"} <= failed(bench[1])


def test_a_graph_that_does_nothing_is_seen(
    bench: tuple[Bench, list[Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostDevice, "record", lambda self, work: lambda: None)
    files = rounded_model(bench[0], "llama", torch.float32)
    with pytest.raises(RuntimeError, match="other tokens gave the same"):
        check_answers(bench[0], "llama", files, "bfloat16")


def test_the_floors_in_the_documentation_are_current() -> None:
    page = (ROOT / "docs" / "benchmarks" / "gpu.md").read_text(encoding="utf-8")
    assert floors() in page, "put the output of `python benchmarks/gpu/run.py --floors` there"
