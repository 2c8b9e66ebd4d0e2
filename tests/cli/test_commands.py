"""pull, models, bench and the program itself, as processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_openai import FakeServer, Running
from server_process import RIDGELINE, clean_environment

import ridgeline


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*RIDGELINE, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment() | environment,
    )


def test_version_and_help() -> None:
    assert run("--version").stdout == f"ridgeline {ridgeline.__version__}\n"
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "pull", "models", "chat", "top", "explain", "bench", "demo", "replay"):
        assert f"\n  {command} " in done.stdout


def test_models_says_what_is_here(tmp_path: Path) -> None:
    done = run("models", "--json", RIDGELINE_CACHE=str(tmp_path))
    assert done.returncode == 0
    (default,) = [row for row in json.loads(done.stdout) if row["name"] == "smollm2-135m"]
    assert default["downloaded"] is False
    assert default["path"] is None
    assert default["licence"] == "Apache-2.0"
    assert "smollm2-135m" in run("models", RIDGELINE_CACHE=str(tmp_path)).stdout


def test_pulling_what_there_is_not(tmp_path: Path) -> None:
    done = run("pull", "nothing", RIDGELINE_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("ridgeline: there is no model 'nothing'")
    assert list(tmp_path.iterdir()) == []


def test_bench_prints_a_table_then_one_line_of_json() -> None:
    with Running(FakeServer()) as running:
        done = run("bench", "--url", running.url, "--conversations", "3", "--concurrency", "1")
        only = run("bench", "--url", running.url, "--conversations", "3", "--concurrency", "1", "--json")
    assert done.returncode == only.returncode == 0
    lines = done.stdout.strip().splitlines()
    report = json.loads(lines[-1])
    assert (report["offered"], report["completed"], report["warmup_requests"]) == (3, 3, 2)
    assert report["model"] == "fake"
    assert any("time to first token" in line for line in lines)
    assert json.loads(only.stdout)["completed"] == 3


def test_bench_fails_where_nothing_was_answered() -> None:
    with Running(FakeServer(refuse=tuple(range(20)))) as running:
        done = run("bench", "--url", running.url, "--conversations", "2")
    assert done.returncode == 1
    assert json.loads(done.stdout.strip().splitlines()[-1])["refused"] == 2


def test_bench_names_a_fault_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("nonsense\n")
    done = run("bench", "--prompts", str(file))
    assert done.returncode == 1
    assert "prompts.jsonl line 1" in done.stderr


@pytest.mark.parametrize("level", ["", "debug"])
def test_a_fault_of_ours_is_admitted(level: str) -> None:
    """An error nobody expected is still one sentence; debug level shows where it came from."""
    code = "import ridgeline.cli.main as m, ridgeline.models.catalogue as c\nc.list_models = None\nm.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "models"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment() | {"RIDGELINE_LOG_LEVEL": level},
    )
    assert done.returncode == 1
    assert "ridgeline: unexpected TypeError" in done.stderr
    assert ("Traceback" in done.stderr) == (level == "debug")
