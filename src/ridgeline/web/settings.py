"""What an operator may set about the chat site."""

from dataclasses import dataclass, field

from ridgeline.protocol import Sampling


@dataclass(frozen=True, slots=True)
class WebSettings:
    """Limits and habits of the chat site; most of them are `ridgeline serve --site NAME=VALUE`.

    Attributes:
        title: what the site is called, in the page and as an installed app.
        max_running_answers: answers being made at once for one owner; more are `rate_limited`.
        max_conversations: conversations kept for one owner.
        max_conversation_messages: messages of one conversation, all branches together.
        max_conversation_characters: all its texts together; opening it loads them.
        max_pinned: conversations that one owner may pin; a list always shows all of them.
        max_message_characters: longest message that may be sent.
        max_system_prompt_characters: longest system prompt.
        max_answer_tokens: an answer ends here, or where the context is full, and can be continued.
        min_answer_tokens: room for the answer that the history must leave free in the context
            (a quarter of the context where that is less).
        max_import_bytes: longest document that may be imported; the API's `max_body_bytes` bounds
            it too.
        max_temporary: temporary conversations held for one owner, the oldest idle one going first.
        max_temporary_characters: all texts of a temporary conversation together.
        temporary_seconds: a temporary conversation unused for so long is gone.
        title_seconds: how long the model may take for a title, waiting included.
        title_wait_seconds: how long the page may wait for a title in one request.
        max_searches: searches of one owner at once, those that wait for their turn included.
        unheard_seconds: an answer that nobody listens to for this long is ended.
        save_interval_seconds: how often a growing answer is written to the database.
        heartbeat_seconds: a silent event stream says that it lives this often.
        undo_seconds: how long a deleted conversation can be brought back.
        linger_seconds: how long the event log of a finished answer is kept for late listeners.
        sampling: how tokens are drawn; low temperatures suit small models.
    """

    title: str = "Ridgeline"
    max_running_answers: int = 4
    max_conversations: int = 10_000
    max_conversation_messages: int = 2000
    max_conversation_characters: int = 8_000_000
    max_pinned: int = 50
    max_message_characters: int = 100_000
    max_system_prompt_characters: int = 8000
    max_answer_tokens: int = 4096
    min_answer_tokens: int = 1024
    max_import_bytes: int = 32 * 1024 * 1024
    max_temporary: int = 20
    max_temporary_characters: int = 1_000_000
    temporary_seconds: float = 3600.0
    title_seconds: float = 60.0
    title_wait_seconds: float = 20.0
    max_searches: int = 8
    unheard_seconds: float = 60.0
    save_interval_seconds: float = 1.0
    heartbeat_seconds: float = 5.0
    undo_seconds: float = 30.0
    linger_seconds: float = 30.0
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.3, top_p=0.9))
