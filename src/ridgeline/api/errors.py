"""Refusals and failures in OpenAI's error body, and where they are written down."""

import logging
import math
import traceback
from collections.abc import Iterator, Mapping

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ridgeline.protocol import Refusal

log = logging.getLogger("ridgeline.api")

_TYPE_OF_CODE = {
    "invalid_api_key": "authentication_error",
    "forbidden": "permission_error",
    "rate_limited": "rate_limit_error",
    "at_capacity": "capacity_error",
    "no_replica": "capacity_error",
    "shutting_down": "capacity_error",
    "internal_error": "server_error",
}


def error_body(refusal: Refusal) -> dict[str, object]:
    """OpenAI's error object; `estimated_wait_seconds` stands beside the code where one is known."""
    error: dict[str, object] = {
        "message": refusal.message,
        "type": _TYPE_OF_CODE.get(refusal.code, "invalid_request_error"),
        "param": refusal.param,
        "code": refusal.code,
    }
    if refusal.retry_after_seconds is not None and refusal.code == "at_capacity":
        error["estimated_wait_seconds"] = round(refusal.retry_after_seconds, 3)
    return {"error": error}


def error_response(
    refusal: Refusal, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a refused request. `status` overrides that of the code (404 for a path, say)."""
    extra = dict(headers or {})
    if refusal.retry_after_seconds is not None:
        extra["retry-after"] = str(max(1, math.ceil(refusal.retry_after_seconds)))
    if refusal.code == "shutting_down":
        extra["connection"] = "close"  # the next request may reach another server of this address
    if refusal.code == "invalid_api_key":
        extra["www-authenticate"] = "Bearer"
    return Response(
        orjson.dumps(error_body(refusal)),
        status_code=status or refusal.status,
        headers=extra,
        media_type="application/json",
    )


def internal_error(error: BaseException, request_id: str) -> Refusal:
    """Log a failure of our own and return what the client may know of it."""
    log.error("Request %s failed: %s", request_id, describe_failure(error))
    return Refusal(
        "internal_error",
        f"The server failed on this request; its log has the reason under request id {request_id}.",
    )


def describe_failure(error: BaseException) -> str:
    """Type and stack of an exception and its causes, without its message.

    A message may quote what a user typed, or a key, and neither may reach a log.
    """
    return "".join(_describe(error, seen=set()))


def _describe(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen:
        yield from _describe(cause, seen)
        yield "\nwhich led to "
    yield f"{type(error).__module__}.{type(error).__qualname__}\n"
    yield from traceback.format_tb(error.__traceback__)
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            if id(member) not in seen:
                yield "\nmade of "
                yield from _describe(member, seen)


async def on_refusal(_: Request, error: Exception) -> Response:
    """Exception handler for `Refusal`."""
    assert isinstance(error, Refusal)
    return error_response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Exception handler for unknown paths and methods, and whatever else the framework raises."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 404:
        there = "this API has /v1/chat/completions, /v1/completions and /v1/models"
        refusal = Refusal("invalid_request", f"There is nothing at {path}; {there}.")
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        hint = f" It takes {allowed}." if allowed else ""
        refusal = Refusal("invalid_request", f"{path} does not take the method {request.method}.{hint}")
    else:
        refusal = Refusal("invalid_request", str(error.detail))
    return error_response(refusal, status=error.status_code, headers=error.headers)
