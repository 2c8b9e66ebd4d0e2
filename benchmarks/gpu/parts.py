"""The parts of the benchmark, and how each is carried out in a process of its own.

A part that crashes the GPU's context, hangs or runs out of memory takes its process with it and
nothing else: rows come back one by one as lines on standard output, and what was told before counts.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu.bench import Bench, Record
from gpu.places import place_of
from gpu.scale import FULL, SMOKE

MARK = "@ridgeline@ "
"""Begins the lines of a part that are rows; libraries may print others."""

GRACE_SECONDS = 6.0
"""A part is told an end this much before it is killed."""

_EXCEPTION = re.compile(r"[\w.]*(Error|Exception)\b")

Put = Callable[[str, Record], None]


@dataclass(frozen=True, slots=True)
class Part:
    """Something to measure.

    Attributes:
        name: with the argument of its function after a colon.
        work: module and function, called with a `Bench` and the argument.
    """

    name: str
    work: str

    def run(self, bench: Bench) -> None:
        """In this process."""
        module, function = self.work.split(":")
        argument = self.name.partition(":")[2]
        getattr(importlib.import_module(module), function)(bench, argument)


@dataclass(frozen=True, slots=True)
class Stage:
    """Parts that are carried out side by side, and how long they may take together."""

    title: str
    seconds: float
    parts: tuple[Part, ...]


def stages() -> tuple[Stage, ...]:
    """In their order; 465 seconds at most. Only what is not timed runs side by side."""
    compared = [Part(f"compare:{name}", "gpu.correctness:check_model") for name in FULL.compared]
    timed = [Part(f"model:{name}", "gpu.steps:measure_model") for name in FULL.timed]
    load = FULL.load_model
    return (
        Stage(
            "correctness",
            120,
            (Part("compare:kernels", "gpu.kernel_checks:check_kernels"), *compared),
        ),
        Stage("ceilings", 30, (Part("ceilings:", "gpu.ceilings:measure_ceilings"),)),
        *(Stage(part.name, seconds, (part,)) for part, seconds in zip(timed, (75, 100), strict=True)),
        Stage("load", 55, (Part(f"load:{load}", "gpu.load:measure_load"),)),
        Stage("transformers", 85, (Part(f"peer:{load}", "gpu.peers:measure_transformers"),)),
    )


def find_part(name: str) -> Part:
    """The part of this name."""
    return next(part for stage in stages() for part in stage.parts if part.name == name)


def run_here(part: Part, smoke: str | None, seed: int, deadline: float, put: Put) -> None:
    """Carry a part out in this process; its deadline is on the clock that all processes share."""
    with place_of(smoke) as place:
        scale = FULL if smoke is None else SMOKE
        part.run(Bench(place, scale, seed, deadline, put))


def print_row(table: str, row: Record) -> None:
    """As a line that the parent process recognises."""
    print(f"{MARK}{json.dumps([table, row])}", flush=True)


@dataclass
class Outcome:
    """What became of a part: `fault` is a sentence if it failed, `rows` come whether it did or not.

    `log` is the end of what it wrote to standard error.
    """

    part: str
    seconds: float
    fault: str | None = None
    rows: list[tuple[str, Record]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def run_stage(stage: Stage, command: Sequence[str], seconds: float) -> list[Outcome]:
    """Carry the parts out, each in a process started by `command`, which learns name and time.

    Args:
        stage: what.
        command: starts a process that takes `--part NAME --deadline S`.
        seconds: after which processes are killed.
    """
    outcomes = [Outcome(part.name, 0.0) for part in stage.parts]
    # The plain reference computes on the host: side by side, each gets its share of the cores.
    cores = str(max(1, (os.cpu_count() or 1) // len(outcomes)))
    environment = os.environ | ({"OMP_NUM_THREADS": cores} if len(outcomes) > 1 else {})
    threads = [
        threading.Thread(target=_run_process, args=(outcome, command, seconds, environment))
        for outcome in outcomes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def _run_process(
    outcome: Outcome, command: Sequence[str], seconds: float, environment: dict[str, str]
) -> None:
    started = time.monotonic()
    arguments = [*command, "--part", outcome.part, "--deadline", str(started + seconds - GRACE_SECONDS)]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    readers = [
        threading.Thread(target=_read_rows, args=(process.stdout, outcome)),
        threading.Thread(target=_keep_last, args=(process.stderr, outcome.log)),
    ]
    for reader in readers:
        reader.start()
    code, killed = 0, False
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        killed = True
    for reader in readers:
        reader.join(5.0)
    if killed:
        outcome.fault = f"killed after {seconds:.0f} s"
    elif code:
        outcome.fault = f"the process ended with status {code}: {_complaint(outcome.log)}"
    outcome.seconds = time.monotonic() - started


def _read_rows(stream: Any, outcome: Outcome) -> None:
    for line in stream:
        if line.startswith(MARK):
            table, row = json.loads(line.removeprefix(MARK))
            outcome.rows.append((table, row))


def _complaint(lines: list[str]) -> str:
    """The line that names the exception; that of CUDA's is followed by advice."""
    named = [line for line in lines if _EXCEPTION.match(line)]
    return (named or lines or ["it said nothing"])[-1]


def _keep_last(stream: Any, lines: list[str]) -> None:
    """The last lines with something in them."""
    for line in stream:
        if line.strip():
            lines.append(line.strip())
            del lines[:-40]


def own_command(smoke: str | None, seed: int) -> list[str]:
    """Starts `run.py` once more, for one part."""
    script = str(Path(__file__).with_name("run.py"))
    command = [sys.executable, script, "--seed", str(seed)]
    if smoke is not None:
        command += ["--smoke", smoke]
    return command
