"""The routes that the page calls, below `/web`."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from ridgeline.api.auth import authenticate
from ridgeline.api.validation import read_json
from ridgeline.protocol import Refusal
from ridgeline.store.records import StoredMessage
from ridgeline.web.answers import NotFoundError
from ridgeline.web.context import newest_path
from ridgeline.web.events import EventResponse, finished
from ridgeline.web.site import Site
from ridgeline.web.wire import conversation_json, message_json, models_json

router = APIRouter(prefix="/web")
Tenant = Annotated[str, Depends(authenticate)]
_PAGE_SIZE = 100


class NewMessage(BaseModel):
    """A message to be answered."""

    content: Annotated[str, Field(min_length=1)]
    conversation_id: str | None = None
    model: str | None = None


@router.get("/session")
async def session(http: Request, tenant: Tenant) -> Response:
    """What the page needs to know once."""
    site = _site(http)
    return _json(
        {
            "tenant": tenant,
            "models": models_json(site.backend.models()),
            "max_message_characters": site.settings.max_message_characters,
            "undo_seconds": site.settings.undo_seconds,
            "problem": site.conversations.problem,
        }
    )


@router.get("/conversations")
async def conversations(http: Request, tenant: Tenant, before_ms: int | None = None) -> Response:
    """The tenant's conversations, newest first, a page at a time."""
    rows = await _site(http).conversations.newest(tenant, limit=_PAGE_SIZE, before_ms=before_ms)
    return _json({"conversations": [conversation_json(row) for row in rows], "more": len(rows) == _PAGE_SIZE})


@router.get("/conversations/{conversation_id}")
async def conversation(http: Request, tenant: Tenant, conversation_id: str) -> Response:
    """A conversation with its messages; one being written is as it stands now."""
    site = _site(http)
    found = await site.conversations.get(tenant, conversation_id)
    if found is None:
        raise NotFoundError("conversation", "conversation_id")
    path = newest_path(await site.conversations.messages(found.id))
    shown = [
        message_json(row) if isinstance(row, StoredMessage) else row for row in site.answers.with_live(path)
    ]
    return _json({"conversation": conversation_json(found), "messages": shown})


@router.delete("/conversations/{conversation_id}")
async def delete(http: Request, tenant: Tenant, conversation_id: str) -> Response:
    """Hide a conversation, and erase it when it can no longer be brought back."""
    site = _site(http)
    found = await site.conversations.get(tenant, conversation_id)
    if found is None:
        raise NotFoundError("conversation", "conversation_id")
    await site.answers.stop_conversation(found.id)
    await site.conversations.delete(found)
    site.purge_later()
    return _json({"deleted": True})


@router.post("/conversations/{conversation_id}/restore")
async def restore(http: Request, tenant: Tenant, conversation_id: str) -> Response:
    """Bring a deleted conversation back."""
    if not await _site(http).conversations.restore(tenant, conversation_id):
        raise NotFoundError("conversation", "conversation_id")
    return _json({"deleted": False})


@router.post("/messages")
async def ask(http: Request, tenant: Tenant) -> Response:
    """Store a message and begin its answer, which `/web/answers/{id}/events` tells."""
    body = await read_json(http, NewMessage)
    if not body.content.strip():
        raise Refusal("invalid_request", "`content` must be more than white space.", param="content")
    found, question, job = await _site(http).answers.ask(
        tenant, body.conversation_id, body.content, body.model
    )
    return _json(
        {
            "conversation": conversation_json(found),
            "question": message_json(question),
            "answer": job.as_json(),
        }
    )


@router.post("/answers/{message_id}/continue")
async def go_on(http: Request, tenant: Tenant, message_id: str) -> Response:
    """Go on with an answer that was stopped, interrupted, cut off or has failed."""
    job = await _site(http).answers.go_on(tenant, message_id)
    return _json({"answer": job.as_json()})


@router.post("/answers/{message_id}/stop")
async def stop(http: Request, tenant: Tenant, message_id: str) -> Response:
    """End an answer and keep its text."""
    return _json({"answer": await _site(http).answers.stop(tenant, message_id)})


@router.get("/answers/{message_id}/events")
async def events(http: Request, tenant: Tenant, message_id: str) -> Response:
    """The answer as server-sent events, from `Last-Event-ID` on."""
    site = _site(http)
    timeout = http.app.state.settings.send_timeout_seconds
    job = site.answers.job(tenant, message_id)
    if job is not None:
        return EventResponse(job.listen(http.headers.get("last-event-id")), send_timeout_seconds=timeout)
    found = await site.conversations.of_message(tenant, message_id)
    if found is None:
        raise NotFoundError("message", "message_id")
    rows = {row.id: row for row in await site.conversations.messages(found.id)}
    return EventResponse(finished(rows[message_id], site.conversations.problem), send_timeout_seconds=timeout)


def _site(http: Request) -> Site:
    site: Site = http.app.state.site
    return site


def _json(body: object) -> Response:
    return Response(orjson.dumps(body), media_type="application/json", headers={"cache-control": "no-store"})
