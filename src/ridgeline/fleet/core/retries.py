"""How much of the fleet's work may be done twice."""

SHARE = 0.2
"""Of requests: a fleet that fails more often than that is not helped by trying again."""

BURST = 20.0


class RetryBudget:
    """A request earns a part of a retry, a retry spends a whole one."""

    def __init__(self) -> None:
        self._left = BURST

    def earn(self) -> None:
        """A request came."""
        self._left = min(BURST, self._left + SHARE)

    def spend(self) -> bool:
        """Whether one more may be tried; it is counted then."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
