"""The comparison of load generators: its arithmetic, and that ours runs as it is called there."""

import importlib.util
import json
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
from fake_openai import FakeServer, Running

from ridgeline.bench.workload import poisson_starts

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "load_generators.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("load_generators", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["load_generators"] = module
    spec.loader.exec_module(module)
    return module


def test_arrivals_take_as_long_as_vllms(script: ModuleType) -> None:
    seed = script.even_seed(10.0, 90, 5)
    assert seed >= 5
    assert list(islice(poisson_starts(10.0, seed), 90))[-1] == pytest.approx(9, rel=0.005)


def test_prompts_are_new_in_every_run(script: ModuleType, tmp_path: Path) -> None:
    one = script.prompts(tmp_path, 3, 1).read_text()
    assert one != script.prompts(tmp_path, 3, 2).read_text()
    assert [len(json.loads(line)["prompt"].split()) for line in one.splitlines()] == [60] * 3


def test_ours_is_run_as_it_is_compared(script: ModuleType, tmp_path: Path) -> None:
    with Running(FakeServer()) as running:
        found = script.asked_by_ours(running.url, script.Scenario("x", 4, users=2), tmp_path, 1)
    figures = script.figures_of(found)
    assert found["completed"] == 4
    assert tuple(figures) == script.MEASURES
    assert all(value > 0 for value in figures.values())


def test_medians_and_ratios(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def row(generator: str, value: float) -> object:
        return script.Row("4 users", generator, dict.fromkeys(script.MEASURES, value))

    rows = [row("ours", 99.0), row("ours", 101.0), row("ours", 100.0), row("vLLM's", 104.0)]
    found = script.report([*rows, script.Row("alone", "ours", {})])
    assert set(found) == {"4 users"}
    figures = found["4 users"]["TTFT p50"]
    assert figures["ratio"] == pytest.approx(100 / 104)
    assert figures["spread_ours"] == pytest.approx(0.01)
    assert "| 4 users | 3 | TTFT p50 | 100 | 104 | 0.962 | ±1.0% | ±0.0% |" in capsys.readouterr().out
