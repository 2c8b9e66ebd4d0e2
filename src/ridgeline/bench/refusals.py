"""Requests that a server would not take, by what it said."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.bench.runner import TurnRecord
from ridgeline.bench.spread import Spread, spread


@dataclass(frozen=True, slots=True)
class Refusal:
    """Refusals of one kind.

    Attributes:
        status: 429 for a user's own limit, 503 for a full server.
        code: of the error's body, such as `at_capacity`.
        with_retry_after: how many said when to try again.
        without_retry_after: how many left that open.
        retry_after_seconds: what they said.
    """

    status: int
    code: str
    with_retry_after: int
    without_retry_after: int
    retry_after_seconds: Spread


def refusals(records: Sequence[TurnRecord]) -> tuple[Refusal, ...]:
    """Each kind of refusal, the most frequent first."""
    kinds: dict[tuple[int, str], list[float | None]] = defaultdict(list)
    for record in records:
        if record.outcome == "refused":
            kinds[record.status, record.code].append(record.retry_after_seconds)
    found = []
    for (status, code), waits in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
        told = [wait for wait in waits if wait is not None]
        found.append(Refusal(status, code, len(told), len(waits) - len(told), spread(told)))
    return tuple(found)
