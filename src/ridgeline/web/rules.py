"""What a conversation may be, and where in it a message may stand."""

from collections.abc import Sequence
from dataclasses import replace
from types import EllipsisType

from ridgeline.protocol import Refusal, Sampling
from ridgeline.store.records import ChatSettings, Conversation, StoredMessage
from ridgeline.web.context import path_to, shown_path
from ridgeline.web.settings import WebSettings
from ridgeline.web.temporary import is_temporary


class NotFoundError(Refusal):
    """What was named is not there, or is somebody else's."""

    def __init__(self, what: str, param: str) -> None:
        super().__init__(
            "invalid_request", f"There is no such {what}; it may have been deleted.", param=param
        )

    @property
    def status(self) -> int:
        """404, for it is the address that is wrong."""
        return 404


def place_in(
    conversation: Conversation, rows: Sequence[StoredMessage], parent_id: str | EllipsisType | None
) -> list[StoredMessage]:
    """The messages before a new one that comes after `parent_id`.

    Args:
        parent_id: None for a new beginning, `...` for the end of the branch that is shown.
    """
    if parent_id is None:
        return []
    if isinstance(parent_id, EllipsisType):
        return shown_path(conversation, rows)
    for row in rows:
        if row.id == parent_id:
            return path_to(rows, row)
    raise NotFoundError("message", "parent_id")


def check_size(
    conversation: Conversation,
    rows: Sequence[StoredMessage],
    settings: WebSettings,
    *,
    messages: int,
    characters: int,
) -> None:
    """See that a conversation may have so many messages and characters more.

    Raises:
        Refusal: `limit_reached`, with the limit.
    """
    limit = settings.max_conversation_messages
    if len(rows) + messages > limit:
        raise Refusal(
            "limit_reached",
            f"A conversation may have {limit} messages (--site max-conversation-messages), and this one has "
            f"{len(rows)}: begin a new one.",
        )
    name = "max_temporary_characters" if is_temporary(conversation.id) else "max_conversation_characters"
    knob = f"--site {name.replace('_', '-')}"
    limit, there = getattr(settings, name), sum(len(row.content) for row in rows)
    if there + characters > limit:
        raise Refusal(
            "limit_reached",
            f"A conversation may have {limit} characters ({knob}), and with this message it would have "
            f"{there + characters}: begin a new one.",
        )


def checked_content(content: str, settings: WebSettings) -> str:
    """A message as it may be stored.

    Raises:
        Refusal: `request_too_large`, with the limit.
    """
    limit = settings.max_message_characters
    if len(content) > limit:
        raise Refusal(
            "request_too_large",
            f"A message may have {limit} characters (--site max-message-characters), "
            f"but this one has {len(content)}.",
            param="content",
        )
    return storable(content)


def check_running(conversation_id: str, running_in: Sequence[str], settings: WebSettings) -> None:
    """See that one more answer may be made: one in a conversation, and so many for an owner.

    Raises:
        Refusal: `rate_limited`, with what to wait for.
    """
    if conversation_id in running_in:
        raise Refusal(
            "rate_limited", "An answer is being written in this conversation: wait for it or stop it."
        )
    if len(running_in) >= settings.max_running_answers:
        raise Refusal(
            "rate_limited",
            f"{len(running_in)} of your answers are being written, the limit (--site max-running-answers): "
            "wait for one or stop one.",
        )


def storable(text: str) -> str:
    """Text that every database takes: PostgreSQL keeps no NUL, and half a surrogate pair is no UTF-8."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def sampling_of(settings: WebSettings, chosen: ChatSettings) -> Sampling:
    """How tokens are drawn in a conversation: as it was chosen there, else as the site does."""
    sampling = settings.sampling
    if chosen.temperature is not None:
        sampling = replace(sampling, temperature=chosen.temperature)
    if chosen.top_p is not None:
        sampling = replace(sampling, top_p=chosen.top_p)
    return sampling
