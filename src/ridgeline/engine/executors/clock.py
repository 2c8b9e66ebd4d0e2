"""The time a simulated device lives in: the real one, or one that jumps."""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since some beginning, and a way to let them pass."""

    def now(self) -> float:
        """The time."""
        ...

    def wait_until(self, seconds: float) -> None:
        """Return when `now()` has reached this, at once if it has."""
        ...


class RealClock:
    """Waits as long as a real device would."""

    def now(self) -> float:
        """`time.monotonic()`, as all of a live engine uses it."""
        return time.monotonic()

    def wait_until(self, seconds: float) -> None:
        """Sleep the rest."""
        rest = seconds - time.monotonic()
        if rest > 0:
            time.sleep(rest)


class VirtualClock:
    """Jumps to whatever is waited for, so that hours pass in milliseconds."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Where it was last moved to."""
        return self._now

    def wait_until(self, seconds: float) -> None:
        """Jump; never back."""
        self._now = max(self._now, seconds)
