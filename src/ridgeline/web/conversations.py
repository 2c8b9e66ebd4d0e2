"""Conversations as the page sees them: the store, what it could not take, and temporary ones."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy.exc import IntegrityError

from ridgeline.store.errors import StoreError
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.store.search import Hit
from ridgeline.store.store import Store
from ridgeline.web.rules import NotFoundError
from ridgeline.web.temporary import TemporaryConversations, is_temporary

log = logging.getLogger("ridgeline.web")

MAX_UNSAVED = 1000


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Conversations:
    """Reads and writes conversations, and goes on in memory while the disk is full.

    Rows that could not be written are kept (at most `MAX_UNSAVED`) and are written with the next
    ones. `problem` is the sentence to show for as long as something is not saved. What belongs to
    a temporary conversation stays in `temporary` and never reaches the store.

    Attributes:
        on_taken_over: told the id of a message that another run writes now, at another server.
    """

    def __init__(self, store: Store, temporary: TemporaryConversations) -> None:
        self.temporary = temporary
        self.on_taken_over: Callable[[str], None] = lambda _: None
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
        """Write, together with what earlier failed. Never raises `StoreError`: see `problem`.

        For conversations that are new, and for messages; see `change` for one that is there.
        """
        if conversation is not None and is_temporary(conversation.id):
            self.temporary.put(conversation)
        elif conversation is not None:
            self._unsaved_conversations[conversation.id] = conversation
        self._note(rows)
        async with self._one_writer:
            await self._write()

    async def add(self, conversation: Conversation, rows: Sequence[StoredMessage]) -> bool:
        """Store a whole conversation; False where one of that id has come in meanwhile.

        Raises:
            StoreError: it cannot be stored; it is not kept for later either.
        """
        async with self._one_writer:
            try:
                await self._store.add(conversation, rows)
            except StoreError as error:
                if isinstance(error.__cause__, IntegrityError):
                    return False
                raise
            return True

    async def change(
        self,
        tenant: str,
        conversation_id: str,
        change: Callable[[Conversation], Conversation],
        rows: Sequence[StoredMessage] = (),
    ) -> Conversation | None:
        """Change a conversation as it stands now, and write it with messages of it.

        Changes come one after the other, so that none undoes another.

        Returns:
            The conversation as it then is; None if it is no longer there, and `rows` go with it.
        """
        self._note(rows)
        async with self._one_writer:
            found = await self.get(tenant, conversation_id)
            if found is None:
                for row in rows:
                    self._unsaved_rows.pop(row.id, None)
                return None
            changed = change(found)
            if is_temporary(conversation_id):
                self.temporary.put(changed)
            else:
                self._unsaved_conversations[conversation_id] = changed
                await self._write()
            return changed

    async def take_over(self, before: StoredMessage, after: StoredMessage) -> StoredMessage | None:
        """Write a message for another run than the one before.

        Returns:
            The message as it is to be gone on with; None if it has meanwhile become another.
        """
        async with self._one_writer:
            await self._write()
            if is_temporary(before.conversation_id):
                self.temporary.put_rows([after])
                return after
            if self._write_problem is None:
                try:
                    return after if await self._store.take_over(before, after) else None
                except StoreError as error:
                    self._keep_for_later(error)
            # What the database cannot be told is nobody else's; it knows the run before.
            after = replace(after, run=before.run)
            self._unsaved_rows[after.id] = after
            return after

    def _note(self, rows: Sequence[StoredMessage]) -> None:
        """Take messages over, before anything is awaited: an answer may end and save itself first."""
        self.temporary.put_rows(rows)
        self._unsaved_rows.update((row.id, row) for row in rows if not is_temporary(row.conversation_id))

    async def _write(self) -> None:
        conversations = list(self._unsaved_conversations.values())
        rows = sorted(self._unsaved_rows.values(), key=lambda row: row.position)
        if not conversations and not rows:
            return
        try:
            lost = await self._store.save(conversations, rows)
        except StoreError as error:
            if not isinstance(error.__cause__, IntegrityError):
                self._keep_for_later(error)
                return
            await self._write_apart(conversations, rows)
        else:
            self._written(conversations, rows, lost)
        if self._write_problem is not None:
            log.info("Conversations are saved again.")
            self._write_problem = None

    async def _write_apart(
        self, conversations: Sequence[Conversation], rows: Sequence[StoredMessage]
    ) -> None:
        """Write each conversation by itself; what contradicts the database always will, and is dropped."""
        names = {row.id for row in conversations} | {row.conversation_id for row in rows}
        for name in names:
            mine = [row for row in conversations if row.id == name]
            its_rows = [row for row in rows if row.conversation_id == name]
            lost: Sequence[str] = ()
            try:
                lost = await self._store.save(mine, its_rows)
            except StoreError as error:
                if not isinstance(error.__cause__, IntegrityError):
                    continue
                log.error("Dropped %d messages that do not fit the database.", len(its_rows))
            self._written(mine, its_rows, lost)

    def _written(
        self, conversations: Sequence[Conversation], rows: Sequence[StoredMessage], lost: Sequence[str]
    ) -> None:
        # Only what was written is forgotten: a newer version may have come meanwhile.
        for done in conversations:
            if self._unsaved_conversations.get(done.id) is done:
                del self._unsaved_conversations[done.id]
        for row in rows:
            if self._unsaved_rows.get(row.id) is row:
                del self._unsaved_rows[row.id]
        for name in lost:
            self.on_taken_over(name)

    def _keep_for_later(self, error: StoreError) -> None:
        if self._write_problem is None:
            log.error("%s Answers go on; what is new is lost at the next start.", error)
        self._write_problem = str(error)
        while len(self._unsaved_conversations) > MAX_UNSAVED:
            del self._unsaved_conversations[next(iter(self._unsaved_conversations))]
        while len(self._unsaved_rows) > MAX_UNSAVED:
            del self._unsaved_rows[next(iter(self._unsaved_rows))]

    async def newest(
        self, tenant: str, *, limit: int, before_ms: int | None = None, pinned: bool = False
    ) -> list[Conversation]:
        """Newest first; more than `limit` only where they are as old as the last of these."""
        stored = await self._store.conversations(tenant, pinned=pinned, limit=limit, before_ms=before_ms)
        rows = [row for row in stored if row.id not in self._unsaved_conversations]
        from_ms = stored[-1].updated_ms if len(stored) >= limit else 0
        rows += [
            row
            for row in self._unsaved_conversations.values()
            if row.tenant == tenant and row.deleted_ms is None and row.pinned == pinned
            if from_ms <= row.updated_ms and (before_ms is None or row.updated_ms < before_ms)
        ]
        return sorted(rows, key=lambda row: -row.updated_ms)

    async def ids(self, tenant: str) -> list[str]:
        """All of the tenant's stored conversations by their ids, newest first."""
        return await self._store.conversation_ids(tenant)

    async def owners(self, ids: Sequence[str]) -> dict[str, tuple[str, bool]]:
        """Of those ids that are taken: the tenant, and whether the conversation is deleted."""
        unsaved = self._unsaved_conversations
        mine = {name: unsaved[name] for name in ids if name in unsaved}
        return await self._store.owners(ids) | {
            name: (row.tenant, row.deleted_ms is not None) for name, row in mine.items()
        }

    async def search(self, tenant: str, wanted: str, *, limit: int) -> tuple[list[Hit], bool]:
        """Where a text stands in titles and messages, and whether there may be more."""
        return await self._store.search(tenant, wanted, limit=limit)

    async def count(self, tenant: str) -> int:
        """How many conversations the tenant keeps in the store."""
        return await self._store.count_conversations(tenant)

    async def count_pinned(self, tenant: str) -> int:
        """How many of them are pinned."""
        return await self._store.count_conversations(tenant, pinned=True)

    async def get(self, tenant: str, conversation_id: str) -> Conversation | None:
        """One conversation of the tenant."""
        if is_temporary(conversation_id):
            return self.temporary.get(tenant, conversation_id)
        unsaved = self._unsaved_conversations.get(conversation_id)
        if unsaved is not None:
            return unsaved if unsaved.tenant == tenant and unsaved.deleted_ms is None else None
        return await self._store.conversation(tenant, conversation_id)

    async def existing(self, tenant: str, conversation_id: str) -> Conversation:
        """The same.

        Raises:
            NotFoundError: there is none by that id.
        """
        found = await self.get(tenant, conversation_id)
        if found is None:
            raise NotFoundError("conversation", "conversation_id")
        return found

    async def messages(self, conversation_id: str) -> list[StoredMessage]:
        """All messages of a conversation, ancestors before descendants."""
        if is_temporary(conversation_id):
            found = self.temporary.messages(conversation_id)
        else:
            rows = {row.id: row for row in await self._store.messages(conversation_id)}
            for row in self._unsaved_rows.values():
                if row.conversation_id == conversation_id:
                    rows[row.id] = row
            found = list(rows.values())
        return sorted(found, key=lambda row: (row.position, row.created_ms))

    async def message(self, conversation_id: str, message_id: str) -> StoredMessage | None:
        """One message of a conversation as it was last saved."""
        if is_temporary(conversation_id):
            rows = self.temporary.messages(conversation_id)
            return next((row for row in rows if row.id == message_id), None)
        return self._unsaved_rows.get(message_id) or await self._store.message(message_id)

    async def of_message(self, tenant: str, message_id: str) -> Conversation | None:
        """The tenant's conversation that a message stands in."""
        if (temporary := self.temporary.of_message(tenant, message_id)) is not None:
            return temporary
        row = self._unsaved_rows.get(message_id)
        if row is not None:
            return await self.get(tenant, row.conversation_id)
        return await self._store.conversation_of(tenant, message_id)

    async def delete(self, conversation: Conversation) -> None:
        """Hide a conversation; a temporary one is gone."""
        if is_temporary(conversation.id):
            self.temporary.drop(conversation.id)
        else:
            deleted_ms = now_ms()
            await self.change(
                conversation.tenant, conversation.id, lambda found: replace(found, deleted_ms=deleted_ms)
            )

    async def delete_all(self, tenant: str) -> int:
        """Hide all of a tenant's conversations but the temporary ones; how many.

        Raises:
            StoreError: the database failed; all are still there.
        """
        deleted_ms = now_ms()
        async with self._one_writer:
            await self._write()
            hidden = await self._store.hide_all(tenant, deleted_ms)
            for name, row in self._unsaved_conversations.items():
                if row.tenant == tenant and row.deleted_ms is None:
                    self._unsaved_conversations[name] = replace(row, deleted_ms=deleted_ms)
                    hidden += 1
            return hidden

    async def restore(self, tenant: str, conversation_id: str) -> bool:
        """Bring a deleted conversation back; False where there is none any more."""
        async with self._one_writer:
            unsaved = self._unsaved_conversations.get(conversation_id)
            if unsaved is None:
                return await self._store.set_deleted(tenant, conversation_id, None)
            if unsaved.tenant != tenant:
                return False
            self._unsaved_conversations[conversation_id] = replace(unsaved, deleted_ms=None)
            await self._write()
            return True
