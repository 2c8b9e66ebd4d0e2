"""`ridgeline demo kv`, as a process with the real model and little work."""

import json
import subprocess
from pathlib import Path

import pytest
from server_process import RIDGELINE, clean_environment


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*RIDGELINE, "demo", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env=clean_environment(),
    )


def test_what_the_cache_is_worth_is_measured(tmp_path: Path, smollm2_path: Path) -> None:
    little = ("--positions", "400,20", "--conversation", "320", "--repetitions", "1")
    page = tmp_path / "kv.html"
    done = run("kv", str(smollm2_path), *little, "--json", "--html", str(page))
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    tokens = {each["position"]: each for each in shown["tokens"]}
    assert list(tokens) == [20, 400]
    assert (tokens[400]["pairs_without"], tokens[400]["pairs_with"]) == (160_000, 400)
    assert tokens[400]["seconds_without"] > tokens[20]["seconds_without"]
    assert tokens[400]["seconds_without"] > tokens[400]["seconds_with"] > 0
    cached = {each["place"]: each["cached_tokens"] for each in shown["returns"]}
    assert cached == {"device (hot)": 304, "host memory": 304, "disk": 304, "nowhere (evicted)": 0}
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text and "160,000" in text and "<script" not in text


def test_the_table_fits_a_terminal(smollm2_path: Path) -> None:
    done = run("kv", str(smollm2_path), "--positions", "64", "--conversation", "64", "--repetitions", "1")
    assert done.returncode == 0, done.stderr
    assert "nowhere (evicted)" in done.stdout and "4,096" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--positions", "1,x"), 2, "'1,x' is not numbers"),
        (("--positions", "0,5"), 2, "the least is 2, not 0"),
        (("--conversation", "20000"), 1, "was made for 8192 tokens"),
        (("--device", "cuda:99"), 1, "--device"),
    ],
)
def test_what_cannot_be_shown(
    smollm2_path: Path, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    done = run("kv", str(smollm2_path), *arguments)
    assert done.returncode == code
    assert sentence in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
