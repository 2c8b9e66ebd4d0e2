"""Whether the load that was put on is the load that was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.bench.runner import TurnRecord
from ridgeline.bench.spread import Spread, spread

MAX_RATE_MISS = 0.05


@dataclass(frozen=True, slots=True)
class Schedule:
    """The open loop's plan beside what came of it; rates are of conversations per second.

    Attributes:
        requested_per_second: as asked for; None in the closed loop and for a trace.
        drawn_per_second: of the times of arrival that were drawn, which for few arrivals differs from
            the one asked for by chance; None in the closed loop.
        achieved_per_second: of those that were really sent; None in the closed loop.
        delay_seconds: from when a request was due to when it was sent, all turns.
        kept: whether the achieved rate is within 5 % of the drawn one.
    """

    requested_per_second: float | None
    drawn_per_second: float | None
    achieved_per_second: float | None
    delay_seconds: Spread
    kept: bool


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if seconds > 0 else None


def schedule(
    records: Sequence[TurnRecord], started: float, *, open_loop: bool, requested_per_second: float | None
) -> Schedule:
    """Compare what was due with what was sent; `records` without the warm-up's."""
    delays = spread([record.sent - record.scheduled for record in records])
    if not open_loop:
        return Schedule(None, None, None, delays, kept=True)
    firsts = [record for record in records if record.turn == 0]
    drawn = _rate(len(firsts), max((record.scheduled for record in firsts), default=started) - started)
    achieved = _rate(len(firsts), max((record.sent for record in firsts), default=started) - started)
    kept = drawn is None or achieved is None or achieved >= (1 - MAX_RATE_MISS) * drawn
    return Schedule(requested_per_second, drawn, achieved, delays, kept)
