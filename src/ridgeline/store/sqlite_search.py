"""Search in SQLite: a full-text index of trigrams, kept current by triggers.

The index says which messages have all trigrams of a text, hence may have the text itself; it holds
neither texts nor places in them. Its row ids are times, so that the newest come first without
sorting, and each message is indexed with its tenant before it, so that other tenants' messages are
not even candidates. An answer is indexed once it is no longer being written.
"""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ridgeline.store.search import Candidate, TextSearch

_TRIGRAM = 3
_MAX_TRIGRAMS = 48
"""So many of a long text are looked for; the text itself is compared afterwards."""

_IDS_PER_MS = 2**20
_INDEXED = "{row}.status <> 'streaming' AND {row}.content <> ''"
_ENTRY = "char(2, 2) || ids.tenant || char(3, 3) || "

_ADD = f"""
    INSERT INTO message_search_ids (id, message_id, tenant)
    SELECT COALESCE(
        (SELECT id + 1 FROM message_search_ids
         WHERE id >= NEW.created_ms * {_IDS_PER_MS} AND id < (NEW.created_ms + 1) * {_IDS_PER_MS}
         ORDER BY id DESC LIMIT 1),
        NEW.created_ms * {_IDS_PER_MS}
    ), NEW.id, tenant
    FROM conversations WHERE id = NEW.conversation_id AND {_INDEXED.format(row="NEW")};
    INSERT INTO message_search (rowid, content)
    SELECT ids.id, {_ENTRY} NEW.content FROM message_search_ids AS ids
    WHERE ids.message_id = NEW.id;
"""
_REMOVE = f"""
    INSERT INTO message_search (message_search, rowid, content)
    SELECT 'delete', ids.id, {_ENTRY} OLD.content FROM message_search_ids AS ids
    WHERE ids.message_id = OLD.id;
    DELETE FROM message_search_ids WHERE message_id = OLD.id;
"""
_TRIGGERS = {
    "message_search_inserted": f"AFTER INSERT ON messages BEGIN {_ADD} END",
    "message_search_updated": f"""AFTER UPDATE OF content, status ON messages
        WHEN OLD.content <> NEW.content OR (OLD.status = 'streaming') <> (NEW.status = 'streaming')
        BEGIN {_REMOVE} {_ADD} END""",
    "message_search_deleted": f"AFTER DELETE ON messages BEGIN {_REMOVE} END",
}
_TABLES = (
    "DROP TABLE IF EXISTS message_search",
    "DROP TABLE IF EXISTS message_search_ids",
    "CREATE TABLE message_search_ids "
    "(id INTEGER PRIMARY KEY, message_id VARCHAR(32) NOT NULL UNIQUE, tenant VARCHAR(255) NOT NULL)",
    "CREATE VIRTUAL TABLE message_search "
    "USING fts5 (content, content='', columnsize=0, detail='none', tokenize='trigram')",
)
_FILL = (
    f"""INSERT INTO message_search_ids (id, message_id, tenant)
    SELECT messages.created_ms * {_IDS_PER_MS} - 1
        + row_number() OVER (PARTITION BY messages.created_ms ORDER BY messages.position, messages.id),
        messages.id, conversations.tenant
    FROM messages JOIN conversations ON conversations.id = messages.conversation_id
    WHERE {_INDEXED.format(row="messages")}""",
    f"""INSERT INTO message_search (rowid, content)
    SELECT ids.id, {_ENTRY} messages.content
    FROM message_search_ids AS ids JOIN messages ON messages.id = ids.message_id ORDER BY ids.id""",
)
# CROSS JOIN keeps SQLite from choosing another order than that of the index.
_CANDIDATES = text(
    """SELECT messages.conversation_id, messages.id, messages.content
    FROM message_search
    CROSS JOIN message_search_ids AS ids ON ids.id = message_search.rowid
    CROSS JOIN messages ON messages.id = ids.message_id
    CROSS JOIN conversations ON conversations.id = messages.conversation_id
    WHERE message_search MATCH :expression AND ids.tenant = :tenant AND conversations.deleted_ms IS NULL
    ORDER BY message_search.rowid DESC"""
)


class SqliteSearch(TextSearch):
    """By the index where this SQLite can keep one (from 3.34 on, with FTS5), else by looking at all."""

    def matches(self, column: ColumnElement[Any], wanted: str) -> ColumnElement[bool]:
        """The condition that a column has a text in it, case aside.

        SQLite's own LIKE knows only the case of ASCII letters; a function of ours knows all.
        """
        return func.contains_folded(column, wanted.casefold()) == 1

    async def candidates(
        self, connection: AsyncConnection, tenant: str, wanted: str
    ) -> AsyncGenerator[Candidate, None]:
        """Messages that may have the text in them, the newest first."""
        if len(wanted) < _TRIGRAM or not await connection.run_sync(_has_index):
            async with aclosing(super().candidates(connection, tenant, wanted)) as candidates:
                async for candidate in candidates:
                    yield candidate
            return
        parameters = {"expression": expression_for(tenant, wanted), "tenant": tenant}
        async with connection.stream(_CANDIDATES, parameters) as rows:
            async for row in rows:
                yield Candidate(*row)

    async def is_exhaustive(self, connection: AsyncConnection, tenant: str, wanted: str) -> bool:
        """Whether `candidates` leaves no message out; the index has them all."""
        if len(wanted) >= _TRIGRAM and await connection.run_sync(_has_index):
            return True
        return await super().is_exhaustive(connection, tenant, wanted)

    def is_ready(self, connection: Connection) -> bool:
        """Whether there is an index exactly where there can be one."""
        return _has_index(connection) == _is_supported(connection)

    def prepare(self, connection: Connection) -> None:
        """Make the index and fill it.

        Where this SQLite knows no such index, its triggers go: they would let every write fail.
        """
        for name in _TRIGGERS:
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
        if not _is_supported(connection):
            return
        for statement in (*_TABLES, *_FILL):
            connection.exec_driver_sql(statement)
        for name, body in _TRIGGERS.items():
            connection.exec_driver_sql(f"CREATE TRIGGER {name} {body}")


def expression_for(tenant: str, wanted: str) -> str:
    """The full-text query for messages of a tenant that have all trigrams of a text.

    Each is a string in quotation marks, in which FTS5 knows no operators.
    """
    grams = [*_trigrams(f"\2\2{tenant}\3\3"), *_trigrams(wanted)]
    return " AND ".join('"' + gram.replace('"', '""') + '"' for gram in dict.fromkeys(grams))


def _trigrams(whole: str) -> list[str]:
    grams = [whole[at : at + _TRIGRAM] for at in range(len(whole) - _TRIGRAM + 1)]
    return grams[:: -(-len(grams) // _MAX_TRIGRAMS)]


def _has_index(connection: Connection) -> bool:
    names = ", ".join(f"'{name}'" for name in _TRIGGERS)
    there = connection.exec_driver_sql(
        f"SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name IN ({names})"
    )
    return bool(there.scalar() == len(_TRIGGERS))


def _is_supported(connection: Connection) -> bool:
    if sqlite3.sqlite_version_info < (3, 34):
        return False
    modules = connection.exec_driver_sql("SELECT count(*) FROM pragma_module_list WHERE name = 'fts5'")
    return bool(modules.scalar())
