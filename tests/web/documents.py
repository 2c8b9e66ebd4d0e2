"""Documents as an export writes them, for the tests of export and import."""

from typing import Any

ID = "0123456789abcdef" * 2


def message(name: str, parent: str | None = None, **other: object) -> dict[str, Any]:
    role = "user" if parent is None else "assistant"
    return {"id": name, "parent_id": parent, "role": role, "content": name, "created_ms": 5} | other


def conversation(name: str = ID, **other: object) -> dict[str, Any]:
    return {
        "id": name,
        "title": "Title",
        "created_ms": 5,
        "updated_ms": 6,
        "messages": [message("a"), message("b", "a"), message("c", "a")],
    } | other


def doc(*conversations: dict[str, Any], **other: object) -> dict[str, Any]:
    return {
        "format": "ridgeline-conversations",
        "version": 1,
        "conversations": list(conversations) or [conversation()],
    } | other
