"""Asking, making anew, going on, stopping: from a message to the job that answers it."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from types import EllipsisType

from ridgeline.api.models import find_model
from ridgeline.protocol import Backend, ModelInfo, Refusal, Request, Stopping
from ridgeline.store.records import ChatSettings, Conversation, StoredMessage
from ridgeline.web.context import Window, path_to, shown, window_of
from ridgeline.web.conversations import Conversations, now_ms
from ridgeline.web.job import Ending, Job
from ridgeline.web.rules import (
    NotFoundError,
    check_running,
    check_size,
    checked_content,
    place_in,
    sampling_of,
)
from ridgeline.web.settings import WebSettings
from ridgeline.web.temporary import is_temporary, new_temporary_id
from ridgeline.web.titles import Titles, title_of


class Answers:
    """All answers being made for the page, and the rules about how many there may be."""

    def __init__(
        self, backend: Backend, conversations: Conversations, titles: Titles, settings: WebSettings
    ) -> None:
        self._backend = backend
        self._conversations = conversations
        self._titles = titles
        self._settings = settings
        self._jobs: dict[str, Job] = {}
        conversations.temporary.is_busy = self.is_busy

    def job(self, tenant: str, message_id: str) -> Job | None:
        """The job of an answer, if it is running or has just ended."""
        job = self._jobs.get(message_id)
        return job if job is not None and job.tenant == tenant else None

    def is_busy(self, conversation_id: str) -> bool:
        """Whether an answer is being made in a conversation."""
        return any(job.running and job.conversation_id == conversation_id for job in self._jobs.values())

    def with_live(self, rows: Sequence[StoredMessage]) -> list[dict[str, object] | StoredMessage]:
        """Rows of the database, those being answered replaced by how they stand now."""
        return [self._jobs[row.id].as_json() if row.id in self._jobs else row for row in rows]

    def as_now(self, rows: Sequence[StoredMessage]) -> list[StoredMessage]:
        """The same as rows."""
        return [self._jobs[row.id].row if row.id in self._jobs else row for row in rows]

    async def ask(
        self,
        tenant: str,
        conversation_id: str | None,
        content: str,
        model_name: str | None,
        *,
        parent_id: str | EllipsisType | None = ...,
        settings: ChatSettings | None = None,
        temporary: bool = False,
    ) -> tuple[Conversation, StoredMessage, Job]:
        """Store a message and begin to answer it; without a conversation, in a new one.

        Args:
            parent_id: the message to come after; None for another beginning of the conversation,
                and where it is left out, the end of the branch that is shown.
            settings: of a new conversation.
            temporary: a new conversation is kept in memory only.

        Raises:
            Refusal: the message cannot be answered; nothing is stored then.
        """
        content = checked_content(content, self._settings)
        if conversation_id is None:
            conversation = await self._new(tenant, content, settings or ChatSettings(), temporary)
            rows: list[StoredMessage] = []
        else:
            conversation = await self._conversations.existing(tenant, conversation_id)
            rows = await self._conversations.messages(conversation.id)
        check_size(conversation, rows, self._settings, messages=2, characters=len(content))
        path = place_in(conversation, rows, parent_id)
        question = StoredMessage(
            id=uuid.uuid4().hex,
            conversation_id=conversation.id,
            parent_id=path[-1].id if path else None,
            position=len(path),
            role="user",
            content=content,
            status="complete",
            created_ms=now_ms(),
        )
        job = await self._begin(conversation, model_name, [*path, question])
        if conversation_id is None:
            conversation = _with_answer(conversation, job.row)
            await self._conversations.save(conversation, [question, job.row])
        else:
            conversation = await self._keep(conversation, job, [question, job.row])
        return conversation, question, job

    async def regenerate(
        self, tenant: str, message_id: str, model_name: str | None = None
    ) -> tuple[Conversation, Job]:
        """Answer the same question once more, beside the answer that is there.

        Raises:
            Refusal: it is not an answer, or one being written.
        """
        conversation, rows, answer = await self._tree_with(tenant, message_id)
        if answer.role != "assistant" or answer.parent_id is None:
            raise Refusal("invalid_request", "Only the answer to a message can be made anew.")
        if answer.status == "streaming":
            raise Refusal("rate_limited", "This answer is being written: wait for it or stop it.")
        check_size(conversation, rows, self._settings, messages=1, characters=0)
        job = await self._begin(conversation, model_name, path_to(rows, answer)[:-1])
        return await self._keep(conversation, job, [job.row]), job

    async def go_on(self, tenant: str, message_id: str) -> Job:
        """Continue an answer that is not whole, or make it anew if it has no text.

        Raises:
            Refusal: other messages come after it, it is complete, or cannot be continued.
        """
        conversation, rows, answer = await self._tree_with(tenant, message_id)
        whole = answer.status == "complete" and answer.finish != "length"
        if answer.role != "assistant" or whole or any(row.parent_id == message_id for row in rows):
            raise Refusal("invalid_request", "Only the last answer can be continued, while it is not whole.")
        if answer.status == "streaming" and answer.id in self._jobs:
            return self._jobs[answer.id]
        path = path_to(rows, answer)[:-1]
        model = self._model(answer.model)
        window = await self._window(conversation, model, [*path, answer] if answer.content else path)
        answer = replace(
            answer,
            status="streaming",
            finish=None,
            error_code=None,
            error_message=None,
            finished_ms=None,
            context_from=window.start,
        )
        job = self._start(conversation, model, path, answer, window)
        await self._keep(conversation, job, [answer], touch=False)
        return job

    async def stop(self, tenant: str, message_id: str) -> dict[str, object]:
        """End an answer and keep its text; the message as it then is."""
        job = self.job(tenant, message_id)
        if job is None:
            raise NotFoundError("running answer", "message_id")
        await job.end("stopped")
        return job.as_json()

    async def stop_conversation(self, conversation_id: str) -> None:
        """End the answer being made in a conversation, if there is one, and the wish for a title."""
        jobs = [job for job in self._jobs.values() if job.conversation_id == conversation_id]
        await self._end(jobs, "stopped")
        await self._titles.cancel(conversation_id)

    async def stop_all(self, tenant: str) -> None:
        """The same in all conversations of a tenant but the temporary ones."""
        mine = {job.conversation_id for job in self._jobs.values() if job.tenant == tenant}
        await asyncio.gather(*(self.stop_conversation(name) for name in mine if not is_temporary(name)))

    async def close(self) -> None:
        """End everything, because the server stops."""
        await self._end(list(self._jobs.values()), "server_stopped")

    async def _end(self, jobs: Sequence[Job], why: Ending) -> None:
        await asyncio.gather(*(job.end(why) for job in jobs))

    async def _tree_with(
        self, tenant: str, message_id: str
    ) -> tuple[Conversation, list[StoredMessage], StoredMessage]:
        """A message's conversation, all messages of that, and the message."""
        conversation = await self._conversations.of_message(tenant, message_id)
        if conversation is not None:
            rows = await self._conversations.messages(conversation.id)
            for row in rows:
                if row.id == message_id:
                    return conversation, rows, row
        raise NotFoundError("message", "message_id")

    async def _new(self, tenant: str, content: str, settings: ChatSettings, temporary: bool) -> Conversation:
        now = now_ms()
        title = title_of(content)
        if temporary:
            self._conversations.temporary.check_room(tenant)
            return Conversation(new_temporary_id(), tenant, title, "", now, now, settings=settings)
        limit = self._settings.max_conversations
        if await self._conversations.count(tenant) >= limit:
            raise Refusal(
                "limit_reached",
                f"There are {limit} conversations, the limit (--site max-conversations): delete some first.",
            )
        return Conversation(uuid.uuid4().hex, tenant, title, "", now, now, settings=settings)

    async def _begin(
        self, conversation: Conversation, model_name: str | None, path: Sequence[StoredMessage]
    ) -> Job:
        """Start an answer to the last message of `path`."""
        model = self._model(model_name or conversation.model)
        window = await self._window(conversation, model, path)
        answer = StoredMessage(
            id=uuid.uuid4().hex,
            conversation_id=conversation.id,
            parent_id=path[-1].id,
            position=len(path),
            role="assistant",
            content="",
            status="streaming",
            created_ms=now_ms(),
            model=model.name,
            context_from=window.start,
        )
        return self._start(conversation, model, path, answer, window)

    async def _keep(
        self, conversation: Conversation, job: Job, rows: Sequence[StoredMessage], *, touch: bool = True
    ) -> Conversation:
        """Write down that an answer has begun; ends it where its conversation has gone meanwhile."""

        def change(found: Conversation) -> Conversation:
            return _with_answer(found, job.row) if touch else replace(found, leaf_id=job.message_id)

        kept = None
        try:
            kept = await self._conversations.change(conversation.tenant, conversation.id, change, rows)
        finally:
            if kept is None:
                await job.end("stopped")
        if kept is None:
            raise NotFoundError("conversation", "conversation_id")
        return kept

    def _model(self, name: str) -> ModelInfo:
        if not name:
            chatting = [info for info in self._backend.models() if info.has_chat_template]
            if chatting:
                return chatting[0]
        return find_model(self._backend, name)

    async def _window(
        self, conversation: Conversation, model: ModelInfo, path: Sequence[StoredMessage]
    ) -> Window:
        return await window_of(
            self._backend,
            model,
            path,
            reserve_tokens=self._settings.min_answer_tokens,
            system_prompt=conversation.settings.system_prompt,
        )

    def _start(
        self,
        conversation: Conversation,
        model: ModelInfo,
        path: Sequence[StoredMessage],
        answer: StoredMessage,
        window: Window,
    ) -> Job:
        tenant, settings = conversation.tenant, conversation.settings
        self._check_limits(tenant, conversation.id)
        max_tokens = min(settings.max_tokens or self._settings.max_answer_tokens, window.room_tokens)
        request = Request(
            id=f"web-{uuid.uuid4().hex}",
            model=model.name,
            messages=shown([*path, answer], window.start, settings.system_prompt),
            sampling=sampling_of(self._settings, settings),
            stopping=Stopping(max_tokens=max_tokens),
            tenant=tenant,
            continue_final_message=bool(answer.content),
            received_seconds=time.monotonic(),
            name=answer.id,
        )
        job = Job(self._backend, self._conversations, self._settings, tenant, answer, request)
        self._jobs[answer.id] = job
        job.start(self._when_done)
        return job

    def _check_limits(self, tenant: str, conversation_id: str) -> None:
        running = [job for job in self._jobs.values() if job.running and job.tenant == tenant]
        check_running(conversation_id, [job.conversation_id for job in running], self._settings)

    def _when_done(self, job: Job) -> None:
        self._titles.consider(job)
        asyncio.get_running_loop().call_later(self._settings.linger_seconds, self._forget, job)

    def _forget(self, job: Job) -> None:
        if self._jobs.get(job.message_id) is job:
            del self._jobs[job.message_id]


def _with_answer(conversation: Conversation, answer: StoredMessage) -> Conversation:
    """The conversation once an answer has begun in it: it shows that one."""
    return replace(conversation, model=answer.model, updated_ms=answer.created_ms, leaf_id=answer.id)
