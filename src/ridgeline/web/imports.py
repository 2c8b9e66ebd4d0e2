"""From a document to conversations: all of it is checked before any of it is stored."""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from ridgeline.api.schemas import Schema
from ridgeline.api.validation import parse, shown
from ridgeline.protocol import Refusal
from ridgeline.store.records import ChatSettings, Conversation, Role, StoredMessage, TitleBy
from ridgeline.web.conversations import Conversations
from ridgeline.web.rules import check_size, storable
from ridgeline.web.schemas import MAX_MS, Id, SettingsBody, title_in
from ridgeline.web.settings import WebSettings

_OUR_ID = re.compile(r"[0-9a-f]{32}")
Time = Annotated[int, Field(ge=0, le=MAX_MS)]
Name = Annotated[str, Field(max_length=255)]


class ErrorBody(Schema):
    """Why an answer failed."""

    code: Annotated[str, Field(max_length=64)]
    message: Annotated[str, Field(max_length=2000)]


class MessageBody(Schema):
    """A message in a document; parents come before their children."""

    id: Annotated[Id, Field(min_length=1)]
    parent_id: Id | None = None
    role: Role
    content: str
    status: Literal["complete", "stopped", "interrupted", "failed"] = "complete"
    model: Name = ""
    finish: Literal["stop", "length"] | None = None
    created_ms: Time
    error: ErrorBody | None = None


class ConversationBody(Schema):
    """A conversation in a document."""

    id: Annotated[Id, Field(min_length=1)]
    title: str
    title_by: TitleBy = "user"
    model: Name = ""
    pinned: bool = False
    settings: SettingsBody | None = None
    leaf_id: Id | None = None
    created_ms: Time
    updated_ms: Time
    messages: list[MessageBody]


class Document(Schema):
    """What `web.export` writes."""

    format: Literal["ridgeline-conversations"]
    version: Literal[1]
    exported_ms: Time | None = None
    conversations: list[ConversationBody]


@dataclass(frozen=True, slots=True)
class Imported:
    """A conversation out of a document, checked, with its messages, parents first."""

    conversation: Conversation
    rows: tuple[StoredMessage, ...]

    def under(self, conversation_id: str) -> "Imported":
        """The same with this id, and with ids of messages that are nobody else's."""
        names = {row.id: _derived(conversation_id, row.id) for row in self.rows}
        rows = tuple(
            replace(
                row,
                id=names[row.id],
                parent_id=None if row.parent_id is None else names[row.parent_id],
                conversation_id=conversation_id,
            )
            for row in self.rows
        )
        leaf_id = self.conversation.leaf_id
        conversation = replace(
            self.conversation, id=conversation_id, leaf_id=None if leaf_id is None else names[leaf_id]
        )
        return Imported(conversation, rows)


def read_document(data: bytes, tenant: str, settings: WebSettings, now_ms: int) -> list[Imported]:
    """Check a whole document. Takes a while for a large one: not for the event loop.

    Raises:
        Refusal: naming the field at fault.
    """
    document = parse(data, Document)
    seen: set[str] = set()
    found = []
    for index, body in enumerate(document.conversations):
        at = f"conversations[{index}]"
        if body.id in seen:
            raise _refusal(f"{at}.id", f"is in the document twice: {shown(body.id)}.")
        seen.add(body.id)
        found.append(read_conversation(body, at, tenant, settings, now_ms))
    return found


def read_conversation(
    body: ConversationBody, at: str, tenant: str, settings: WebSettings, now_ms: int
) -> Imported:
    """Check one conversation, which stands at `at` in what was sent.

    Raises:
        Refusal: naming the field at fault.
    """
    rows = _tree(body, at, now_ms)
    if body.leaf_id is not None and body.leaf_id not in rows:
        raise _refusal(
            f"{at}.leaf_id", f"must be the id of one of its messages, but is {shown(body.leaf_id)}."
        )
    chosen = ChatSettings()
    if body.settings is not None:
        chosen = body.settings.over(chosen, settings, at=f"{at}.settings")
    conversation = Conversation(
        id=body.id,
        tenant=tenant,
        title=title_in(body.title, f"{at}.title"),
        model=storable(body.model),
        created_ms=min(body.created_ms, now_ms),
        updated_ms=min(body.updated_ms, now_ms),
        title_by=body.title_by,
        pinned=body.pinned,
        leaf_id=body.leaf_id,
        settings=chosen,
    )
    try:
        check_size(conversation, tuple(rows.values()), settings, messages=0, characters=0)
    except Refusal as refusal:
        raise Refusal(refusal.code, f"`{at}`: {refusal.message}", param=at) from None
    return Imported(conversation, tuple(rows.values()))


