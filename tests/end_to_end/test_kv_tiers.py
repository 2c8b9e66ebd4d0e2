"""Conversations that come back from the disk: the real model, a real server, kill -9 in between."""

import signal
import time
from pathlib import Path

import pytest
from server_process import Served, serving

TOPICS = ("rivers", "engines", "music", "bread", "maps", "glass")


def ask(served: Served, topic: str) -> tuple[str, int, int]:
    """The answer, cached tokens, prompt tokens."""
    text = f"Some facts about {topic}. " + f"People often ask about {topic} and their history. " * 60
    status, body = served.post(
        "/v1/chat/completions",
        {
            "model": "smollm2-135m",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 12,
            "temperature": 0,
        },
    )
    assert status == 200, body
    usage = body["usage"]
    answer = body["choices"][0]["message"]["content"]
    return answer, usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


def metric(served: Served, name: str, *labels: str) -> float:
    for line in str(served.get("/metrics")[1]).splitlines():
        if line.startswith(name + "{") and all(label in line for label in labels):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no metric {name} {labels}")


def wait_until_saved(served: Served, blocks: int) -> None:
    until = time.monotonic() + 60
    while metric(served, "ridgeline_kv_copied_blocks_total", 'tier="disk"', 'direction="out"') < blocks:
        assert time.monotonic() < until, "blocks were not saved"
        time.sleep(0.05)


@pytest.fixture
def options(smollm2_path: Path) -> tuple[str, ...]:
    # Room for some 1,450 tokens in float32; a topic has some 600.
    return (
        f"smollm2-135m={smollm2_path}",
        *("--dtype", "float32", "--max-batch", "8", "--max-context", "1024"),
        *("--kv-memory", "64MiB", "--kv-disk", "1GiB"),
    )


@pytest.mark.slow
def test_conversations_come_back_from_disk_also_after_kill_9(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    with serving(*options, data_dir=tmp_path, seconds=100) as served:
        answers = {topic: ask(served, topic)[0] for topic in TOPICS}
        saved = 0
        for topic in TOPICS:
            answer, cached, prompt = ask(served, topic)
            assert answer == answers[topic], topic
            assert cached == (prompt - 1) // 16 * 16, f"{topic} was computed again"
            saved += cached // 16
        assert metric(served, "ridgeline_kv_copied_blocks_total", 'direction="in"') > 100
        wait_until_saved(served, saved)
        served.process.send_signal(signal.SIGKILL)
        served.wait()

    files = sorted((tmp_path / "kv").rglob("*.kv"))
    assert len(files) >= saved
    for file in files[:: len(files) // 5]:
        file.write_bytes(file.read_bytes()[:-1])  # torn, as after a crash of the machine
    with serving(*options, data_dir=tmp_path, seconds=100) as served:
        hits = 0
        for topic in TOPICS:
            answer, cached, _ = ask(served, topic)
            assert answer == answers[topic], topic
            hits += cached
        assert hits > 1000
        assert metric(served, "ridgeline_kv_lost_copies_total", 'direction="in"') > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_disk_that_loses_all_its_files_costs_no_answer(tmp_path: Path, options: tuple[str, ...]) -> None:
    with serving(*options, data_dir=tmp_path, seconds=100) as served:
        answers = {topic: ask(served, topic)[0] for topic in TOPICS}
        wait_until_saved(served, 100)
        for file in (tmp_path / "kv").rglob("*.kv"):
            file.unlink()
        for topic in TOPICS:
            assert ask(served, topic)[0] == answers[topic]
        assert served.get("/health/ready")[0] == 200
        served.wait_for_error("missing or damaged")
