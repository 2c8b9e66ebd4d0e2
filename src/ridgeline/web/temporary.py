"""Temporary conversations: in this process's memory, and nowhere else."""

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ridgeline.protocol import Refusal
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.web.settings import WebSettings

_PREFIX = "temporary-"
_ID = re.compile(_PREFIX + "[0-9a-f]{22}")


def new_temporary_id() -> str:
    """An id that tells by itself that the conversation must never be written anywhere."""
    return _PREFIX + uuid.uuid4().hex[: 32 - len(_PREFIX)]


def is_temporary(conversation_id: str) -> bool:
    """Whether a conversation is kept in memory only."""
    return conversation_id.startswith(_PREFIX)


@dataclass(slots=True)
class _Held:
    conversation: Conversation
    used_seconds: float
    rows: dict[str, StoredMessage] = field(default_factory=dict)


class TemporaryConversations:
    """Holds them until they are too many, unused for too long, or the server ends.

    Attributes:
        is_busy: whether an answer is being made in a conversation; such a one does not go.
    """

    def __init__(self, settings: WebSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_busy: Callable[[str], bool] = lambda _: False
        self._settings = settings
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._timer: asyncio.TimerHandle | None = None

    def check_room(self, tenant: str) -> None:
        """See that one more can be held.

        Raises:
            Refusal: `rate_limited` where all that the tenant may have are being answered in.
        """
        limit = self._settings.max_temporary
        mine = self._of(tenant)
        if len(mine) >= limit and all(self.is_busy(held.conversation.id) for held in mine):
            raise Refusal(
                "rate_limited",
                f"{limit} temporary conversations are being answered in, the limit (--site max-temporary): "
                "wait for one or stop one.",
            )

    def put(self, conversation: Conversation) -> None:
        """Hold a conversation, or its newer version; too many of a tenant drop the oldest idle one."""
        held = self._held.get(conversation.id)
        if held is not None:
            held.conversation, held.used_seconds = conversation, self._clock()
            return
        mine = sorted(self._of(conversation.tenant), key=lambda held: held.used_seconds)
        idle = [held.conversation.id for held in mine if not self.is_busy(held.conversation.id)]
        for name in idle[: max(0, len(mine) + 1 - self._settings.max_temporary)]:
            del self._held[name]
        self._held[conversation.id] = _Held(conversation, self._clock())
        self._expire_later()

    def put_rows(self, rows: Sequence[StoredMessage]) -> None:
        """Hold messages; those of a conversation that has gone are gone with it."""
        for row in rows:
            if held := self._held.get(row.conversation_id):
                held.rows[row.id] = row

    def put_back(self, conversation: Conversation, rows: Sequence[StoredMessage]) -> bool:
        """Hold a conversation that another server held; False where it is here, whoever it belongs to.

        Raises:
            Refusal: it has no id of a temporary conversation, or there is no room.
        """
        if not _ID.fullmatch(conversation.id):
            raise Refusal("invalid_request", "Only a temporary conversation can be put back.", param="id")
        if conversation.id in self._held:
            return False
        self.check_room(conversation.tenant)
        self.put(conversation)
        self.put_rows(rows)
        return True

    def get(self, tenant: str, conversation_id: str) -> Conversation | None:
        """One conversation of the tenant; asking for it is using it."""
        self.expire()
        held = self._held.get(conversation_id)
        if held is None or held.conversation.tenant != tenant:
            return None
        held.used_seconds = self._clock()
        return held.conversation

    def messages(self, conversation_id: str) -> list[StoredMessage]:
        """All messages of a conversation, in no particular order."""
        held = self._held.get(conversation_id)
        return list(held.rows.values()) if held is not None else []

    def of_message(self, tenant: str, message_id: str) -> Conversation | None:
        """The tenant's conversation that a message stands in."""
        self.expire()
        for held in self._of(tenant):
            if message_id in held.rows:
                return self.get(tenant, held.conversation.id)
        return None

    def drop(self, conversation_id: str) -> None:
        """Forget a conversation; there is no undo."""
        self._held.pop(conversation_id, None)

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expire(self) -> None:
        """Forget those that have not been used for too long."""
        oldest = self._clock() - self._settings.temporary_seconds
        for name in [name for name, held in self._held.items() if held.used_seconds <= oldest]:
            if self.is_busy(name):
                self._held[name].used_seconds = self._clock()
            else:
                del self._held[name]

    def _of(self, tenant: str) -> list[_Held]:
        return [held for held in self._held.values() if held.conversation.tenant == tenant]

    def _expire_later(self) -> None:
        if self._timer is None and self._held:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._settings.temporary_seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.expire()
        self._expire_later()
