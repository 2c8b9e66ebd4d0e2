"""The whole of it with the real model: fetched, served, asked in every way, stopped."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from server_process import RIDGELINE, Served, clean_environment, serving

pytestmark = pytest.mark.slow

QUESTION = "What is the capital of Germany?"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The default model in an empty cache, as on a new machine."""
    folder = tmp_path_factory.mktemp("fresh")
    with serving(data_dir=folder / "data", seconds=300, RIDGELINE_CACHE=str(folder / "cache")) as served:
        yield served


def test_the_model_is_fetched_with_progress(fresh: Served) -> None:
    fresh.wait_for_error("Fetching smollm2-135m")
    assert "serves smollm2-135m on cpu" in "".join(fresh.lines)


def test_the_official_client_gets_an_answer_with_sense(fresh: Served) -> None:
    client = openai.OpenAI(base_url=f"{fresh.url}/v1", api_key="none")
    answer = client.chat.completions.create(
        model="smollm2-135m",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=40,
    )
    assert "Berlin" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 40


def test_the_next_turn_finds_the_last_one_cached(fresh: Served) -> None:
    client = openai.OpenAI(base_url=f"{fresh.url}/v1", api_key="none")
    first = "Tell me about the rivers of Europe, where they rise, and through which cities they flow."
    messages: list[dict[str, str]] = [{"role": "user", "content": first}]
    answer = client.chat.completions.create(
        model="smollm2-135m",
        messages=messages,
        temperature=0,
        max_tokens=60,  # type: ignore[arg-type]
    )
    messages += [
        {"role": "assistant", "content": answer.choices[0].message.content or ""},
        {"role": "user", "content": "And of Asia?"},
    ]
    again = client.chat.completions.create(
        model="smollm2-135m",
        messages=messages,
        temperature=0,
        max_tokens=5,  # type: ignore[arg-type]
    )
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) >= 32


def test_the_terminal_chat_answers(fresh: Served) -> None:
    done = subprocess.run(
        [*RIDGELINE, "chat", QUESTION, "--url", fresh.url, "--temperature", "0", "--max-tokens", "40"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert "Berlin" in done.stdout


def test_a_load_of_chats_completes_and_shares_its_prefixes(fresh: Served) -> None:
    arguments = ["--concurrency", "4", "--conversations", "6", "--turns", "3", "--system-tokens", "360"]
    arguments += ["--input-tokens", "40", "--output-tokens", "16", "--json"]
    done = subprocess.run(
        [*RIDGELINE, "bench", "--url", fresh.url, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["offered"], report["completed"]) == (18, 18)
    assert report["tokens_from"] == "usage"
    assert report["cached_prompt_ratio"] > 0.5
    assert report["little"]["valid"]


def test_a_second_start_fetches_nothing_and_says_what_took_how_long(tmp_path: Path) -> None:
    subprocess.run([*RIDGELINE, "pull", "smollm2-135m"], check=True, timeout=300, env=clean_environment())
    with serving("--log-level", "debug", data_dir=tmp_path) as served:
        served.wait_for_error("together ")
        assert "Fetching" not in served.errors
        (line,) = [line for line in served.errors.splitlines() if "start: " in line]
        for phase in ("imports", "open smollm2-135m", "load smollm2-135m", "first token", "together"):
            assert re.search(rf"{phase} \d+\.\d\d s", line), line
        served.process.send_signal(signal.SIGTERM)
        assert served.wait() == 0


def test_a_cut_model_file_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [*RIDGELINE, "pull", "smollm2-135m"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=clean_environment(),
    )
    whole = Path(done.stdout.strip()).read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: len(whole) // 2])
    failed = subprocess.run(
        [*RIDGELINE, "serve", str(cut), "--port", "0", "--data-dir", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=clean_environment(),
    )
    assert failed.returncode == 1
    assert "cut.gguf" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "unexpected" not in failed.stderr
