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


def is_unwritten(answer: StoredMessage, seen: Seen) -> bool:
    """Whether an answer is not whole, and nothing but the loss of its server is the reason.

    That no job here writes it the caller knows.
    """
    if answer.role != "assistant" or answer.run != seen.run:
        return False
    return answer.status == "streaming" or answer.error_code in _LOST


def may_resume(answer: StoredMessage, rows: Sequence[StoredMessage], seen: Seen) -> bool:
    """Whether the page may go on with such an answer by itself: nothing has been asked after it."""
    return is_unwritten(answer, seen) and all(row.parent_id != answer.id for row in rows)


def longest(answer: StoredMessage, seen: Seen | None) -> str:
    """The text to go on from: the page's where it is the saved one and more."""
    if seen is None or answer.run != seen.run:
        return answer.content
    text = storable(seen.text)
    return text if text.startswith(answer.content) else answer.content
