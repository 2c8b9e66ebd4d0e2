"""What the routes of the page have in common."""

from typing import Annotated

import orjson
from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from ridgeline.api.auth import authenticate
from ridgeline.api.validation import shown
from ridgeline.protocol import Refusal
from ridgeline.store.records import Conversation
from ridgeline.web.site import Site

Tenant = Annotated[str, Depends(authenticate)]


def site_of(http: Request) -> Site:
    """The chat site that a request is for."""
    site: Site = http.app.state.site
    return site


async def existing(http: Request, tenant: str, conversation_id: str) -> Conversation:
    """A conversation of the tenant.

    Raises:
        NotFoundError: there is none by that id.
    """
    return await site_of(http).conversations.existing(tenant, conversation_id)


def query_integer(http: Request, name: str, *, low: int, high: int) -> int | None:
    """A number in the address, if it is there.

    Raises:
        Refusal: `invalid_request` for anything but an integer from `low` to `high`.
    """
    value = http.query_params.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20 and low <= int(value) <= high):
        raise Refusal(
            "invalid_request",
            f"`{name}` must be an integer from {low} to {high}, but is {shown(value)}.",
            param=name,
        )
    return int(value)


def json_response(body: object) -> Response:
    """An answer that no browser keeps."""
    return Response(orjson.dumps(body), media_type="application/json", headers={"cache-control": "no-store"})
