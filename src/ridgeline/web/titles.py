"""Titles: first the beginning of the first message, then what the model makes of the first turn."""

import asyncio
import logging
import re
import time
import uuid
from dataclasses import replace

from ridgeline.api.errors import describe_failure
from ridgeline.protocol import Backend, Message, Refusal, Request, Sampling, Stopping
from ridgeline.protocol.request import PRIORITY_BATCH
from ridgeline.store.errors import StoreError
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.web.context import path_to, shown
from ridgeline.web.conversations import Conversations
from ridgeline.web.job import Job
from ridgeline.web.settings import WebSettings
from ridgeline.web.temporary import is_temporary
from ridgeline.web.thoughts import NO_THOUGHTS, spoken

log = logging.getLogger("ridgeline.web")

_FIRST_CHARACTERS = 60
_CHARACTERS, _WORDS = 80, 9
_TOKENS = 24
_WISH = (
    "Write a title of at most six words for this conversation, in its language. Answer with the title alone."
)
_LABEL = re.compile(r"^(title|titel|titre|título)\s*:\s*", re.IGNORECASE)
_WRAPPING = " \t#*_`\"'“”„«»"


class Titles:
    """Asks the model for titles behind everybody's back: batch priority, one request each."""

    def __init__(self, backend: Backend, conversations: Conversations, settings: WebSettings) -> None:
        self._backend = backend
        self._conversations = conversations
        self._settings = settings
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def consider(self, job: Job) -> None:
        """Begin a title where an answer has just become complete; may be one too many, never blocks."""
        name = job.conversation_id
        wanted = job.row.status == "complete" and spoken(job.row.content) and not is_temporary(name)
        if self._closed or not wanted or name in self._tasks:
            return
        task = asyncio.create_task(self._make(job), name=f"title of {name}")
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def wait(self, conversation_id: str) -> None:
        """Wait until no title is being made, for so long as one request may wait."""
        task = self._tasks.get(conversation_id)
        if task is not None:
            await asyncio.wait((task,), timeout=self._settings.title_wait_seconds)

    async def cancel(self, conversation_id: str) -> None:
        """Give up a title being made."""
        task = self._tasks.get(conversation_id)
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def close(self) -> None:
        """Give up all, because the server stops."""
        self._closed = True
        await asyncio.gather(*(self.cancel(name) for name in list(self._tasks)))

    async def _make(self, job: Job) -> None:
        try:
            async with asyncio.timeout(self._settings.title_seconds):
                conversation = await self._conversations.get(job.tenant, job.conversation_id)
                if conversation is None or conversation.title_by != "first":
                    return
                rows = await self._conversations.messages(conversation.id)
                # Later answers do not ask again: a model that made no good title makes none then.
                if sum(row.role == "assistant" and row.status == "complete" for row in rows) > 1:
                    return
                title = clean_title(*await self._ask(job, conversation, rows))
            if title is not None:
                await self._conversations.change(
                    job.tenant, conversation.id, lambda found: _titled(found, title)
                )
        except (Refusal, StoreError, TimeoutError):
            return
        except Exception as error:
            log.warning("A title could not be made: %s", describe_failure(error))

    async def _ask(self, job: Job, conversation: Conversation, rows: list[StoredMessage]) -> tuple[str, bool]:
        """What the model says, and whether it came to its end.

        The prompt is the conversation itself with one turn more, so what it has in the cache is used.
        A model that thought before it answered is told that it has done so.
        """
        answer = next(row for row in rows if row.id == job.message_id)
        said = replace(answer, content=spoken(answer.content))
        thinks = said.content != answer.content
        path = [*path_to(rows, answer)[:-1], said]
        turns = shown(path, answer.context_from, conversation.settings.system_prompt)
        begun = (Message("assistant", NO_THOUGHTS),) if thinks else ()
        request = Request(
            id=f"title-{uuid.uuid4().hex}",
            model=answer.model,
            messages=(*turns, Message("user", _WISH), *begun),
            continue_final_message=thinks,
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=_TOKENS),
            priority=PRIORITY_BATCH,
            tenant=job.tenant,
            received_seconds=time.monotonic(),
        )
        stream = self._backend.generate(request)
        text, finish = "", None
        try:
            async for delta in stream:
                text += delta.text
                finish = delta.finish or finish
        finally:
            self._backend.cancel(request.id)
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()
        return text, finish == "stop"


def _titled(conversation: Conversation, title: str) -> Conversation:
    if conversation.title_by != "first":
        return conversation  # renamed meanwhile
    return replace(conversation, title=title, title_by="model")


def clean_title(text: str, complete: bool) -> str | None:
    """A title out of what a model said; None where there is none that could be shown.

    Args:
        text: its answer; what counts is the first line that is not empty, or the one after it where it
            announces what follows.
        complete: whether the answer came to its own end.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and lines[0].strip(_WRAPPING).endswith(":"):
        del lines[0]
    if not lines or (len(lines) == 1 and not complete):
        return None
    words = " ".join("".join(c if c.isprintable() else " " for c in lines[0]).split())
    words = _LABEL.sub("", words.strip(_WRAPPING)).strip(_WRAPPING)
    words = words.removesuffix(".").rstrip()
    # A model that thinks aloud begins with a tag, and has not come to a title.
    if not words or len(words) > _CHARACTERS or "<" in words:
        return None
    # One that goes on for longer has answered once more instead.
    if len(words.split()) > _WORDS:
        return None
    return words


def title_of(content: str) -> str:
    """The beginning of a message, cut at a word, as a first title."""
    line = " ".join(content.split())
    if len(line) <= _FIRST_CHARACTERS:
        return line or "New chat"
    cut = line[:_FIRST_CHARACTERS]
    return (cut[: cut.rfind(" ")] if " " in cut[20:] else cut) + "\N{HORIZONTAL ELLIPSIS}"
