"""Liveness, readiness and metrics: three answers that no load balancer should confuse."""

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ridgeline.protocol import Backend
from ridgeline.telemetry.metrics import Metrics

router = APIRouter(prefix="/health")
metrics_router = APIRouter()


@router.get("/live")
@router.head("/live", include_in_schema=False)
async def live() -> Response:
    """200 as long as the process answers."""
    return _json({"status": "alive"}, 200)


@router.get("")
@router.head("", include_in_schema=False)
@router.get("/ready")
@router.head("/ready", include_in_schema=False)
async def ready(request: Request) -> Response:
    """200 while new requests are taken, else 503 with the reason. Full is still ready.

    `/health` is what routers of other engines ask for.
    """
    backend: Backend = request.app.state.backend
    status = backend.status()
    full = bool(status.models) and all(model.waiting >= model.max_waiting for model in status.models)
    body = {"status": status.state, "detail": status.detail, "full": full}
    return _json(body, 200 if status.state == "ready" else 503)


@metrics_router.get("/metrics")
async def prometheus(request: Request) -> Response:
    """All metrics in Prometheus' text format."""
    metrics: Metrics = request.app.state.metrics
    text, content_type = metrics.render()
    return Response(text, headers={"content-type": content_type})


@metrics_router.get("/dashboard/live")
async def dashboard(request: Request) -> Response:
    """What the dashboard and `ridgeline top` show: each model's engine as it stands now."""
    metrics: Metrics = request.app.state.metrics
    return _json({"models": {name: live.as_json() for name, live in metrics.live().items()}}, 200)


def _json(body: dict[str, object], status: int) -> Response:
    return Response(
        orjson.dumps(body),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )
