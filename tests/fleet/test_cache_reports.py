"""Replicas tell what they have cached and evicted, and a front door believes them."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_processes import front_door, write_fleet
from server_process import Served

KV = ("--kv-memory", "2GiB", "--max-batch", "8")
"""Room for some 16,000 tokens, of 128 KiB each: two conversations of those below."""


def until(true: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def about(subject: str) -> str:
    return f"{subject} are measured by those who know them. " * 140


def ask(door: Served, content: str, max_tokens: int = 4) -> dict:
    """Where it went, and why: the latest placement."""
    messages = [{"role": "user", "content": content}]
    status, body = door.post(
        "/v1/chat/completions", {"model": "sim", "messages": messages, "max_tokens": max_tokens}
    )
    assert status == 200, body
    return dict(door.get("/fleet/status")[1]["placements"][0])


def unlearned(door: Served) -> float:
    text = door.get("/metrics")[1]
    (line,) = [
        line for line in text.splitlines() if line.startswith('ridgeline_fleet_corrected_keys_total{how="unl')
    ]
    return float(line.split()[-1])


def change(door: Served, replica: str, action: str) -> None:
    status, body = door.post("/fleet/replicas", {"replicas": [replica], "action": action})
    assert status == 200, body


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_conversation_that_was_evicted_goes_to_who_is_idle(
    tmp_path: Path, replicas: Callable[..., list[Served]]
) -> None:
    cramped, roomy = replicas(2, *KV)
    fleet = write_fleet(tmp_path / "fleet.yaml", {"us": [cramped.url, roomy.url]})
    names = {f"us-a/127.0.0.1:{each.port}": each for each in (cramped, roomy)}
    home, other = names
    subjects = ["rivers", "bridges", "clocks", "letters", "gardens", "lamps"]
    pieces = len(about("rivers")) // 256
    with front_door(fleet, tmp_path / "door") as door:
        change(door, home, "cordon")
        for number in range(8):  # so that both have shown how fast they are, by as many answers
            ask(door, about(f"other {number}"))
        until(lambda: unlearned(door) >= 5 * pieces)
        before = unlearned(door)
        change(door, home, "uncordon")
        change(door, other, "cordon")
        for subject in subjects:
            assert ask(door, about(subject))["replica"] == home
        until(lambda: unlearned(door) >= before + 3 * pieces)
        change(door, other, "uncordon")
        running = door.stream(
            messages=[{"role": "user", "content": about(subjects[-1])}], max_tokens=1500, ignore_eos=True
        )
        next(running)
        assert door.get("/fleet/status")[1]["placements"][0]["replica"] == home
        kept = ask(door, about(subjects[-1]))
        assert kept["replica"] == home and kept["found_tokens"] >= kept["cached_tokens"] > 1000
        gone = ask(door, about(subjects[0]))
        assert door.get("/metrics")[1].count(f'ridgeline_fleet_replica_running{{replica="{home}"}} 1.0') == 1
        assert (gone["replica"], gone["cached_tokens"], gone["found_tokens"]) == (other, 0, 0)
        running.close()
