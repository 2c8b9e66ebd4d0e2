"""The queries. Plain SQL by SQLAlchemy Core, the same for SQLite and PostgreSQL."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ridgeline.store import database as db
from ridgeline.store.errors import SchemaTooNewError, StoreError, explain
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.store.rows import conversation_of, row_of
from ridgeline.store.search import Hit
from ridgeline.store.search_dialects import search_for
from ridgeline.store.tables import conversations, messages

_IDS_AT_ONCE = 500

# A SQLite transaction that first reads and then writes fails at once if another one wrote between;
# one that is a writer from its beginning waits.
_BEGIN = {False: "BEGIN", True: "BEGIN IMMEDIATE"}


class Store:
    """Conversations of all tenants in one database.

    Every method raises `StoreError` where the database cannot be read or written. Nothing is
    connected before `open`, which must run in the event loop that uses the store.
    """

    def __init__(self, database: str | Path) -> None:
        self.database = database
        self.problem: str | None = None
        self._engine: AsyncEngine | None = None

    async def open(self, *, or_memory: bool = False) -> None:
        """Connect, and bring the schema up to date.

        Args:
            or_memory: where the database cannot be opened, keep conversations in memory and say
                so in `problem`. A schema that is too new is an error all the same.
        """
        try:
            self._engine = await db.open_database(self.database)
        except SchemaTooNewError:
            raise
        except StoreError as error:
            if not or_memory:
                raise
            self.problem = f"{error} Until the next start they are kept in memory only."
            self._engine = await db.open_database(db.MEMORY)

    async def close(self) -> None:
        """Disconnect."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    async def save(
        self, changed: Sequence[Conversation] = (), rows: Sequence[StoredMessage] = ()
    ) -> list[str]:
        """Insert or update conversations and messages (parents first) in one transaction.

        Returns:
            Ids of messages that were left as they are: another run has taken them over.
        """
        async with self._transaction(writes=True) as connection:
            for conversation in changed:
                await _upsert(connection, conversations, row_of(conversation))
            return [
                row.id
                for row in rows
                if not await _upsert(connection, messages, row_of(row), _written_by(row.run))
            ]

    async def take_over(self, before: StoredMessage, after: StoredMessage) -> bool:
        """Replace a message for another run; False where it is no longer that of `before`, or gone."""
        change = (
            update(messages)
            .where(messages.c.id == before.id, _written_by(before.run), messages.c.status == before.status)
            .values(**row_of(after))
        )
        async with self._transaction(writes=True) as connection:
            return (await connection.execute(change)).rowcount > 0

    async def add(self, conversation: Conversation, rows: Sequence[StoredMessage]) -> None:
        """Insert a conversation with its messages (parents first), and never touch what is there."""
        async with self._transaction(writes=True) as connection:
            await connection.execute(insert(conversations), row_of(conversation))
            if rows:
                await connection.execute(insert(messages), [row_of(row) for row in rows])

    async def conversations(
        self, tenant: str, *, pinned: bool, limit: int = 100, before_ms: int | None = None
    ) -> list[Conversation]:
        """The tenant's conversations, pinned or not, newest first; `before_ms` continues a page.

        A page has more than `limit` where the next ones are as old as its last one: otherwise
        those would be on no page.
        """
        query = (
            select(conversations)
            .where(*_listed(tenant), conversations.c.pinned.is_(pinned))
            .order_by(conversations.c.updated_ms.desc(), conversations.c.id.desc())
        )
        page = query if before_ms is None else query.where(conversations.c.updated_ms < before_ms)
        async with self._transaction() as connection:
            found = await _conversations(connection, page.limit(limit))
            if len(found) == limit:
                last = found[-1]
                same = query.where(
                    conversations.c.updated_ms == last.updated_ms, conversations.c.id < last.id
                )
                found += await _conversations(connection, same)
        return found

    async def conversation_ids(self, tenant: str) -> list[str]:
        """All of the tenant's conversations by their ids, newest first."""
        query = select(conversations.c.id).where(*_listed(tenant))
        query = query.order_by(conversations.c.updated_ms.desc(), conversations.c.id.desc())
        async with self._transaction() as connection:
            return list((await connection.execute(query)).scalars())

    async def count_conversations(self, tenant: str, *, pinned: bool | None = None) -> int:
        """How many conversations the tenant has, or how many that are pinned or not."""
        query = select(func.count()).select_from(conversations).where(*_listed(tenant))
        if pinned is not None:
            query = query.where(conversations.c.pinned.is_(pinned))
        async with self._transaction() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def owners(self, ids: Sequence[str]) -> dict[str, tuple[str, bool]]:
        """Of those conversations that are there: the tenant, and whether it is deleted."""
        columns = (conversations.c.id, conversations.c.tenant, conversations.c.deleted_ms)
        owners: dict[str, tuple[str, bool]] = {}
        async with self._transaction() as connection:
            for start in range(0, len(ids), _IDS_AT_ONCE):
                some = ids[start : start + _IDS_AT_ONCE]
                found = await connection.execute(select(*columns).where(conversations.c.id.in_(some)))
                owners |= {row.id: (row.tenant, row.deleted_ms is not None) for row in found}
        return owners

    async def conversation(self, tenant: str, conversation_id: str) -> Conversation | None:
        """One conversation, if it is the tenant's and not deleted."""
        query = select(conversations).where(conversations.c.id == conversation_id, *_listed(tenant))
        async with self._transaction() as connection:
            return next(iter(await _conversations(connection, query)), None)

    async def messages(self, conversation_id: str) -> list[StoredMessage]:
        """All messages of a conversation, ancestors before descendants, older before newer."""
        query = (
            select(messages)
            .where(messages.c.conversation_id == conversation_id)
            .order_by(messages.c.position, messages.c.created_ms, messages.c.id)
        )
        async with self._transaction() as connection:
            return [StoredMessage(**row) for row in (await connection.execute(query)).mappings()]

    async def message(self, message_id: str) -> StoredMessage | None:
        """One message, whoever it belongs to."""
        query = select(messages).where(messages.c.id == message_id)
        async with self._transaction() as connection:
            row = (await connection.execute(query)).mappings().first()
            return None if row is None else StoredMessage(**row)

    async def conversation_of(self, tenant: str, message_id: str) -> Conversation | None:
        """The conversation that a message stands in, if it is the tenant's and not deleted."""
        query = (
            select(conversations)
            .join(messages, messages.c.conversation_id == conversations.c.id)
            .where(messages.c.id == message_id, *_listed(tenant))
        )
        async with self._transaction() as connection:
            return next(iter(await _conversations(connection, query)), None)

    async def search(self, tenant: str, wanted: str, *, limit: int) -> tuple[list[Hit], bool]:
        """The tenant's conversations with a text in title or messages; see `TextSearch.find`."""
        async with self._transaction() as connection:
            return await search_for(connection.dialect).find(connection, tenant, wanted, limit)

    async def set_deleted(self, tenant: str, conversation_id: str, deleted_ms: int | None) -> bool:
        """Hide a conversation, or with None bring it back; False where there is none."""
        change = (
            update(conversations)
            .where(conversations.c.id == conversation_id, conversations.c.tenant == tenant)
            .values(deleted_ms=deleted_ms)
        )
        async with self._transaction(writes=True) as connection:
            return (await connection.execute(change)).rowcount > 0

    async def hide_all(self, tenant: str, deleted_ms: int) -> int:
        """Hide all conversations of a tenant; how many."""
        change = update(conversations).where(*_listed(tenant)).values(deleted_ms=deleted_ms)
        async with self._transaction(writes=True) as connection:
            return (await connection.execute(change)).rowcount

    async def purge_deleted(self, until_ms: int) -> int:
        """Erase conversations hidden at or before a time, with their messages; how many."""
        change = delete(conversations).where(conversations.c.deleted_ms <= until_ms)
        async with self._transaction(writes=True) as connection:
            return (await connection.execute(change)).rowcount

    async def interrupt_streaming(self, now_ms: int) -> int:
        """Mark answers that a stopped server left unfinished; how many there were."""
        change = (
            update(messages)
            .where(messages.c.status == "streaming")
            .values(status="interrupted", error_code="server_stopped", finished_ms=now_ms)
        )
        async with self._transaction(writes=True) as connection:
            return (await connection.execute(change)).rowcount

    @asynccontextmanager
    async def _transaction(self, *, writes: bool = False) -> AsyncIterator[AsyncConnection]:
        if self._engine is None:
            raise StoreError("The database is not open.")
        try:
            async with self._engine.connect() as connection:
                await connection.execution_options(sqlite_begin=_BEGIN[writes])
                async with connection.begin():
                    yield connection
        except (SQLAlchemyError, OSError) as error:
            raise explain(self.database, error) from error


def _listed(tenant: str) -> tuple[ColumnElement[bool], ...]:
    return conversations.c.tenant == tenant, conversations.c.deleted_ms.is_(None)


async def _conversations(connection: AsyncConnection, query: Select[Any]) -> list[Conversation]:
    return [conversation_of(row) for row in (await connection.execute(query)).mappings()]


def _written_by(run: str | None) -> ColumnElement[bool]:
    return messages.c.run.is_(None) if run is None else messages.c.run == run


async def _upsert(
    connection: AsyncConnection, table: Table, values: dict[str, Any], *only: ColumnElement[bool]
) -> bool:
    """False, and nothing is changed, where the row is there and not `only` what may be updated."""
    mine = table.c.id == values["id"]
    changed = await connection.execute(update(table).where(mine, *only).values(**values))
    if changed.rowcount == 0:
        if only and (await connection.execute(select(table.c.id).where(mine))).first() is not None:
            return False
        await connection.execute(insert(table).values(**values))
    return True
