"""Asking, making anew, going on, stopping: from a message to the job that answers it."""

import asyncio
import time
import uuid
import weakref
from collections.abc import Sequence
from dataclasses import replace
from types import EllipsisType

from ridgeline.api.models import find_model
from ridgeline.protocol import Backend, ModelInfo, Refusal, Request, Stopping
from ridgeline.store.records import ChatSettings, Conversation, StoredMessage
from ridgeline.web.context import Window, path_to, shown, window_of
from ridgeline.web.conversations import Conversations, now_ms
from ridgeline.web.job import Ending, Job
from ridgeline.web.resuming import Seen, is_unwritten, longest, may_resume
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
from ridgeline.web.wire import message_json


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
        self._one_goes_on: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        conversations.temporary.is_busy = self.is_busy
        conversations.on_taken_over = self._taken_over

    def job(self, tenant: str, message_id: str) -> Job | None:
        """The job of an answer, if it is running or has just ended."""
        job = self._jobs.get(message_id)
        return job if job is not None and job.tenant == tenant else None

    async def writer(self, tenant: str, message_id: str) -> Job | None:
        """The same, unless the answer has gone on elsewhere since the job ended."""
        job = self.job(tenant, message_id)
        if job is None or job.running:
            return job
        row = await self._conversations.message(job.conversation_id, message_id)
        return job if row is None or row.run == job.run else None

    def is_busy(self, conversation_id: str) -> bool:
        """Whether an answer is being made in a conversation."""
        return any(job.running and job.conversation_id == conversation_id for job in self._jobs.values())

    def with_live(self, rows: Sequence[StoredMessage]) -> list[dict[str, object] | StoredMessage]:
        """Rows of the database, those being answered replaced by how they stand now."""
        return [job.as_json() if (job := self._live(row)) else row for row in rows]

    def as_now(self, rows: Sequence[StoredMessage]) -> list[StoredMessage]:
        """The same as rows."""
        return [job.row if (job := self._live(row)) else row for row in rows]

    def _live(self, row: StoredMessage) -> Job | None:
        job = self._jobs.get(row.id)
        return job if job is not None and job.run == row.run else None

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

    async def go_on(self, tenant: str, message_id: str, seen: Seen | None = None) -> Job:
        """Continue an answer that is not whole, or make it anew if it has no text.

        Args:
            seen: what the page has of it, which may be more than what was saved.

        Raises:
            Refusal: other messages come after it, it is complete, or cannot be continued.
        """
        async with self._alone(message_id):
            job = self.job(tenant, message_id)
            if job is not None and job.running:
                return job
            conversation, rows, answer = await self._tree_with(tenant, message_id)
            if not _may_go_on(answer, rows):
                raise Refusal(
                    "invalid_request", "Only the last answer can be continued, while it is not whole."
                )
            begun = replace(answer, content=longest(answer, seen))
            job = await self._go_on(conversation, rows, answer, begun)
            if job is None:
                raise Refusal(
                    "rate_limited", "An answer is being written in this conversation: wait for it or stop it."
                )
            return job

    async def resume(self, tenant: str, message_id: str, seen: Seen) -> Job | StoredMessage:
        """Go on with an answer whose server is gone, to where it would have come; nobody has to ask for it.

        Returns:
            What writes the answer here; the message as it stands where it is not to be gone on with:
            it has ended, or somebody else goes on with it.

        Raises:
            Refusal: this server cannot go on with it now.
        """
        async with self._alone(message_id):
            job = self.job(tenant, message_id)
            if job is not None and job.running:
                return job
            conversation, rows, answer = await self._tree_with(tenant, message_id)
            if not may_resume(answer, rows, seen):
                return answer
            text = longest(answer, seen)
            model = self._model(answer.model)
            made_tokens = len(await self._backend.tokenize(model.name, text)) if text else 0
            begun = replace(answer, content=text, completion_tokens=made_tokens)
            job = await self._go_on(conversation, rows, answer, begun, made_tokens)
            return job or await self._now(answer)

    def _alone(self, message_id: str) -> asyncio.Lock:
        return self._one_goes_on.setdefault(message_id, asyncio.Lock())

    async def _go_on(
        self,
        conversation: Conversation,
        rows: Sequence[StoredMessage],
        before: StoredMessage,
        begun: StoredMessage,
        made_tokens: int = 0,
    ) -> Job | None:
        """Start a job that takes over from the one before; None where another one has.

        Args:
            made_tokens: of the answer, that count towards its length.
        """
        more = len(begun.content) - len(before.content)
        check_size(conversation, rows, self._settings, messages=0, characters=more)
        self._check_limits(conversation.tenant, conversation.id)
        model = self._model(before.model)
        path = path_to(rows, before)[:-1]
        window = await self._window(
            conversation, model, [*path, begun] if begun.content else path, made_tokens
        )
        begun = replace(
            begun,
            status="streaming",
            finish=None,
            error_code=None,
            error_message=None,
            finished_ms=None,
            context_from=window.start,
            run=uuid.uuid4().hex,
        )
        taken = await self._conversations.take_over(before, begun)
        if taken is None:
            return None
        try:
            job = self._start(conversation, model, path, taken, window, made_tokens)
        except Refusal:  # others began meanwhile: it is as it was, with what the page had of it
            left = replace(before, content=taken.content)
            await self._conversations.take_over(taken, left)
            raise
        await self._keep(conversation, job, [taken], touch=False)
        return job

    async def _now(self, before: StoredMessage) -> StoredMessage:
        found = await self._conversations.message(before.conversation_id, before.id)
        if found is None:
            raise NotFoundError("message", "message_id")
        return found

    async def stop(self, tenant: str, message_id: str, seen: Seen | None = None) -> dict[str, object]:
        """End an answer and keep its text; the message as it then is.

        One whose server is gone is not gone on with by itself any more.
        """
        job = await self.writer(tenant, message_id)
        if job is not None:
            await job.end("stopped")
            return job.as_json()
        conversation, rows, answer = await self._tree_with(tenant, message_id)
        if seen is None or not is_unwritten(answer, seen):
            return message_json(answer)
        text = longest(answer, seen)
        more = len(text) - len(answer.content)
        check_size(conversation, rows, self._settings, messages=0, characters=more)
        stopped = replace(
            answer,
            content=text,
            status="stopped",
            error_code=None,
            error_message=None,
            finished_ms=now_ms(),
            run=uuid.uuid4().hex,
        )
        return message_json(await self._conversations.take_over(answer, stopped) or await self._now(answer))

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
            run=uuid.uuid4().hex,
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
        self,
        conversation: Conversation,
        model: ModelInfo,
        path: Sequence[StoredMessage],
        made_tokens: int = 0,
    ) -> Window:
        return await window_of(
            self._backend,
            model,
            path,
            reserve_tokens=max(1, self._settings.min_answer_tokens - made_tokens),
            system_prompt=conversation.settings.system_prompt,
        )

    def _start(
        self,
        conversation: Conversation,
        model: ModelInfo,
        path: Sequence[StoredMessage],
        answer: StoredMessage,
        window: Window,
        made_tokens: int = 0,
    ) -> Job:
        tenant, settings = conversation.tenant, conversation.settings
        self._check_limits(tenant, conversation.id)
        limit = settings.max_tokens or self._settings.max_answer_tokens
        # One that came to its limit and was continued may have as much again.
        max_tokens = min(limit - made_tokens % limit, window.room_tokens)
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
        other = self._jobs.get(answer.id)
        if other is not None and other.conversation_id != conversation.id:
            raise Refusal("invalid_request", f"The id {answer.id} of this answer is another's, too.")
        job = Job(self._backend, self._conversations, self._settings, tenant, answer, request)
        self._jobs[answer.id] = job
        job.start(self._when_done)
        return job

    def _check_limits(self, tenant: str, conversation_id: str) -> None:
        if self._backend.status().state == "draining":
            raise Refusal("shutting_down", "The server is shutting down and begins no answer.")
        running = [job for job in self._jobs.values() if job.running and job.tenant == tenant]
        check_running(conversation_id, [job.conversation_id for job in running], self._settings)

    def _when_done(self, job: Job) -> None:
        self._titles.consider(job)
        asyncio.get_running_loop().call_later(self._settings.linger_seconds, self._forget, job)

    def _taken_over(self, message_id: str) -> None:
        job = self._jobs.pop(message_id, None)
        if job is not None:
            job.taken_over()

    def _forget(self, job: Job) -> None:
        if self._jobs.get(job.message_id) is job:
            del self._jobs[job.message_id]


def _with_answer(conversation: Conversation, answer: StoredMessage) -> Conversation:
    """The conversation once an answer has begun in it: it shows that one."""
    return replace(conversation, model=answer.model, updated_ms=answer.created_ms, leaf_id=answer.id)


def _may_go_on(answer: StoredMessage, rows: Sequence[StoredMessage]) -> bool:
    whole = answer.status == "complete" and answer.finish != "length"
    return answer.role == "assistant" and not whole and all(row.parent_id != answer.id for row in rows)
