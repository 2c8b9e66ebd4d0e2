"""`ridgeline explain` against a running server, on a simulated device with room for two conversations."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import told
from server_process import RIDGELINE, Served, clean_environment, serving
from tiny_model import write_config

from ridgeline.cli.explain import _told
from ridgeline.telemetry.sentences import duration

BLOCK_BYTES = 16 * 2 * 2 * 2 * 16 * 2
STORY = "a story of rivers that went on and on, " * 8


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("explain")
    with serving(
        *("--random-weights", str(write_config(folder, 1024)), "--device", "simulated:h100"),
        *("--kv-memory", str(40 * BLOCK_BYTES), "--max-batch", "4"),
        *("--api-key", "ann=key-of-ann", "--api-key", "bob=key-of-bob"),
        data_dir=folder / "data",
    ) as server:
        yield server


def ask(served: Served, who: str, name: str, prompt: str) -> dict[str, Any]:
    """A completion; the request goes by `name`."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "ignore_eos": True, "temperature": 0}
    request = urllib.request.Request(
        f"{served.url}/v1/completions",
        json.dumps(body).encode(),
        {
            "content-type": "application/json",
            "authorization": f"Bearer key-of-{who}",
            "x-request-id": name,
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def explain(
    served: Served, name: str, *arguments: str, key: str = "key-of-ann"
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*RIDGELINE, "explain", name, "--url", served.url, "--api-key", key, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment() | {"COLUMNS": "90"},
    )


def words_of(done: "subprocess.CompletedProcess[str]") -> str:
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 90
    return " ".join(done.stdout.split())


def test_the_next_turn_says_who_evicted_the_conversation(served: Served) -> None:
    first = ask(served, "ann", "ann-1", STORY)
    again = ask(served, "ann", "ann-2", STORY)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    others = [
        ask(served, "ann", f"ann-other-{i}", f"{i} another text, about engines. " * 12) for i in range(2)
    ]
    after = ask(served, "ann", "ann-3", STORY)
    assert after["usage"]["prompt_tokens_details"]["cached_tokens"] == 0

    text = words_of(explain(served, first["id"]))  # either name will do
    assert "Found nothing cached" in text and "had never been seen" in text
    text = words_of(explain(served, "ann-2"))
    assert "tokens on the device" in text and "evicted" not in text
    text = words_of(explain(served, "ann-3"))
    assert "had been evicted" in text and "before it came" in text
    assert any(f"make room for request {other['id']}" in text for other in others)
    assert "more room for the KV cache" in text and "would still have been there" in text
    for part in ("Where", "reading the prompt", "writing", "The first token came after", "had been foretold"):
        assert part in text


def test_nobody_learns_whose_request_made_room_for_itself(served: Served) -> None:
    ask(served, "ann", "ann-before", STORY + "once more")
    for i in range(3):
        ask(served, "bob", f"bob-{i}", f"{i} a text of bob's, about bread. " * 12)
    ask(served, "ann", "ann-after", STORY + "once more")
    done = explain(served, "ann-after", "--json")
    assert done.returncode == 0
    (request,) = json.loads(done.stdout)["requests"]
    matched = next(event for event in request["answers"][0]["events"] if event["event"] == "matched")
    assert matched["evicted_tokens"] > 0
    assert {evicted["by"] for evicted in matched["evictions"]} == {"another user's request"}
    assert "bob" not in done.stdout and "another user's request" in matched["says"]


def test_another_key_sees_nothing_of_it(served: Served) -> None:
    ask(served, "ann", "secret", "hello")
    done = explain(served, "secret", key="key-of-bob")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No request 'secret' of yours is remembered." in done.stderr
    assert explain(served, "secret").returncode == 0
    done = explain(served, "secret", key="wrong")
    assert done.returncode == 1 and "asks for a key" in done.stderr


def test_nobody_there() -> None:
    done = subprocess.run(
        [*RIDGELINE, "explain", "x", "--url", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=clean_environment(),
    )
    assert done.returncode == 1 and "no server answers at" in done.stderr


def test_the_page_of_a_long_story() -> None:
    answer = {
        "index": 0, "state": "running", "total_seconds": 150.0, "omitted_events": 1234,
        "spent_seconds": {"queue": 30.0, "decode": 120.0}, "advice": ["With more room it would fly."],
        "events": [{"at_seconds": 0.5, "says": "It came."}, {"at_seconds": 120.0, "says": "It went on."}],
    }  # fmt: skip
    lines = list(
        _told({"id": "a", "model": "tiny", "received_at": "2026-05-28T20:26:40Z", "answers": [answer] * 2})
    )
    assert lines[0] == "a  tiny, received 2026-05-28T20:26:40Z"
    assert "Answer 1" in lines
    assert "       ...  1,234 events were left out about here." in lines
    assert "Where 150.0 s went so far; it is being answered:" in lines
    assert "  in the queue         30.000 s   20%  ██████" in lines
    assert "With more room it would fly." in lines
    assert duration(told.RECEIVED) == "16.7 min"
