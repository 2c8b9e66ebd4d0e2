"""Which part of a conversation the model is shown: the newest turns that fit its context."""

from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.protocol import Backend, Message, ModelInfo, Refusal
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.web.thoughts import spoken

# When the window must move it moves further than needed. A window that moved at every turn would
# change the beginning of every prompt, and no cached prefix could ever be used again.
_KEEP_FRACTION = 0.7


def path_to(rows: Sequence[StoredMessage], leaf: StoredMessage) -> list[StoredMessage]:
    """The messages from the first one to `leaf`, along their parents."""
    by_id = {row.id: row for row in rows}
    path = [leaf]
    while (parent := path[-1].parent_id) is not None:
        path.append(by_id[parent])
    return path[::-1]


def newest_path(rows: Sequence[StoredMessage]) -> list[StoredMessage]:
    """The branch that ends in the newest message."""
    if not rows:
        return []
    return path_to(rows, max(rows, key=lambda row: (row.created_ms, row.position)))


def shown_path(conversation: Conversation, rows: Sequence[StoredMessage]) -> list[StoredMessage]:
    """The branch that a conversation shows: that of its leaf, else the newest."""
    leaf = next((row for row in rows if row.id == conversation.leaf_id), None)
    return newest_path(rows) if leaf is None else path_to(rows, leaf)


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a conversation that the model is shown.

    Attributes:
        start: position of the oldest message shown.
        room_tokens: what it leaves of the context for the answer.
    """

    start: int
    room_tokens: int


async def window_of(
    backend: Backend,
    model: ModelInfo,
    path: Sequence[StoredMessage],
    *,
    reserve_tokens: int,
    system_prompt: str = "",
) -> Window:
    """The newest messages of `path` that the model can be shown, after the whole system prompt.

    The last message is always shown. The window starts where it did for the answer before, and
    moves only when it must.

    Raises:
        Refusal: `context_length_exceeded` where the last message alone is too long.
    """
    reserve = min(reserve_tokens, model.max_context_tokens // 4)
    limit = model.max_context_tokens - reserve
    start = max((row.context_from for row in path), default=0)

    async def tokens_from(first: int) -> int:
        return len(await backend.tokenize(model.name, messages=shown(path, first, system_prompt)))

    def window(first: int, tokens: int) -> Window:
        return Window(first, model.max_context_tokens - tokens)

    if (needed := await tokens_from(start)) <= limit:
        return window(start, needed)
    # Turns begin with what the user said; the shown part must begin with a turn.
    starts = [row.position for row in path if row.role == "user" and row.position > start]
    keep = int(limit * _KEEP_FRACTION)
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        if await tokens_from(starts[middle]) <= keep:
            high = middle
        else:
            low = middle + 1
    if low < len(starts):
        return window(starts[low], await tokens_from(starts[low]))
    last = starts[-1] if starts else start
    needed = await tokens_from(last)
    if needed <= limit:
        return window(last, needed)
    what = "The message and the system prompt have" if system_prompt else "The message has"
    raise Refusal(
        "context_length_exceeded",
        f"{what} {needed} tokens, but {model.name} can be shown {limit} (its context of "
        f"{model.max_context_tokens} tokens, less {reserve} for the answer): shorten "
        f"{'one of them' if system_prompt else 'the message'}.",
        param="content",
    )


def shown(path: Sequence[StoredMessage], first: int, system_prompt: str = "") -> tuple[Message, ...]:
    """What the model gets: the system prompt, and the messages from position `first` on.

    Empty answers are left out, and what was thought before one; but for an answer at the end, which is
    to be gone on with.
    """
    system = (Message("system", system_prompt),) if system_prompt else ()
    texts = [spoken(row.content) if row.role == "assistant" else row.content for row in path[:-1]]
    texts += [row.content for row in path[-1:]]
    return system + tuple(
        Message(row.role, text)
        for row, text in zip(path, texts, strict=True)
        if row.position >= first and text
    )
