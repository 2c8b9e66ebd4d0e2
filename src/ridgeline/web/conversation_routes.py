"""The routes about conversations: list, search, open, change, title, delete, restore."""

from dataclasses import replace

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ridgeline.api.validation import read_json
from ridgeline.protocol import Refusal
from ridgeline.store.records import StoredMessage
from ridgeline.web.changes import change
from ridgeline.web.context import shown_path
from ridgeline.web.http import Tenant, existing, json_response, query_integer, site_of
from ridgeline.web.rules import NotFoundError
from ridgeline.web.schemas import MAX_MS, ConversationChange
from ridgeline.web.temporary import is_temporary
from ridgeline.web.wire import conversation_json, hit_json, message_json

router = APIRouter()
_PAGE_SIZE = 100
_QUERY_CHARACTERS = 200
_HITS = 20
_MAX_HITS = 50


@router.get("/conversations")
async def conversations(http: Request, tenant: Tenant) -> Response:
    """The tenant's conversations, newest first, a page at a time; the first one has the pinned ones."""
    site = site_of(http)
    before_ms = query_integer(http, "before_ms", low=0, high=MAX_MS)
    pinned = []
    if before_ms is None:
        pinned = await site.conversations.newest(tenant, limit=site.settings.max_pinned, pinned=True)
    rows = await site.conversations.newest(tenant, limit=_PAGE_SIZE, before_ms=before_ms)
    return json_response(
        {
            "pinned": [conversation_json(row) for row in pinned],
            "conversations": [conversation_json(row) for row in rows],
            "more": len(rows) >= _PAGE_SIZE,
        }
    )


@router.get("/search")
async def search(http: Request, tenant: Tenant) -> Response:
    """Conversations with a text in their title or messages."""
    limit = query_integer(http, "limit", low=1, high=_MAX_HITS) or _HITS
    wanted = http.query_params.get("q", "").replace("\0", " ").strip()
    if len(wanted) > _QUERY_CHARACTERS:
        raise Refusal(
            "invalid_request",
            f"`q` may have at most {_QUERY_CHARACTERS} characters, but has {len(wanted)}.",
            param="q",
        )
    if not wanted:
        return json_response({"results": [], "more": False})
    site = site_of(http)
    async with site.searches.take(tenant):
        hits, more = await site.conversations.search(tenant, wanted, limit=limit)
    return json_response({"results": [hit_json(hit) for hit in hits], "more": more})


@router.get("/conversations/count")
async def count(http: Request, tenant: Tenant) -> Response:
    """How many there are to lose, before all are deleted."""
    found = site_of(http).conversations
    return json_response(
        {"conversations": await found.count(tenant), "pinned": await found.count_pinned(tenant)}
    )


@router.delete("/conversations")
async def delete_all(http: Request, tenant: Tenant) -> Response:
    """Delete all conversations, and erase them; temporary ones go by themselves."""
    site = site_of(http)
    await site.answers.stop_all(tenant)
    deleted = await site.conversations.delete_all(tenant)
    site.purge_later()
    return json_response({"deleted": deleted})


@router.get("/conversations/{conversation_id}")
async def conversation(http: Request, tenant: Tenant, conversation_id: str) -> Response:
    """A conversation with the whole tree of its messages; one being written is as it stands now."""
    site = site_of(http)
    found = await existing(http, tenant, conversation_id)
    rows = await site.conversations.messages(found.id)
    shown = shown_path(found, rows)
    messages = [
        message_json(row) if isinstance(row, StoredMessage) else row for row in site.answers.with_live(rows)
    ]
    leaf_id = shown[-1].id if shown else None
    return json_response(
        {"conversation": conversation_json(replace(found, leaf_id=leaf_id)), "messages": messages}
    )


@router.patch("/conversations/{conversation_id}")
async def patch(http: Request, tenant: Tenant, conversation_id: str) -> Response:
    """Rename a conversation, pin it, change its settings or the branch that it shows."""
    site = site_of(http)
    wanted = await read_json(http, ConversationChange)
    found = await existing(http, tenant, conversation_id)
    changed = await change(site.conversations, site.settings, found, wanted)
    return json_response({"conversation": conversation_json(changed)})


@router.get("/conversations/{conversation_id}/title")
async def title(http: Request, tenant: Tenant, conversation_id: str) -> Response:
    """The conversation; with `wait` as soon as its title is not being made any more."""
    found = await existing(http, tenant, conversation_id)
    if http.query_params.get("wait") == "true":
        await site_of(http).titles.wait(found.id)
        found = await existing(http, tenant, conversation_id)
    return json_response({"conversation": conversation_json(found)})


@router.delete("/conversations/{conversation_id}")
async def delete(http: Request, tenant: Tenant, conversation_id: str) -> Response:
    """Hide a conversation, and erase it when it can no longer be brought back; temporary ones at once."""
    site = site_of(http)
    found = await existing(http, tenant, conversation_id)
    await site.answers.stop_conversation(found.id)
    await site.conversations.delete(found)
    if not is_temporary(found.id):
        site.purge_later()
    return json_response({"deleted": True})


@router.post("/conversations/{conversation_id}/restore")
async def restore(http: Request, tenant: Tenant, conversation_id: str) -> Response:
    """Bring a deleted conversation back."""
    if not await site_of(http).conversations.restore(tenant, conversation_id):
        raise NotFoundError("conversation", "conversation_id")
    return json_response({"deleted": False})
