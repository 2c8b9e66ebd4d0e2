"""`/v1/requests/{id}/timeline`: what became of a request, and why."""

import dataclasses
import re
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson
from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ridgeline.api.errors import error_response
from ridgeline.protocol import Backend, Event, Explaining, Refusal, Timeline
from ridgeline.protocol.timeline import AnswerTimeline
from ridgeline.telemetry.story import story

router = APIRouter(prefix="/v1/requests")


@router.get("/{request_id}/timeline")
async def timeline(http: HttpRequest, request_id: str) -> Response:
    """Everything that is remembered of the requests that go by this id and were made with this key."""
    backend: Backend = http.app.state.backend
    if not isinstance(backend, Explaining):
        return _not_found("This server keeps no timelines.")
    found = await backend.timeline(request_id, http.state.tenant)
    if not found:
        return _not_found(
            f"No request {request_id[:100]!r} of yours is remembered. The id is the answer's `x-request-id` "
            "or `id`; the server keeps the latest requests only, and none from before its start."
        )
    body = {
        "object": "request.timeline",
        "id": request_id,
        "requests": [_request(timeline) for timeline in found],
    }
    return Response(orjson.dumps(body), media_type="application/json", headers={"cache-control": "no-store"})


def _not_found(message: str) -> Response:
    return error_response(Refusal("invalid_request", message, param="id"), status=404)


def _request(timeline: Timeline) -> dict[str, object]:
    received = datetime.fromtimestamp(timeline.received_unix_seconds, UTC)
    return {
        "id": timeline.id,
        "request_id": timeline.name,
        "model": timeline.model,
        "received_at": received.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "answers": [_answer(timeline, index, answer) for index, answer in enumerate(timeline.answers)],
    }


def _answer(timeline: Timeline, index: int, answer: AnswerTimeline) -> dict[str, object]:
    told = story(timeline, answer)
    return {
        "index": index,
        "state": told.state,
        "total_seconds": _rounded(told.total_seconds),
        "spent_seconds": {name: _rounded(seconds) for name, seconds in told.spent.items()},
        "phases": [
            {
                "phase": phase.name,
                "from_seconds": _rounded(phase.start_seconds),
                "to_seconds": _rounded(phase.end_seconds),
            }
            for phase in told.phases
        ],
        "events": [
            _event(event, timeline) | {"says": says}
            for event, says in zip(answer.events, told.sentences, strict=True)
        ],
        "omitted_events": answer.omitted,
        "advice": list(told.advice),
    }


def _event(event: Event, timeline: Timeline) -> dict[str, object]:
    fields = dataclasses.asdict(event)
    at = fields.pop("seconds") - timeline.received_seconds
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    return {"event": kind, "at_seconds": _rounded(at), **_plain(fields, timeline)}


def _plain(fields: Mapping[str, object], timeline: Timeline) -> dict[str, object]:
    """Times that are not durations are told from the request's arrival, as all others are."""
    plain: dict[str, object] = {}
    for name, value in fields.items():
        if name == "evictions":
            plain[name] = [_plain(evicted, timeline) for evicted in value]  # type: ignore[attr-defined]
        elif name == "seconds" and isinstance(value, float):
            plain["at_seconds"] = _rounded(value - timeline.received_seconds)
        elif isinstance(value, dict):
            plain[name] = _plain(value, timeline)
        else:
            plain[name] = _rounded(value) if isinstance(value, float) and name != "price" else value
    return plain


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
