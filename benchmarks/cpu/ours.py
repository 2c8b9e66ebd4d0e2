"""Ridgeline as a contender."""

import sys
from pathlib import Path

from cpu.children import ChildError, Worker
from cpu.contenders import Contender, Figures
from cpu.rows import Task


class Ridgeline(Contender):
    """This source tree, in the environment that this script runs in."""

    name = "Ridgeline"
    _worker: Worker | None = None
    _fingerprint = ""

    @property
    def served_name(self) -> str:  # type: ignore[override]
        """The catalogue's."""
        return self.setting.model

    def missing(self) -> str | None:
        """It is here."""
        return None

    def facts(self) -> Figures:
        """What was computed with."""
        import ridgeline

        setting = self.setting
        asked = {"dtype": setting.dtype, "kv_dtype": setting.kv_dtype, "step_tokens": setting.step_tokens}
        return {"version": ridgeline.__version__, "fingerprint": self._fingerprint, **asked}

    def enter(self) -> None:
        """Start the engine in its worker."""
        setting = self.setting
        worker = Worker(
            [
                *(sys.executable, Path(__file__).with_name("ours_worker.py")),
                *("--model", setting.model, "--dtype", setting.dtype, "--kv-dtype", setting.kv_dtype),
                *("--threads", str(setting.threads), "--step-tokens", str(setting.step_tokens)),
            ],
            self.log("worker"),
        )
        self.child = self._worker = worker
        self._fingerprint = worker.answer(120.0)["fingerprint"]

    def offline(self, task: Task) -> Figures:
        """In the worker."""
        if self._worker is None:
            raise ChildError("the worker does not run")
        return self._worker.ask(
            {"kind": task.kind, "sequences": task.sequences, "prompt_tokens": task.prompt_tokens}
        )

    def command(self, port: int) -> tuple[list[str | Path], dict[str, str]]:
        """`ridgeline serve`, its conversations kept with the logs."""
        setting = self.setting
        program = [sys.executable, "-c", "from ridgeline.cli.main import main; main()"]
        return [
            *program,
            *("serve", setting.model, "--port", str(port)),
            *("--dtype", setting.dtype, "--kv-dtype", setting.kv_dtype),
            *("--threads", str(setting.threads), "--data-dir", setting.logs / "data"),
            *("--log-level", "warning"),
        ], {}
