"""How long each part of starting took, for the breakdown at debug level."""

import time
from collections.abc import Sequence

import psutil


class Startup:
    """Collects phases in order. `lap` ends a phase that began where the last one ended."""

    def __init__(self) -> None:
        self._phases: list[tuple[str, float]] = []
        self._beside: list[str] = []
        # The interpreter's own start and the imports so far count too.
        self._started: float = time.monotonic() - (time.time() - psutil.Process().create_time())
        self._last = self._started

    def lap(self, phase: str) -> None:
        """The time since the last phase belongs to this one."""
        now = time.monotonic()
        self._phases.append((phase, now - self._last))
        self._last = now

    def add(self, phase: str, seconds: float) -> None:
        """A phase measured elsewhere, ending now."""
        self._phases.append((phase, seconds))
        self._last = time.monotonic()

    def beside(self, process: str, phases: Sequence[tuple[str, float]]) -> None:
        """What another process did meanwhile."""
        if phases:
            self._beside.append(f"{process}: {_listed(phases)}")

    def seconds(self) -> float:
        """Since the program began."""
        return time.monotonic() - self._started

    def breakdown(self) -> str:
        """`imports 0.81 s, ..., together 1.92 s; engines' process: libraries 0.85 s, ...`."""
        return "; ".join([f"{_listed(self._phases)}, together {self.seconds():.2f} s", *self._beside])


def _listed(phases: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in phases)
