"""Foretelling of sequences: when one arrives, and before one has to leave."""

from collections.abc import Sequence as Seq

from ridgeline.engine.core.budget import served_before
from ridgeline.engine.core.copies import Copies
from ridgeline.engine.core.forecast import Forecast, prefill_seconds
from ridgeline.engine.core.pace import Pace
from ridgeline.engine.core.residence import Residence
from ridgeline.engine.core.sequence import Sequence
from ridgeline.roofline import StepTime, Work


class Foresight:
    """Foretells of sequences by the model of steps, where there is one.

    Args:
        residence: knows what of a sequence is cached.
        step_time: of this engine; None foretells nothing.
        copies: to and from the tiers below the device; None where there are none.
    """

    def __init__(self, residence: Residence, step_time: StepTime | None, copies: Copies | None) -> None:
        self._residence = residence
        self._step_time = step_time
        self._copies = copies

    def forecast(
        self, sequence: Sequence, wait: float, running: Seq[Sequence], pace: Pace, now: float
    ) -> Forecast | None:
        """Of one that is in the line: what is refused should cost no look into the cache."""
        if self._step_time is None or not sequence.spec.max_tokens:
            return None
        wait += now - sequence.arrived_seconds
        cached = self._residence.match(sequence).hit
        prefilling = [s for s in running if s.remaining > 1]
        tokens = served_before(sequence, prefilling) + len(sequence.tokens) - cached
        decoding = decode_work([s for s in running if s.remaining <= 1])
        prefill = prefill_seconds(self._step_time, pace, decoding, max(1, tokens))
        return Forecast(wait, wait + prefill, cached)

    def seconds_to_return(self, sequence: Sequence) -> float:
        """What a running one would need to have again what it computed."""
        if self._copies is not None:
            return self._copies.seconds_to_return(sequence)
        if self._step_time is None or not sequence.computed:
            return 0.0
        return self._step_time.seconds(Work.of([(sequence.computed, 0)], 0))


def decode_work(sequences: Seq[Sequence]) -> Work:
    """What one more token of each of these is."""
    return Work.of([(1, s.next_position) for s in sequences], len(sequences))
