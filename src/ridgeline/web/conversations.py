"""Conversations as the page sees them: the store, and what the store could not take."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.exc import IntegrityError

from ridgeline.store.errors import StoreError
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.store.store import Store

log = logging.getLogger("ridgeline.web")

MAX_UNSAVED = 1000


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Conversations:
    """Reads and writes conversations, and goes on in memory while the disk is full.

    Rows that could not be written are kept (at most `MAX_UNSAVED`) and are written with the next
    ones. `problem` is the sentence to show for as long as something is not saved.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unsaved_conversations: dict[str, Conversation] = {}
        self._unsaved_rows: dict[str, StoredMessage] = {}
        self._write_problem: str | None = None
        self._one_writer = asyncio.Lock()

    @property
    def problem(self) -> str | None:
        """Why conversations are not being saved, or None."""
        return self._write_problem or self._store.problem

    async def save(
        self, conversation: Conversation | None = None, rows: Sequence[StoredMessage] = ()
    ) -> None:
        """Write, together with what earlier failed. Never raises `StoreError`: see `problem`."""
        if conversation is not None:
            self._unsaved_conversations[conversation.id] = conversation
        self._unsaved_rows.update((row.id, row) for row in rows)
        async with self._one_writer:
            await self._write()

    async def _write(self) -> None:
        conversations = list(self._unsaved_conversations.values())
        rows = sorted(self._unsaved_rows.values(), key=lambda row: row.position)
        try:
            await self._store.save(conversations, rows)
        except StoreError as error:
            if not isinstance(error.__cause__, IntegrityError):
                self._keep_for_later(error)
                return
            # These rows contradict the database and always will; others must not wait for them.
            log.error("Dropped %d messages that do not fit the database: %s", len(rows), error)
        # Only what was written is forgotten: a newer version may have come meanwhile.
        for done in conversations:
            if self._unsaved_conversations.get(done.id) is done:
                del self._unsaved_conversations[done.id]
        for row in rows:
            if self._unsaved_rows.get(row.id) is row:
                del self._unsaved_rows[row.id]
        if self._write_problem is not None:
            log.info("Conversations are saved again.")
            self._write_problem = None

    def _keep_for_later(self, error: StoreError) -> None:
        if self._write_problem is None:
            log.error("%s Answers go on; what is new is lost at the next start.", error)
        self._write_problem = str(error)
        while len(self._unsaved_conversations) > MAX_UNSAVED:
            del self._unsaved_conversations[next(iter(self._unsaved_conversations))]
        while len(self._unsaved_rows) > MAX_UNSAVED:
            del self._unsaved_rows[next(iter(self._unsaved_rows))]

    async def newest(self, tenant: str, *, limit: int, before_ms: int | None = None) -> list[Conversation]:
        """Newest first."""
        rows = {
            row.id: row for row in await self._store.conversations(tenant, limit=limit, before_ms=before_ms)
        }
        for row in self._unsaved_conversations.values():
            mine = row.tenant == tenant and row.deleted_ms is None
            if mine and (before_ms is None or row.updated_ms < before_ms):
                rows[row.id] = row
        return sorted(rows.values(), key=lambda row: -row.updated_ms)[:limit]

    async def count(self, tenant: str) -> int:
        """How many conversations the tenant keeps in the store."""
        return await self._store.count_conversations(tenant)

    async def get(self, tenant: str, conversation_id: str) -> Conversation | None:
        """One conversation of the tenant."""
        unsaved = self._unsaved_conversations.get(conversation_id)
        if unsaved is not None:
            return unsaved if unsaved.tenant == tenant and unsaved.deleted_ms is None else None
        return await self._store.conversation(tenant, conversation_id)

    async def messages(self, conversation_id: str) -> list[StoredMessage]:
        """All messages of a conversation, ancestors before descendants."""
        rows = {row.id: row for row in await self._store.messages(conversation_id)}
        for row in self._unsaved_rows.values():
            if row.conversation_id == conversation_id:
                rows[row.id] = row
        return sorted(rows.values(), key=lambda row: (row.position, row.created_ms))

    async def of_message(self, tenant: str, message_id: str) -> Conversation | None:
        """The tenant's conversation that a message stands in."""
        row = self._unsaved_rows.get(message_id)
        if row is not None:
            return await self.get(tenant, row.conversation_id)
        return await self._store.conversation_of(tenant, message_id)

    async def delete(self, conversation: Conversation) -> None:
        """Hide a conversation."""
        deleted_ms = now_ms()
        if conversation.id in self._unsaved_conversations:
            self._unsaved_conversations[conversation.id] = replace(conversation, deleted_ms=deleted_ms)
        await self._store.set_deleted(conversation.tenant, conversation.id, deleted_ms)

    async def restore(self, tenant: str, conversation_id: str) -> bool:
        """Bring a deleted conversation back; False where there is none any more."""
        unsaved = self._unsaved_conversations.get(conversation_id)
        if unsaved is not None and unsaved.tenant == tenant:
            self._unsaved_conversations[conversation_id] = replace(unsaved, deleted_ms=None)
        return await self._store.set_deleted(tenant, conversation_id, None) or unsaved is not None
