"""What comes to the front door, and what it decides of it."""

from dataclasses import dataclass

from ridgeline.fleet.core.route import Option
from ridgeline.protocol import Refusal


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request at the door.

    Attributes:
        id: unique.
        model: asked for.
        keys: of its text, see `protocol/prefix_keys.py`.
        text_bytes: of its text.
        tenant: its owner.
        priority: smaller is served first.
        max_tokens: of the answer; None for no limit.
        smaller: models that may answer instead where this one has no place, the best first.
    """

    id: str
    model: str
    keys: tuple[bytes, ...]
    text_bytes: int
    tenant: str = ""
    priority: int = 0
    max_tokens: int | None = None
    smaller: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request to a replica now; it is counted there already.

    `others` are the next best, for the reason.
    """

    request: str
    replica: str
    model: str
    attempt: int
    chosen: Option
    others: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell a request that it is not served."""

    request: str
    refusal: Refusal


Decision = Send | Refuse
