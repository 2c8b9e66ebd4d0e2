"""When a replica that fails is left alone, and how it comes back."""

from dataclasses import dataclass

FAULTS = 3
"""In a row, until nothing is sent there for a while."""

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


@dataclass(slots=True)
class Breaker:
    """Counts faults: connections that break, answers that are none. Being full is no fault, and neither
    is a client's mistake.

        closed --3 faults in a row--> open --pause--> half open: one request goes there
           ^                           ^                  |
           '------- it succeeds -------|-- it fails, -----'
                                           twice the pause
    """

    faults: int = 0
    pause_seconds: float = 0.0
    open_until: float = 0.0
    probing: bool = False

    def allows(self, now: float) -> bool:
        """Whether a request may be sent."""
        if not self.pause_seconds:
            return True
        return now >= self.open_until and not self.probing

    def sent(self) -> None:
        """A request goes there; while half open it is the probe."""
        self.probing = self.probing or bool(self.pause_seconds)

    def succeeded(self) -> None:
        """It answered, be it with a refusal."""
        self.faults, self.pause_seconds, self.probing = 0, 0.0, False

    def left(self) -> None:
        """The request ended without telling anything of the replica: its client went away."""
        self.probing = False

    def failed(self, now: float) -> None:
        """A fault."""
        self.faults += 1
        self.probing = False
        if self.faults < FAULTS and not self.pause_seconds:
            return
        self.pause_seconds = min(LONGEST_PAUSE_SECONDS, max(FIRST_PAUSE_SECONDS, 2 * self.pause_seconds))
        self.open_until = now + self.pause_seconds
