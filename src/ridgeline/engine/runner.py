"""What passes between a replica and its engines, wherever they run.

Imported before an engines' process is started, and therefore light.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ridgeline.engine.core.copies import Moved
    from ridgeline.engine.core.messages import Cancel, MarkAnswer, Output, Submit
    from ridgeline.kvcache import LabelChanges
    from ridgeline.protocol import ModelStatus, Told


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message and the name of the model it is for."""

    model: str
    message: "Submit | Cancel | MarkAnswer | Moved"


@dataclass(frozen=True, slots=True)
class Report:
    """What one turn of the loop hands out: outputs, a status when a fresh one is due.

    `failure` says that the thread has ended for a reason that is a bug of ours; no report follows.
    `told` is new of what the scheduler did with sequences, and why; `labels` of what front doors are told.
    """

    model: str
    outputs: "list[Output]"
    status: "ModelStatus | None"
    failure: str | None = None
    told: "list[Told]" = field(default_factory=list)
    labels: "LabelChanges | None" = None


class Runner(Protocol):
    """Something that runs engines: a thread of this process, or a process of its own."""

    names: tuple[str, ...]
    """Models it runs."""

    def start(self, deliver: Callable[[Report], None]) -> None:
        """Begin. `deliver` is called in a thread of the runner's and must not block."""
        ...

    def send(self, model: str, message: "Submit | Cancel | MarkAnswer") -> None:
        """Put a message into the inbox; from any thread."""
        ...

    def stop(self) -> None:
        """End after the step in progress; sequences that still run get no further output."""
        ...

    def join(self) -> None:
        """Wait for the end."""
        ...
