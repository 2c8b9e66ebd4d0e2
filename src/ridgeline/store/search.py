"""Searching titles and texts: what every database can do. What one can do better is beside it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ridgeline.store.folding import find_folded
from ridgeline.store.records import Conversation
from ridgeline.store.rows import conversation_of
from ridgeline.store.tables import conversations, messages

MAX_CANDIDATES = 2000
"""So many messages that may have the text in them are compared; then there may be more."""

MAX_SCANNED = 25_000
"""So many of the newest messages are looked at where no index can be asked; then there may be more."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Where something was found: `text` has `start` to `end`; no message means in the title."""

    conversation: Conversation
    message_id: str | None
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A message that may have the text in it."""

    conversation_id: str
    message_id: str
    text: str


def _newest(tenant: str) -> Select[Any]:
    return (
        select(messages.c.conversation_id, messages.c.id, messages.c.content)
        .join(conversations, conversations.c.id == messages.c.conversation_id)
        .where(conversations.c.tenant == tenant, conversations.c.deleted_ms.is_(None))
        .order_by(conversations.c.updated_ms.desc(), conversations.c.id.desc(), messages.c.position.desc())
    )


class TextSearch:
    """Looks at every title and text of a tenant; a subclass for a database may know better ways."""

    def matches(self, column: ColumnElement[Any], wanted: str) -> ColumnElement[bool]:
        """The condition that a column has a text in it, case aside."""
        return column.icontains(wanted, autoescape=True)

    async def candidates(
        self, connection: AsyncConnection, tenant: str, wanted: str
    ) -> AsyncGenerator[Candidate, None]:
        """Messages that may have the text in them, those of the newest conversations first."""
        newest = _newest(tenant).limit(MAX_SCANNED).subquery()
        async with connection.stream(select(newest).where(self.matches(newest.c.content, wanted))) as rows:
            async for row in rows:
                yield Candidate(*row)

    async def is_exhaustive(self, connection: AsyncConnection, tenant: str, wanted: str) -> bool:
        """Whether `candidates` leaves no message out."""
        beyond = _newest(tenant).with_only_columns(messages.c.id).offset(MAX_SCANNED).limit(1)
        return (await connection.execute(beyond)).first() is None

    def is_ready(self, connection: Connection) -> bool:
        """Whether what the search needs in the database is there and up to date."""
        return True

    def prepare(self, connection: Connection) -> None:
        """Bring what the search needs up to date, in the transaction that is open."""

    async def find(
        self, connection: AsyncConnection, tenant: str, wanted: str, limit: int
    ) -> tuple[list[Hit], bool]:
        """Each conversation at most once: those found by title first, then by text, newest first.

        Returns:
            The hits, and whether there may be more.
        """
        hits: dict[str, Hit] = {}
        for row in (await connection.execute(self._titles(tenant, wanted, limit))).mappings():
            found = conversation_of(row)
            if place := find_folded(found.title, wanted):
                hits[found.id] = Hit(found, None, found.title, *place)
        if len(hits) > limit:
            return list(hits.values())[:limit], True
        found_in, more = await self._in_texts(connection, tenant, wanted, set(hits), limit - len(hits))
        query = select(conversations).where(conversations.c.id.in_(found_in))
        named = {row["id"]: conversation_of(row) for row in (await connection.execute(query)).mappings()}
        for name, (candidate, place) in found_in.items():
            hits[name] = Hit(named[name], candidate.message_id, candidate.text, *place)
        return list(hits.values()), more

    async def _in_texts(
        self, connection: AsyncConnection, tenant: str, wanted: str, known: set[str], limit: int
    ) -> tuple[dict[str, tuple[Candidate, tuple[int, int]]], bool]:
        """The first match of each conversation that is not `known`, and whether there may be more."""
        found: dict[str, tuple[Candidate, tuple[int, int]]] = {}
        async with aclosing(self.candidates(connection, tenant, wanted)) as candidates:
            looked_at = 0
            async for candidate in candidates:
                looked_at += 1
                if looked_at > MAX_CANDIDATES:
                    return found, True
                name = candidate.conversation_id
                if name in known or name in found:
                    continue
                if place := find_folded(candidate.text, wanted):
                    if len(found) == limit:
                        return found, True
                    found[name] = candidate, place
        return found, not await self.is_exhaustive(connection, tenant, wanted)

    def _titles(self, tenant: str, wanted: str, limit: int) -> Select[Any]:
        return (
            select(conversations)
            .where(
                conversations.c.tenant == tenant,
                conversations.c.deleted_ms.is_(None),
                self.matches(conversations.c.title, wanted),
            )
            .order_by(conversations.c.updated_ms.desc(), conversations.c.id.desc())
            .limit(limit + 1)
        )
