"""Puts the chat site onto the application of the HTTP surface."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from ridgeline.api.errors import error_response
from ridgeline.protocol import Backend, Refusal
from ridgeline.store.errors import StoreError
from ridgeline.store.store import Store
from ridgeline.web import routes
from ridgeline.web.page import Page
from ridgeline.web.settings import WebSettings
from ridgeline.web.site import Site


def mount(
    app: FastAPI,
    *,
    backend: Backend,
    store: Store,
    settings: WebSettings | None = None,
    front_door: bool = False,
    shared_database: bool = False,
) -> None:
    """Add the page at `/` and its routes below `/web` to an application of `api.app.create_app`.

    A front door has a page at `/fleet`, too, which shows what `fleet_router` tells.

    Other servers may use a shared database at the same time.

    The store is opened with the application's lifespan and closed with it. To refuse a start with
    a database that cannot be used, call `store.database.prepare` before.
    """
    settings = settings or WebSettings()
    site = Site(backend, store, settings, is_shared=shared_database)
    app.state.site = site
    app.add_exception_handler(StoreError, _on_store_error)
    app.include_router(routes.router)
    app.include_router(Page(settings.title, front_door).router)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with inner(app) as state:
            await site.open()
            try:
                yield state
            finally:
                await site.close()

    app.router.lifespan_context = lifespan


async def _on_store_error(_: Request, error: Exception) -> Response:
    return error_response(Refusal("internal_error", str(error)))
