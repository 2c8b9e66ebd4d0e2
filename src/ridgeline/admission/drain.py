"""How fast requests finish while others wait, and what that promises to one who comes now."""

from collections import deque
from collections.abc import Sequence

SAMPLES = 128
"""Departures that the rate is measured over: few enough to follow a change of the load."""

ENOUGH = 8
"""Departures below which a rate is an accident."""


class DrainRate:
    """Departures per second of a server that has a queue.

    Only the time in which somebody waited counts: an idle server drains nothing and is not slow
    for that. Departures at one instant, as those of one step, are one event that took the time
    since the event before; the first instant after a pause only starts the clock.
    """

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=SAMPLES)
        self._measured_seconds = 0.0
        self._started: float | None = None
        self._last: float | None = None

    def finished(self, now: float, *, backlog: bool = True) -> None:
        """A request left its place at `now`; `backlog` says whether another waits for it."""
        if self._started is None:
            self._started = now
        elif now > self._started and self._last is not None:
            if len(self._gaps) == SAMPLES:
                self._measured_seconds -= self._gaps[0]
            self._gaps.append(now - self._last)
            self._measured_seconds += now - self._last
        self._last = now
        if not backlog:
            self._started = self._last = None

    def per_second(self, now: float) -> float | None:
        """Measured rate; None until there were enough departures with others waiting.

        A silence that is longer than the usual gap counts, so that a stall is not promised away.
        """
        if len(self._gaps) < ENOUGH or self._measured_seconds <= 0:
            return None
        silence = 0.0 if self._last is None else now - self._last
        seconds = self._measured_seconds
        if silence > seconds / len(self._gaps):
            seconds += silence
        return len(self._gaps) / seconds

    def estimated_wait(self, position: int, now: float) -> float | None:
        """Seconds until whoever stands at `position` (1 is next) is served; None when unknown."""
        rate = self.per_second(now)
        return None if rate is None else max(0, position) / rate


def wait_behind_batch(
    position: int, remaining_seconds: Sequence[float], service_seconds: float
) -> float | None:
    """Seconds until `position` (1 is next) is served, from what runs: for a cold start.

    The p-th in the queue starts when the p-th of the running ones ends; past the size of the
    batch, when those that took their places have ended as well.

    Args:
        position: place in the queue, at least 1.
        remaining_seconds: what each running request is expected to need yet; empty: unknown.
        service_seconds: what a request is expected to need from its first step to its last.
    """
    if not remaining_seconds:
        return None
    rounds, place = divmod(max(1, position) - 1, len(remaining_seconds))
    return sorted(remaining_seconds)[place] + rounds * service_seconds
