"""`/v1/fleet/cache`: what a replica tells its front doors of its cache, in their keys."""

import orjson
from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ridgeline.api.errors import error_response
from ridgeline.api.models import find_model
from ridgeline.protocol import Backend, Caching, Refusal

router = APIRouter(prefix="/v1/fleet")


@router.get("/cache")
async def cache(http: HttpRequest, model: str, since: str = "") -> Response:
    """What has changed `since` EPOCH:NUMBER of keys that came with this API key; all there is without it."""
    backend: Backend = http.app.state.backend
    if not isinstance(backend, Caching):
        return error_response(Refusal("invalid_request", "This server keeps no such log."), status=404)
    epoch, _, number = since.partition(":")
    if since and not (number.isascii() and number.isdigit() and len(number) < 19):
        raise Refusal("invalid_request", "`since` is EPOCH:NUMBER, as the last answer said.", param="since")
    name = find_model(backend, model).name
    report = backend.cache_report(name, http.state.tenant, epoch, int(number or 0))
    return Response(
        orjson.dumps(report.as_json()),
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )
