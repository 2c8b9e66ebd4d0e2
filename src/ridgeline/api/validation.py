"""From the bytes of a body to a checked schema, or to one sentence that says what is wrong."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request

from ridgeline.api.unsupported import Unsupported
from ridgeline.protocol import Refusal

Schema = TypeVar("Schema", bound=BaseModel)


class ClientGone(Exception):
    """The client went away before its request was complete; nobody is left to answer."""


async def read_json(
    request: Request, schema: type[Schema], unsupported: Mapping[str, Unsupported] | None = None
) -> Schema:
    """Read and check a body.

    Raises:
        Refusal: `invalid_request`, naming the field, the limit and the value.
        ClientGone: the connection ended first.
    """
    _check_content_type(request)
    try:
        data = await request.body()
    except ClientDisconnect as error:
        raise ClientGone from error
    return parse(data, schema, unsupported)


def parse(data: bytes, schema: type[Schema], unsupported: Mapping[str, Unsupported] | None = None) -> Schema:
    """Check a body against a schema; see `read_json`."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        # The decoder's exception carries the whole body: it must not be chained into a log.
        raise Refusal("invalid_request", f"The body is not valid JSON: {error}.") from None
    if not isinstance(body, dict):
        raise Refusal("invalid_request", f"The body must be a JSON object, but is {kind_of(body)}.")
    known = _check_keys(body, schema, unsupported or {})
    try:
        return schema.model_validate(known)
    except ValidationError as error:
        raise _refusal_of(error) from None


def _check_content_type(request: Request) -> None:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Refusal(
            "invalid_request",
            f"The content type must be application/json, but is {content_type[:100] or 'missing'}.",
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Refusal(
            "invalid_request", f"The body must not be compressed, but its encoding is {encoding[:50]}."
        )


def _check_keys(
    body: dict[str, object], schema: type[BaseModel], unsupported: Mapping[str, Unsupported]
) -> dict[str, object]:
    known: dict[str, object] = {}
    for key, value in body.items():
        if key in schema.model_fields:
            known[key] = value
        elif key in unsupported:
            unsupported[key].check(key, value)
        else:
            raise unknown_key(key, [*schema.model_fields, *unsupported])
    return known


def unknown_key(key: str, known: list[str]) -> Refusal:
    """The refusal of a key that nothing goes by, naming the nearest one that something does."""
    shown = key if len(key) <= 60 else key[:60] + "..."
    near = difflib.get_close_matches(key[:60], known, n=1, cutoff=0.0)
    return Refusal(
        "invalid_request",
        f"There is no parameter `{shown}`; the nearest known one is `{near[0]}`.",
        param=shown,
    )


def _refusal_of(error: ValidationError) -> Refusal:
    # The deepest error is the most exact one where several alternatives of a union failed.
    first = max(error.errors(include_url=False), key=lambda found: len(found["loc"]))
    param = field_path(first["loc"])
    return Refusal("invalid_request", f"`{param}` {_sentence(first)}", param=param)


def field_path(loc: tuple[int | str, ...]) -> str:
    """`("messages", 0, "content")` as `messages[0].content`."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path[:200]


_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
_KINDS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def _sentence(error: ErrorDetails) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "is required."
    if kind in _BOUNDS:
        word, name = _BOUNDS[kind]
        return f"must be {word} {context[name]}, but is {shown(value)}."
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}, but is {shown(value)}."
    if kind == "too_long":
        return f"may have at most {context['max_length']} entries, but has {context['actual_length']}."
    if kind == "too_short":
        return f"must have at least {context['min_length']} entries, but has {context['actual_length']}."
    if kind == "string_too_long":
        return f"may have at most {context['max_length']} characters, but has {len(str(value))}."
    if kind == "string_too_short":
        return f"must have at least {context['min_length']} characters, but has {len(str(value))}."
    if kind == "literal_error":
        return f"must be one of {context['expected']}, but is {shown(value)}."
    if kind == "extra_forbidden":
        return "is not a known field here."
    if kind == "refused":
        return error["msg"]
    return f"is not valid: {error['msg']}, but is {shown(value)}."


def shown(value: object) -> str:
    """A value as an error may quote it: short ones as they are, of long ones only the kind."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value!r}"[:40]
    if isinstance(value, str) and len(value) <= 40:
        return repr(value)
    return kind_of(value)


def kind_of(value: object) -> str:
    """What a JSON value is, in JSON's words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")
