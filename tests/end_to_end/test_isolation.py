"""What one key's owner has typed stays unknown to another: by counts of cached tokens, and by time."""

import itertools
import json
import statistics
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import Served, serving, write_config

SYSTEM = "You are the assistant of a bakery. " * 20
PROMPT_TOKENS = 6000
"""Some 100 ms of prefill on the device that is pretended, and 10 where it is cached."""

_salts = itertools.count(1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("isolation")
    (folder / "system.txt").write_text(SYSTEM)
    arguments = ["--random-weights", str(write_config(folder)), "--device", "simulated:h100"]
    arguments += ["--api-key", "ann=anns-secret", "--api-key", "bob=bobs-secret"]
    arguments += ["--kv-host-memory", "1GiB", "--shared-prefix", str(folder / "system.txt")]
    with serving(*arguments, data_dir=folder / "data") as running:
        yield running


def ask(served: Served, who: str, path: str, **body: object) -> tuple[int, float]:
    """Cached tokens of the prompt, and the seconds that the answer took."""
    request = urllib.request.Request(
        served.url + path,
        json.dumps({"model": "sim", "max_tokens": 1, **body}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {who}s-secret"},
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as response:
        usage = json.load(response)["usage"]
    return usage["prompt_tokens_details"]["cached_tokens"], time.perf_counter() - started


def prompt() -> list[int]:
    salt = next(_salts)
    return [(salt * 7919 + i * 31) % 250 for i in range(PROMPT_TOKENS)]


def test_a_strangers_copy_is_not_cached_and_takes_as_long_as_anything_new(served: Served) -> None:
    first, again, copied, unknown = ([] for _ in range(4))
    for _ in range(7):
        text = prompt()
        first.append(ask(served, "ann", "/v1/completions", prompt=text))
        again.append(ask(served, "ann", "/v1/completions", prompt=text))
        copied.append(ask(served, "bob", "/v1/completions", prompt=text))
        unknown.append(ask(served, "bob", "/v1/completions", prompt=prompt()))
    assert {cached for cached, _ in first + copied + unknown} == {0}
    assert all(cached >= PROMPT_TOKENS - 16 for cached, _ in again)
    hot, stranger, cold = (
        statistics.median(seconds for _, seconds in each) for each in (again, copied, unknown)
    )
    assert hot < 0.5 * cold, "what is cached is not faster: this test would see nothing"
    assert 0.8 * cold < stranger < 1.25 * cold, (hot, stranger, cold)


def test_a_registered_system_prompt_is_shared_and_nothing_after_it(served: Served) -> None:
    question = "What goes into a sourdough bread that is to be sold by the hundred? " * 10
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    assert ask(served, "ann", "/v1/chat/completions", messages=messages)[0] == 0
    shared, _ = ask(served, "bob", "/v1/chat/completions", messages=messages)
    assert len(SYSTEM) - 16 <= shared <= len(SYSTEM) + 32  # the made-up model's tokens are bytes
    own, _ = ask(served, "bob", "/v1/chat/completions", messages=messages)
    assert own >= shared + len(question) - 16
    others = [{"role": "system", "content": "Not " + SYSTEM}, messages[1]]
    ask(served, "ann", "/v1/chat/completions", messages=others)
    assert ask(served, "bob", "/v1/chat/completions", messages=others)[0] == 0


def test_a_shared_prefix_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    from server_process import run_serve

    done = run_serve("--shared-prefix", str(tmp_path / "absent.txt"), "--port", "0")
    assert done.returncode == 2
    assert "absent.txt" in done.stderr and "--shared-prefix" in done.stderr
