"""Conversations as a document: one after the other, never all in memory."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import orjson

from ridgeline.protocol import Refusal
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.web.answers import Answers
from ridgeline.web.conversations import Conversations, now_ms
from ridgeline.web.temporary import is_temporary

FORMAT = "ridgeline-conversations"
VERSION = 1


async def document(
    conversations: Conversations, answers: Answers, tenant: str, ids: Sequence[str]
) -> AsyncIterator[bytes]:
    """Conversations by their ids, as pieces of one JSON document; those gone meanwhile are left out."""
    head = orjson.dumps({"format": FORMAT, "version": VERSION, "exported_ms": now_ms()})
    yield head[:-1] + b',"conversations":['
    separator = b""
    for name in ids:
        found = await conversations.get(tenant, name)
        if found is not None:
            rows = answers.as_now(await conversations.messages(name))
            yield separator + orjson.dumps(_conversation(found, rows))
            separator = b","
    yield b"]}"


def file_name() -> str:
    """What a browser calls the document."""
    return f"{FORMAT}-{datetime.now(UTC):%Y-%m-%d}.json"


def check_exportable(conversation: Conversation) -> None:
    """Raises: Refusal: for a temporary conversation."""
    if is_temporary(conversation.id):
        raise Refusal("invalid_request", "A temporary conversation is kept nowhere, and not exported either.")


def _conversation(row: Conversation, rows: Sequence[StoredMessage]) -> dict[str, object]:
    return {
        "id": row.id,
        "title": row.title,
        "title_by": row.title_by,
        "model": row.model,
        "pinned": row.pinned,
        "settings": asdict(row.settings),
        "leaf_id": row.leaf_id,
        "created_ms": row.created_ms,
        "updated_ms": row.updated_ms,
        "messages": [_message(message) for message in rows],
    }


def _message(row: StoredMessage) -> dict[str, object]:
    error = {"code": row.error_code, "message": row.error_message or ""} if row.error_code else None
    return {
        "id": row.id,
        "parent_id": row.parent_id,
        "role": row.role,
        "content": row.content,
        # In a document nothing is going on any more.
        "status": "interrupted" if row.status == "streaming" else row.status,
        "model": row.model,
        "finish": row.finish,
        "created_ms": row.created_ms,
        "error": error,
    }