def _tree(body: ConversationBody, at: str, now_ms: int) -> dict[str, StoredMessage]:
    """The messages by id. A parent must come first, so there can be no cycle, and places follow."""
    rows: dict[str, StoredMessage] = {}
    for index, message in enumerate(body.messages):
        place = f"{at}.messages[{index}]"
        if message.id in rows:
            raise _refusal(f"{place}.id", f"is in the conversation twice: {shown(message.id)}.")
        parent = None
        if message.parent_id is not None:
            parent = rows.get(message.parent_id)
            if parent is None:
                raise _refusal(
                    f"{place}.parent_id",
                    f"must be the id of a message before it, but is {shown(message.parent_id)}.",
                )
        answer = message.role == "assistant"
        rows[message.id] = StoredMessage(
            id=message.id,
            conversation_id=body.id,
            parent_id=message.parent_id,
            position=0 if parent is None else parent.position + 1,
            role=message.role,
            content=storable(message.content),
            status=message.status if answer else "complete",
            created_ms=min(message.created_ms, now_ms),
            model=storable(message.model),
            finish=message.finish,
            error_code=storable(message.error.code) if answer and message.error else None,
            error_message=storable(message.error.message) if answer and message.error else None,
        )
    return rows


async def store_imported(
    conversations: Conversations, settings: WebSettings, tenant: str, found: Sequence[Imported]
) -> tuple[list[Conversation], int]:
    """Store what is not there yet, one transaction for each conversation.

    Returns:
        What was stored, and how many were there already.

    Raises:
        Refusal: there would be too many; nothing is stored then.
        StoreError: the database failed on the way; a second import stores the rest.
    """
    names = [name for one in found for name in ids_of(one, tenant)]
    kept, skipped = with_own_ids(found, tenant, await conversations.owners(names))
    limit, there = settings.max_conversations, await conversations.count(tenant)
    if there + len(kept) > limit:
        raise Refusal(
            "limit_reached",
            f"There may be {limit} conversations (--site max-conversations); there are {there}, and "
            f"{len(kept)} would come in.",
        )
    pins = settings.max_pinned - await conversations.count_pinned(tenant)
    stored = []
    for one in kept:
        pinned = one.conversation.pinned and pins > 0
        pins -= pinned
        conversation = replace(one.conversation, pinned=pinned)
        if await conversations.add(conversation, one.rows):
            stored.append(conversation)
        else:
            skipped += 1
    return stored, skipped


def with_own_ids(
    found: Sequence[Imported], tenant: str, owners: dict[str, tuple[str, bool]]
) -> tuple[list[Imported], int]:
    """Leave out what the tenant has already, and give new ids to what others have.

    A new id follows from the tenant and the old one, so that a second import finds the first.

    Args:
        owners: of the ids in `ids_of`, those that are taken: the tenant, and whether it is deleted.

    Returns:
        What is to be stored, and how many were left out.
    """
    kept, skipped = [], 0
    for one in found:
        for name in ids_of(one, tenant):
            owner, deleted = owners.get(name, (None, False))
            if owner is None:
                kept.append(one.under(name))
                break
            if owner == tenant and not deleted:
                skipped += 1
                break
        else:
            kept.append(one.under(uuid.uuid4().hex))
    return kept, skipped


def ids_of(one: Imported, tenant: str) -> tuple[str, ...]:
    """The ids that a conversation may get, the best first."""
    name = one.conversation.id
    own = (name,) if _OUR_ID.fullmatch(name) else ()
    return (*own, _derived(tenant, name))


def _derived(whose: str, name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{whose}\0{name}").hex


def _refusal(param: str, sentence: str) -> Refusal:
    return Refusal("invalid_request", f"`{param}` {sentence}", param=param)
