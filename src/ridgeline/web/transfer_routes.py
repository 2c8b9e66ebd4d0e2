"""The routes that carry conversations out and in."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ridgeline.api.validation import read_json
from ridgeline.protocol import Refusal
from ridgeline.web.conversations import now_ms
from ridgeline.web.export import check_exportable, document, file_name
from ridgeline.web.http import Tenant, existing, json_response, site_of
from ridgeline.web.imports import ConversationBody, read_conversation, read_document, store_imported
from ridgeline.web.streamed import StreamedResponse
from ridgeline.web.wire import conversation_json

router = APIRouter()


@router.get("/export")
async def export_all(http: Request, tenant: Tenant) -> Response:
    """All conversations as one document, to be downloaded."""
    return await _download(http, tenant, await site_of(http).conversations.ids(tenant))


@router.get("/conversations/{conversation_id}/export")
async def export_one(http: Request, tenant: Tenant, conversation_id: str) -> Response:
    """One conversation as a document, to be downloaded."""
    found = await existing(http, tenant, conversation_id)
    check_exportable(found)
    return await _download(http, tenant, [found.id])


async def _download(http: Request, tenant: str, ids: list[str]) -> Response:
    site = site_of(http)

    async def pieces() -> AsyncIterator[bytes]:
        async with site.exports.take(tenant):
            async for piece in document(site.conversations, site.answers, tenant, ids):
                yield piece

    chunks = pieces()
    return StreamedResponse(
        chunks,
        first=await anext(chunks),
        media_type="application/json",
        send_timeout_seconds=http.app.state.settings.send_timeout_seconds,
        headers={"content-disposition": f'attachment; filename="{file_name()}"'},
    )


@router.post("/import")
async def import_document(http: Request, tenant: Tenant) -> Response:
    """Take a document's conversations in; nothing of it where anything in it is wrong."""
    site = site_of(http)
    async with site.imports.take(tenant):
        data = await _body(http)
        found = await asyncio.to_thread(read_document, data, tenant, site.settings, now_ms())
        del data
        stored, skipped = await store_imported(site.conversations, site.settings, tenant, found)
    return json_response(
        {
            "imported": len(stored),
            "skipped": skipped,
            "conversations": [conversation_json(row) for row in stored],
        }
    )


async def _body(http: Request) -> bytes:
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(
            "invalid_request", f"The content type must be application/json, but is {kind[:100] or 'missing'}."
        )
    limit, data = import_bytes(http), bytearray()
    async for chunk in http.stream():
        data += chunk
        if len(data) > limit:
            raise Refusal(
                "request_too_large",
                f"A document may be {limit} bytes: import it in parts.",
            )
    return bytes(data)


def import_bytes(http: Request) -> int:
    """How long a document may be: as long as both the site and the API allow."""
    return int(min(site_of(http).settings.max_import_bytes, http.app.state.settings.max_body_bytes))


@router.post("/temporary")
async def put_back(http: Request, tenant: Tenant) -> Response:
    """Hold a temporary conversation whose server was lost; the page that shows it has the only copy."""
    site = site_of(http)
    body = await read_json(http, ConversationBody)
    one = read_conversation(body, "conversation", tenant, site.settings, now_ms())
    site.temporary.put_back(replace(one.conversation, pinned=False), one.rows)
    return json_response({"conversation": conversation_json(await existing(http, tenant, body.id))})
