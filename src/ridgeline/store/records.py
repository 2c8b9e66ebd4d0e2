"""The rows as plain values; what passes between the store and its users."""

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["user", "assistant"]
MessageStatus = Literal["complete", "streaming", "stopped", "interrupted", "failed"]
TitleBy = Literal["first", "model", "user"]


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """How a conversation is answered; None stands for the site's default.

    Attributes:
        system_prompt: said to the model before everything else; empty for none.
        max_tokens: where an answer ends at the latest.
    """

    system_prompt: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation of one tenant. Times are milliseconds since 1970.

    Attributes:
        title_by: whose words the title is: the first message's, the model's or the user's.
        leaf_id: the message that the shown branch ends in; None for the newest one.
    """

    id: str
    tenant: str
    title: str
    model: str
    created_ms: int
    updated_ms: int
    deleted_ms: int | None = None
    title_by: TitleBy = "first"
    pinned: bool = False
    leaf_id: str | None = None
    settings: ChatSettings = field(default_factory=ChatSettings)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message; a conversation is a tree of them, joined by `parent_id`.

    Attributes:
        position: how many ancestors the message has.
        finish: why a complete answer ended (`stop` or `length`).
        error_code: for `failed` and `interrupted`, what happened; codes as in `protocol.errors`,
            and `unheard`, `server_stopped`.
        ttft_ms: from the request to the first token; of the first run where it was continued.
        decode_ms: from the first to the last token, summed over runs.
        context_from: position of the oldest message that the model was shown for this answer.
        run: what wrote the answer last; another run must have taken it over to write it.
    """

    id: str
    conversation_id: str
    parent_id: str | None
    position: int
    role: Role
    content: str
    status: MessageStatus
    created_ms: int
    model: str = ""
    finish: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    context_from: int = 0
    ttft_ms: int | None = None
    decode_ms: int | None = None
    finished_ms: int | None = None
    run: str | None = None
