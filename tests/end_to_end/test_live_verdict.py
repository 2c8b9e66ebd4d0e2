"""What binds is named rightly, in situations staged by load on a running server and read from /metrics."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_process import Served, serving, write_config

from ridgeline.telemetry.verdict import Verdict, is_busy_but_empty, verdict

SECONDS = 40.0
"""Long enough on a machine that is busy with other things; most are right after 4."""

_salts = itertools.count(1)


def scrape(served: Served) -> dict[str, float]:
    """Samples by name, labels but the model's in braces."""
    found = {}
    for family in text_string_to_metric_families(str(served.get("/metrics")[1])):
        for sample in family.samples:
            labels = [value for key, value in sample.labels.items() if key not in ("model", "model_name")]
            found[sample.name + (f"{{{','.join(labels)}}}" if labels else "")] = sample.value
    return found


def wait_for(served: Served, resource: str) -> tuple[Verdict, dict[str, float]]:
    """The verdict, once it names this resource in two scrapes one after the other."""
    until, before = time.monotonic() + SECONDS, None
    while True:
        values = scrape(served)
        now = verdict(values)
        if now.resource == before == resource:
            return now, values
        assert time.monotonic() < until, f"{now} instead of {resource}: {values}"
        before = now.resource
        time.sleep(0.3)


def ask(served: Served, prompt_tokens: int, new_tokens: int) -> None:
    salt = next(_salts)
    prompt = [(salt * 7919 + i) % 250 for i in range(prompt_tokens)]
    served.post(
        "/v1/completions",
        {"model": "sim", "prompt": prompt, "max_tokens": new_tokens, "ignore_eos": True},
    )


@contextmanager
def load(users: int, work: Callable[[], None]) -> Iterator[None]:
    """So many threads that do their work again and again."""
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            try:
                work()
            except OSError:  # the server is gone at the end of the test
                return

    threads = [threading.Thread(target=go_on, daemon=True) for _ in range(users)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def simulated(folder: Path, *arguments: str, hardware: str = "h100", **sizes: object) -> Iterator[Served]:
    config = write_config(folder, **sizes)
    with ExitStack() as stack:
        yield stack.enter_context(
            serving(
                "--device", f"simulated:{hardware}", "--random-weights", str(config), *arguments,
                data_dir=folder / "data",
            )
        )  # fmt: skip


def test_idle_then_few_then_prompts(tmp_path: Path) -> None:
    with simulated(tmp_path) as served:
        assert wait_for(served, "idle")[0].headline == "Nothing to do"

        with load(1, lambda: ask(served, 16, 400)):
            found, values = wait_for(served, "memory_bandwidth")
            assert values["ridgeline_batch_size"] == 1
            # The device looks full, and is nearly empty: that is what the verdict has to say.
            busy = wait_until(served, lambda seen: seen["ridgeline_device_busy_ratio"] > 0.95)
            assert busy["ridgeline_arithmetic_intensity"] < 0.2 * busy["ridgeline_ridge_point"]
            assert is_busy_but_empty(busy)
            assert "busy does not mean full" in verdict(busy).reason
            assert found.headline == "The batch is small"
            assert values["ridgeline_headroom_sequences{ridge}"] > 50

        with load(3, lambda: ask(served, 8000, 1)):
            found, values = wait_for(served, "compute")
            assert found.headline == "Arithmetic binds"
            assert values["ridgeline_arithmetic_intensity"] > values["ridgeline_attainable_ridge_point"]

        assert wait_for(served, "idle")[0].resource == "idle"


def wait_until(served: Served, right: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    until = time.monotonic() + SECONDS
    while not right(values := scrape(served)):
        assert time.monotonic() < until, values
        time.sleep(0.3)
    return values


def test_kv_full(tmp_path: Path) -> None:
    with simulated(tmp_path, "--kv-memory", "300MB") as served, load(12, lambda: ask(served, 400, 200)):
        found, values = wait_for(served, "kv_capacity")
        assert found.headline == "The KV cache is full"
        assert values["ridgeline_kv_utilization_ratio{device}"] > 0.6
        assert values["ridgeline_requests{waiting}"] > 0


def test_the_host_binds(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "vocab_size": 1024,
             "num_attention_heads": 4, "num_key_value_heads": 1}  # fmt: skip
    server = simulated(tmp_path, "--max-batch", "200", hardware="b200", **sizes)
    with server as served, load(200, lambda: ask(served, 8, 4000)):
        found, values = wait_for(served, "host")
        assert found.headline == "The host binds"
        assert values["ridgeline_batch_size"] > 100


def test_kv_traffic_keeps_the_ridge_out_of_reach(tmp_path: Path) -> None:
    with simulated(tmp_path, hardware="h200") as served, load(4, lambda: ask(served, 4000, 600)):
        values = wait_until(served, lambda seen: verdict(seen).headline == "Reading the KV cache binds")
        assert values["ridgeline_headroom_sequences{ridge}"] == float("inf")
        assert values["ridgeline_intensity_limit"] == pytest.approx(33, abs=4)
        assert values["ridgeline_ridge_batch_sequences"] == float("inf")
