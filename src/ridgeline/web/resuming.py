"""Going on with an answer whose server is gone: what the page knows of it, and whether it may."""

from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.store.records import StoredMessage
from ridgeline.web.rules import storable

_LOST = ("server_stopped", "unheard", "no_replica", "shutting_down")
"""How an answer ends that can go on as if nothing had been."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a page has of an answer.

    Attributes:
        run: the one that wrote it; where it is another by now, somebody else goes on with the answer.
        text: may be more than what the server last saved.
    """

    run: str | None
    text: str


def is_lost(answer: StoredMessage, rows: Sequence[StoredMessage], seen: Seen) -> bool:
    """Whether nobody writes an answer that should be written: a page may go on with it by itself."""
    if answer.role != "assistant" or answer.run != seen.run:
        return False
    if any(row.parent_id == answer.id for row in rows):
        return False
    return answer.status == "streaming" or answer.error_code in _LOST


def longest(answer: StoredMessage, seen: Seen | None) -> str:
    """The text to go on from: the page's where it is the saved one and more."""
    if seen is None or answer.run != seen.run:
        return answer.content
    text = storable(seen.text)
    return text if text.startswith(answer.content) else answer.content
