"""The bodies that the page sends, with their ranges."""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from ridgeline.api.schemas import Schema
from ridgeline.protocol import Refusal
from ridgeline.store.records import ChatSettings
from ridgeline.web.resuming import Seen
from ridgeline.web.rules import storable
from ridgeline.web.settings import WebSettings

TITLE_CHARACTERS = 200
"""As many as the database has room for."""
MAX_MS = 2**42 - 1
"""The latest time that is taken, in milliseconds since 1970: in the year 2109."""

Id = Annotated[str, Field(max_length=64)]


class SettingsBody(Schema):
    """Settings of a conversation; null stands for the site's default."""

    system_prompt: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    def over(self, current: ChatSettings, limits: WebSettings, at: str = "settings") -> ChatSettings:
        """`current` with what was sent put over it; `at` is where in the body it stood.

        Raises:
            Refusal: `invalid_request`, where the site's own limits are exceeded.
        """
        prompt, limit = self.system_prompt or "", limits.max_system_prompt_characters
        if len(prompt) > limit:
            raise _refusal(
                f"{at}.system_prompt",
                f"may have {limit} characters (--site max-system-prompt-characters), but has {len(prompt)}.",
            )
        limit = limits.max_answer_tokens
        if self.max_tokens is not None and self.max_tokens > limit:
            raise _refusal(
                f"{at}.max_tokens",
                f"must be at most {limit} (--site max-answer-tokens), but is {self.max_tokens}.",
            )
        sent = {name: getattr(self, name) for name in self.model_fields_set}
        if "system_prompt" in sent:
            sent["system_prompt"] = storable(prompt).strip()
        return replace(current, **sent)


class NewMessage(Schema):
    """A message to be answered; `settings` and `temporary` are for a new conversation."""

    content: Annotated[str, Field(min_length=1)]
    conversation_id: Id | None = None
    parent_id: Id | None = None
    model: str | None = None
    settings: SettingsBody | None = None
    temporary: bool | None = None


class Regenerate(Schema):
    """Another answer to the same question."""

    model: str | None = None


class SeenBody(Schema):
    """What the page has of an answer."""

    run: Id | None = None
    text: str = ""

    def seen(self) -> Seen:
        """The same for those who go on with it."""
        return Seen(self.run, self.text)


class GoOn(SeenBody):
    """`automatic`: by the page itself, after its server was lost."""

    automatic: bool = False


class ConversationChange(Schema):
    """What of a conversation is to be another; null leaves it as it is."""

    title: str | None = None
    pinned: bool | None = None
    settings: SettingsBody | None = None
    leaf_id: Id | None = None


def title_in(title: str, param: str = "title") -> str:
    """A title as it may be kept: one line without white space around it.

    Raises:
        Refusal: `invalid_request`, where nothing is left, or too much.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in title).split())
    if not line:
        raise _refusal(param, "must be more than white space.")
    if len(line) > TITLE_CHARACTERS:
        raise _refusal(param, f"may have at most {TITLE_CHARACTERS} characters, but has {len(line)}.")
    return line


def _refusal(param: str, sentence: str) -> Refusal:
    return Refusal("invalid_request", f"`{param}` {sentence}", param=param)
