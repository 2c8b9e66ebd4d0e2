"""`ridgeline bench` as a process: workloads, traces, ramps, the page, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_openai import FakeServer, Running
from test_commands import run
from typer.testing import CliRunner

from ridgeline.cli.main import app


def refused(*arguments: str) -> str:
    result: Any = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    return " ".join(result.output.replace("│", " ").split())


def test_a_workload_with_figures_of_ones_own_and_a_page(tmp_path: Path) -> None:
    page = tmp_path / "chat.html"
    with Running(FakeServer()) as running:
        done = run(
            *("bench", "--url", running.url, "--workload", "chat", "--speed-up", "100000", "--turns", "2"),
            *("--conversations", "3", "--concurrency", "2", "--html", str(page)),
        )
        asked = running.fake.requests
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.strip().splitlines()[-1])
    assert line["workload"]["name"] == "chat"
    assert line["workload"]["turns"] == "2"
    assert line["workload"]["think_seconds"].startswith("log-normal, median 100")
    assert (line["offered"], line["completed"]) == (6, 6)
    assert any("Pauses are divided by 100000" in note for note in line["notes"])
    assert "Note: Pauses" in done.stdout
    assert all(request["ignore_eos"] for request in asked)
    assert page.read_text().startswith("<!doctype html>")


def test_a_trace(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 10 * n, "input_length": 600 * (n + 1), "output_length": 3} for n in range(4)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    with Running(FakeServer()) as running:
        arguments = ("bench", "--url", running.url, "--trace", str(file), "--warmup", "0", "--json")
        done = run(*arguments, "--context", "2000", "--trace-scale", "0.5", "--speed-up", "2")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["completed"] == 4
    assert line["prompt_tokens"] == 300 + 600 + 900 + 1200
    assert (line["workload"]["scale"], line["workload"]["left_out_too_long"]) == (0.5, 0)


def test_a_ramp_tells_its_knee() -> None:
    with Running(FakeServer(refuse=tuple(range(60, 100_000)))) as running:
        done = run(
            *("bench", "--url", running.url, "--concurrency", "1", "--ramp", "--ramp-seconds", "1"),
            *("--ramp-steps", "3", "--ramp-factor", "2"),
        )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.strip().splitlines()[-1])
    assert line["ramp"]["unit"] == "users"
    assert line["ramp"]["reached"]
    assert "Saturated at the first step" in done.stdout or "The knee is at" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workload", "nap"), "there is no workload 'nap': known are chat, summarise, write"),
        (("--workload", "chat", "--prompts", "x"), "one of --workload, --trace and --prompts"),
        (("--trace", "x", "--rate", "1"), "a trace has its own times"),
        (("--trace", "x", "--ramp"), "a trace has its own times"),
        (("--ramp", "--duration", "9"), "steps of a ramp last --ramp-seconds"),
        (("--speed-up", "2"), "--speed-up is for --workload and --trace"),
    ],
)
def test_what_does_not_go_together(arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(*arguments)


def test_a_page_that_cannot_be_written() -> None:
    with Running(FakeServer()) as running:
        done = run("bench", "--url", running.url, "--conversations", "1", "--html", "/nowhere/at/all.html")
    assert done.returncode == 1
    assert "cannot write /nowhere/at/all.html" in done.stderr


def test_a_bad_trace_is_named(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("{}\n")
    done = run("bench", "--trace", str(file))
    assert done.returncode == 1
    assert "trace.jsonl line 1 is not a request of a trace" in done.stderr
