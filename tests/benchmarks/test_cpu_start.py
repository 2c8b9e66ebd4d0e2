"""The benchmark of a start, on a server without weights, and on one that ends before it is ready."""

import sys
from pathlib import Path

import pytest
from server_process import RIDGELINE, write_config

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from cpu.start import Start, measure, phases_of, start_once, table

LOG = (
    "13:20:07 INFO    smollm computes in int8 with jit\n"
    "13:20:08 DEBUG   start: program 0.15 s, tokenizer a b 0.20 s, together 1.90 s;"
    " engines' process: libraries 1.05 s, load a b 0.40 s\n"
)


def test_phases_are_read_from_the_log_by_process() -> None:
    assert phases_of(LOG) == {
        "server": {"program": 0.15, "tokenizer a b": 0.2, "together": 1.9},
        "engines' process": {"libraries": 1.05, "load a b": 0.4},
    }
    assert phases_of("INFO nothing of the kind") == {}


def test_the_table_has_the_least_and_the_median() -> None:
    starts = [Start(ready, ready + 0.5, 2.0, LOG) for ready in (3.0, 1.0, 2.5)]
    rows = [line.rsplit(maxsplit=2) for line in table(starts).splitlines()]
    lines = {name: figures for name, *figures in rows}
    assert lines["ready"] == ["1.00", "2.50"]
    assert lines["first token"] == ["1.50", "3.00"]
    assert lines["engines' process: libraries"] == ["1.05", "1.05"]


def test_a_server_is_started_asked_and_ended(tmp_path: Path) -> None:
    command = [*RIDGELINE, "serve", "--port", "{port}", "--data-dir", str(tmp_path), "--log-level", "debug"]
    command += ["--device", "simulated:h100", "--random-weights", str(write_config(tmp_path))]
    start = start_once(command)
    assert 0 < start.ready_seconds < start.first_token_seconds
    assert start.processor_seconds > 0
    assert {"program", "imports", "load sim", "together"} <= set(phases_of(start.log)["server"])


def test_a_server_that_ends_is_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match="ended with code 3 before it was ready"):
        measure([sys.executable, "-c", "raise SystemExit(3)"], repetitions=1)
