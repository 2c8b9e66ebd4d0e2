"""Asking, going on, stopping: from a message to the job that answers it."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace

from ridgeline.api.models import find_model
from ridgeline.protocol import Backend, ModelInfo, Refusal, Request, Stopping
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.web.context import Window, newest_path, shown, window_of
from ridgeline.web.conversations import Conversations, now_ms
from ridgeline.web.job import Ending, Job
from ridgeline.web.settings import WebSettings

_TITLE_CHARACTERS = 60


class NotFoundError(Refusal):
    """What was named is not there, or is somebody else's."""

    def __init__(self, what: str, param: str) -> None:
        super().__init__(
            "invalid_request", f"There is no such {what}; it may have been deleted.", param=param
        )

    @property
    def status(self) -> int:
        """404, for it is the address that is wrong."""
        return 404


class Answers:
    """All answers being made for the page, and the rules about how many there may be."""

    def __init__(self, backend: Backend, conversations: Conversations, settings: WebSettings) -> None:
        self._backend = backend
        self._conversations = conversations
        self._settings = settings
        self._jobs: dict[str, Job] = {}

    def job(self, tenant: str, message_id: str) -> Job | None:
        """The job of an answer, if it is running or has just ended."""
        job = self._jobs.get(message_id)
        return job if job is not None and job.tenant == tenant else None

    def with_live(self, rows: Sequence[StoredMessage]) -> list[dict[str, object] | StoredMessage]:
        """Rows of the database, those being answered replaced by how they stand now."""
        return [self._jobs[row.id].as_json() if row.id in self._jobs else row for row in rows]

    async def ask(
        self, tenant: str, conversation_id: str | None, content: str, model_name: str | None
    ) -> tuple[Conversation, StoredMessage, Job]:
        """Store a message and begin to answer it; without a conversation, in a new one.

        Raises:
            Refusal: the message cannot be answered; nothing is stored then.
        """
        content = content.replace("\0", "\N{REPLACEMENT CHARACTER}")
        if len(content) > self._settings.max_message_characters:
            raise Refusal(
                "request_too_large",
                f"A message may have {self._settings.max_message_characters} characters "
                f"(max_message_characters), but this one has {len(content)}.",
                param="content",
            )
        conversation = await self._conversation(tenant, conversation_id, content)
        model = self._model(model_name or conversation.model)
        path = newest_path(await self._conversations.messages(conversation.id))
        now = now_ms()
        question = StoredMessage(
            id=uuid.uuid4().hex,
            conversation_id=conversation.id,
            parent_id=path[-1].id if path else None,
            position=len(path),
            role="user",
            content=content,
            status="complete",
            created_ms=now,
        )
        path.append(question)
        window = await self._window(model, path)
        answer = StoredMessage(
            id=uuid.uuid4().hex,
            conversation_id=conversation.id,
            parent_id=question.id,
            position=len(path),
            role="assistant",
            content="",
            status="streaming",
            created_ms=now,
            model=model.name,
            context_from=window.start,
        )
        job = self._start(tenant, model, path, answer, window)
        conversation = replace(conversation, model=model.name, updated_ms=now)
        await self._conversations.save(conversation, [question, answer])
        return conversation, question, job

    async def go_on(self, tenant: str, message_id: str) -> Job:
        """Continue an answer that is not whole, or make it anew if it has no text.

        Raises:
            Refusal: it is not the newest message, or is complete, or cannot be continued.
        """
        conversation = await self._conversations.of_message(tenant, message_id)
        if conversation is None:
            raise NotFoundError("message", "message_id")
        path = newest_path(await self._conversations.messages(conversation.id))
        answer = path.pop()
        whole = answer.status == "complete" and answer.finish != "length"
        if answer.id != message_id or answer.role != "assistant" or whole:
            raise Refusal(
                "invalid_request", "Only the newest answer can be continued, while it is not whole."
            )
        if answer.status == "streaming" and answer.id in self._jobs:
            return self._jobs[answer.id]
        model = self._model(answer.model)
        window = await self._window(model, [*path, answer] if answer.content else path)
        answer = replace(
            answer,
            status="streaming",
            finish=None,
            error_code=None,
            error_message=None,
            finished_ms=None,
            context_from=window.start,
        )
        job = self._start(tenant, model, path, answer, window)
        await self._conversations.save(None, [answer])
        return job

    async def stop(self, tenant: str, message_id: str) -> dict[str, object]:
        """End an answer and keep its text; the message as it then is."""
        job = self.job(tenant, message_id)
        if job is None:
            raise NotFoundError("running answer", "message_id")
        await job.end("stopped")
        return job.as_json()

    async def stop_conversation(self, conversation_id: str) -> None:
        """End the answer being made in a conversation, if there is one."""
        jobs = [job for job in self._jobs.values() if job.conversation_id == conversation_id]
        await self._end(jobs, "stopped")

    async def close(self) -> None:
        """End everything, because the server stops."""
        await self._end(list(self._jobs.values()), "server_stopped")

    async def _end(self, jobs: Sequence[Job], why: Ending) -> None:
        await asyncio.gather(*(job.end(why) for job in jobs))

    async def _conversation(self, tenant: str, conversation_id: str | None, content: str) -> Conversation:
        if conversation_id is not None:
            found = await self._conversations.get(tenant, conversation_id)
            if found is None:
                raise NotFoundError("conversation", "conversation_id")
            return found
        limit = self._settings.max_conversations
        if await self._conversations.count(tenant) >= limit:
            raise Refusal(
                "rate_limited",
                f"There are {limit} conversations, the limit (max_conversations): delete some first.",
            )
        now = now_ms()
        return Conversation(uuid.uuid4().hex, tenant, title_of(content), "", now, now)

    def _model(self, name: str) -> ModelInfo:
        if not name:
            chatting = [info for info in self._backend.models() if info.has_chat_template]
            if chatting:
                return chatting[0]
        return find_model(self._backend, name)

    async def _window(self, model: ModelInfo, path: Sequence[StoredMessage]) -> Window:
        return await window_of(self._backend, model, path, reserve_tokens=self._settings.min_answer_tokens)

    def _start(
        self,
        tenant: str,
        model: ModelInfo,
        path: Sequence[StoredMessage],
        answer: StoredMessage,
        window: Window,
    ) -> Job:
        self._check_limits(tenant, answer.conversation_id)
        messages = shown([*path, answer], window.start)
        request = Request(
            id=f"web-{uuid.uuid4().hex}",
            model=model.name,
            messages=messages,
            sampling=self._settings.sampling,
            stopping=Stopping(max_tokens=min(self._settings.max_answer_tokens, window.room_tokens)),
            tenant=tenant,
            continue_final_message=bool(answer.content),
            received_seconds=time.monotonic(),
        )
        job = Job(self._backend, self._conversations, self._settings, tenant, answer, request)
        self._jobs[answer.id] = job
        job.start(self._when_done)
        return job

    def _check_limits(self, tenant: str, conversation_id: str) -> None:
        running = [job for job in self._jobs.values() if job.running and job.tenant == tenant]
        if any(job.conversation_id == conversation_id for job in running):
            raise Refusal(
                "rate_limited", "An answer is being written in this conversation: wait for it or stop it."
            )
        limit = self._settings.max_running_answers
        if len(running) >= limit:
            raise Refusal(
                "rate_limited",
                f"{len(running)} of your answers are being written, the limit (max_running_answers): "
                "wait for one or stop one.",
            )

    def _when_done(self, job: Job) -> None:
        asyncio.get_running_loop().call_later(self._settings.linger_seconds, self._forget, job)

    def _forget(self, job: Job) -> None:
        if self._jobs.get(job.message_id) is job:
            del self._jobs[job.message_id]


def title_of(content: str) -> str:
    """The beginning of a message, cut at a word, as a first title."""
    line = " ".join(content.split())
    if len(line) <= _TITLE_CHARACTERS:
        return line or "New chat"
    cut = line[:_TITLE_CHARACTERS]
    return (cut[: cut.rfind(" ")] if " " in cut[20:] else cut) + "\N{HORIZONTAL ELLIPSIS}"
