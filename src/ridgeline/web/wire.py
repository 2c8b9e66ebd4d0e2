"""What the page gets as JSON."""

from collections.abc import Sequence
from dataclasses import asdict

from ridgeline.protocol import ModelInfo
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.store.search import Hit
from ridgeline.web.temporary import is_temporary

_SNIPPET_CHARACTERS = 80


def conversation_json(row: Conversation) -> dict[str, object]:
    """A conversation without its messages."""
    return {
        "id": row.id,
        "title": row.title,
        "title_by": row.title_by,
        "model": row.model,
        "pinned": row.pinned,
        "temporary": is_temporary(row.id),
        "settings": asdict(row.settings),
        "leaf_id": row.leaf_id,
        "created_ms": row.created_ms,
        "updated_ms": row.updated_ms,
    }


def hit_json(hit: Hit) -> dict[str, object]:
    """Something found, with the text around it."""
    start = max(0, hit.start - _SNIPPET_CHARACTERS // 2)
    end = hit.end + _SNIPPET_CHARACTERS
    return {
        "conversation": conversation_json(hit.conversation),
        "message_id": hit.message_id,
        "snippet": {
            "before": ("\N{HORIZONTAL ELLIPSIS}" if start else "") + hit.text[start : hit.start],
            "match": hit.text[hit.start : hit.end],
            "after": hit.text[hit.end : end] + ("\N{HORIZONTAL ELLIPSIS}" if end < len(hit.text) else ""),
        },
    }


def message_json(row: StoredMessage, *, retry_after_seconds: float | None = None) -> dict[str, object]:
    """A message; `error` and `usage` are null where there are none."""
    error = None
    if row.error_code is not None:
        error = {
            "code": row.error_code,
            "message": row.error_message or "",
            "retry_after_seconds": retry_after_seconds,
        }
    usage = None
    if row.completion_tokens is not None:
        usage = {
            "prompt_tokens": row.prompt_tokens,
            "completion_tokens": row.completion_tokens,
            "cached_tokens": row.cached_tokens,
            "tokens_per_second": tokens_per_second(row),
            "ttft_ms": row.ttft_ms,
        }
    return {
        "id": row.id,
        "parent_id": row.parent_id,
        "position": row.position,
        "role": row.role,
        "content": row.content,
        "status": row.status,
        "model": row.model,
        "finish": row.finish,
        "context_from": row.context_from,
        "created_ms": row.created_ms,
        "error": error,
        "usage": usage,
        "run": row.run,
    }


def tokens_per_second(row: StoredMessage) -> float | None:
    """Tokens after the first over the time after the first; None where that means nothing."""
    if not row.decode_ms or not row.completion_tokens or row.completion_tokens < 2:
        return None
    return round((row.completion_tokens - 1) / row.decode_ms * 1000, 1)


def models_json(models: Sequence[ModelInfo]) -> list[dict[str, object]]:
    """The models that can hold a conversation."""
    return [
        {"name": info.name, "max_context_tokens": info.max_context_tokens, "parameters": info.parameters}
        for info in models
        if info.has_chat_template
    ]
