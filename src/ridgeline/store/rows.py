"""Between records and rows: a conversation's settings are columns of its row."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ridgeline.store.records import ChatSettings, Conversation, StoredMessage

_SETTINGS = tuple(field.name for field in fields(ChatSettings))
_MESSAGE = tuple(field.name for field in fields(StoredMessage))
_CONVERSATION = tuple(field.name for field in fields(Conversation) if field.name != "settings")


def row_of(record: Conversation | StoredMessage) -> dict[str, Any]:
    """The columns of a record."""
    if isinstance(record, StoredMessage):
        return {name: getattr(record, name) for name in _MESSAGE}
    row = {name: getattr(record, name) for name in _CONVERSATION}
    return row | {name: getattr(record.settings, name) for name in _SETTINGS}


def conversation_of(row: Mapping[Any, Any]) -> Conversation:
    """The conversation in a row of its table."""
    columns = dict(row)
    settings = ChatSettings(**{name: columns.pop(name) for name in _SETTINGS})
    return Conversation(settings=settings, **columns)
