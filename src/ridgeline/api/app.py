"""The application: routes, and the middleware that stands before them all."""

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from ridgeline.api import chat, completions, fleet, health, models, requests, tokens
from ridgeline.api.auth import KeyRing, authenticate, keyed
from ridgeline.api.errors import on_http_exception, on_refusal
from ridgeline.api.limits import AllowedCallers, ErrorBoundary, Limits, RequestIds
from ridgeline.api.settings import ApiSettings
from ridgeline.protocol import Backend, Refusal
from ridgeline.telemetry.metrics import Metrics


def create_app(backend: Backend, settings: ApiSettings, metrics: Metrics | None = None) -> FastAPI:
    """Build the HTTP surface of a backend.

    `app.state` carries `backend`, `settings`, `metrics` and `keys` for routes that other rooms add.
    Such routes take `Depends(authenticate)` where they need a key.
    """
    app = FastAPI(title="Ridgeline", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.backend = backend
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.keys = KeyRing(settings.api_keys)
    app.add_exception_handler(Refusal, on_refusal)
    app.add_exception_handler(HTTPException, on_http_exception)
    needs_key = [Depends(authenticate)]
    for room in (chat, completions):
        app.add_route(room.PATH, keyed(room.create), methods=["POST"])
    for room in (models, tokens, requests, fleet):
        app.include_router(room.router, dependencies=needs_key)
    app.include_router(health.router)
    if metrics is not None:
        app.include_router(health.metrics_router, dependencies=[] if settings.public_metrics else needs_key)
    _add_middleware(app, backend, settings)
    return app


def _add_middleware(app: FastAPI, backend: Backend, settings: ApiSettings) -> None:
    def estimated_wait_seconds() -> float:
        return max((model.estimated_wait_seconds for model in backend.status().models), default=0.0)

    # The last one added stands outermost.
    app.add_middleware(Limits, settings=settings, estimated_wait_seconds=estimated_wait_seconds)
    app.add_middleware(ErrorBoundary)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "x-served-model", "x-served-by", "x-overhead-ms", "retry-after"],
            max_age=600,
        )
    app.add_middleware(AllowedCallers, settings=settings)
    app.add_middleware(RequestIds)
