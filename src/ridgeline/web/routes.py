"""The routes that the page calls, below `/web`: the session, asking, and answers."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ridgeline.api.validation import read_json
from ridgeline.protocol import Refusal
from ridgeline.store.records import ChatSettings
from ridgeline.web import conversation_routes, transfer_routes
from ridgeline.web.events import EventResponse, told_elsewhere
from ridgeline.web.http import Tenant, json_response, site_of
from ridgeline.web.job import Job
from ridgeline.web.rules import NotFoundError
from ridgeline.web.schemas import TITLE_CHARACTERS, GoOn, NewMessage, Regenerate, SeenBody
from ridgeline.web.wire import conversation_json, message_json, models_json

router = APIRouter(prefix="/web")
router.include_router(conversation_routes.router)
router.include_router(transfer_routes.router)


@router.get("/session")
async def session(http: Request, tenant: Tenant) -> Response:
    """What the page needs to know once."""
    site = site_of(http)
    settings = site.settings
    return json_response(
        {
            "tenant": tenant,
            "models": models_json(site.backend.models()),
            "max_message_characters": settings.max_message_characters,
            "undo_seconds": settings.undo_seconds,
            "heartbeat_seconds": settings.heartbeat_seconds,
            "problem": site.conversations.problem,
            "defaults": {
                "temperature": settings.sampling.temperature,
                "top_p": settings.sampling.top_p,
                "max_tokens": settings.max_answer_tokens,
            },
            "limits": {
                "system_prompt_characters": settings.max_system_prompt_characters,
                "import_bytes": transfer_routes.import_bytes(http),
                "title_characters": TITLE_CHARACTERS,
            },
        }
    )


@router.post("/messages")
async def ask(http: Request, tenant: Tenant) -> Response:
    """Store a message and begin its answer, which `/web/answers/{id}/events` tells."""
    body = await read_json(http, NewMessage)
    if not body.content.strip():
        raise Refusal("invalid_request", "`content` must be more than white space.", param="content")
    _check_new(body)
    site = site_of(http)
    settings = body.settings.over(ChatSettings(), site.settings) if body.settings is not None else None
    found, question, job = await site.answers.ask(
        tenant,
        body.conversation_id,
        body.content,
        body.model,
        parent_id=body.parent_id if "parent_id" in body.model_fields_set else ...,
        settings=settings,
        temporary=bool(body.temporary),
    )
    return json_response(
        {
            "conversation": conversation_json(found),
            "question": message_json(question),
            "answer": job.as_json(),
        }
    )


def _check_new(body: NewMessage) -> None:
    if body.conversation_id is None:
        if body.parent_id is not None:
            raise Refusal(
                "invalid_request", "`parent_id` needs `conversation_id` beside it.", param="parent_id"
            )
        return
    for name in ("settings", "temporary"):
        if getattr(body, name):
            raise Refusal(
                "invalid_request",
                f"`{name}` may be sent only for a new conversation, without `conversation_id`.",
                param=name,
            )


@router.post("/answers/{message_id}/regenerate")
async def regenerate(http: Request, tenant: Tenant, message_id: str) -> Response:
    """Make another answer to the same question."""
    body = await read_json(http, Regenerate) if await http.body() else Regenerate()
    found, job = await site_of(http).answers.regenerate(tenant, message_id, body.model)
    return json_response({"conversation": conversation_json(found), "answer": job.as_json()})


@router.post("/answers/{message_id}/continue")
async def go_on(http: Request, tenant: Tenant, message_id: str) -> Response:
    """Go on with an answer that was stopped, interrupted, cut off or has failed."""
    body = await read_json(http, GoOn) if await http.body() else GoOn()
    answers, seen = site_of(http).answers, body.seen()
    if not body.automatic:
        job = await answers.go_on(tenant, message_id, seen)
        return json_response({"answer": job.as_json()})
    found = await answers.resume(tenant, message_id, seen)
    return json_response({"answer": found.as_json() if isinstance(found, Job) else message_json(found)})


@router.post("/answers/{message_id}/stop")
async def stop(http: Request, tenant: Tenant, message_id: str) -> Response:
    """End an answer and keep its text."""
    body = await read_json(http, SeenBody) if await http.body() else None
    seen = None if body is None else body.seen()
    return json_response({"answer": await site_of(http).answers.stop(tenant, message_id, seen)})


@router.get("/answers/{message_id}/events")
async def events(http: Request, tenant: Tenant, message_id: str) -> Response:
    """The answer as server-sent events, from `Last-Event-ID` on."""
    site = site_of(http)
    timeout = http.app.state.settings.send_timeout_seconds
    job = await site.answers.writer(tenant, message_id)
    if job is not None:
        return EventResponse(job.listen(http.headers.get("last-event-id")), send_timeout_seconds=timeout)
    found = await site.conversations.of_message(tenant, message_id)
    if found is None:
        raise NotFoundError("message", "message_id")
    told = told_elsewhere(site.conversations, site.settings, found.id, message_id)
    return EventResponse(told, send_timeout_seconds=timeout)
