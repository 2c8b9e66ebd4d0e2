"""One answer being made: a task that goes on without listeners, and its append-only log."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Literal

from ridgeline.api.errors import describe_failure
from ridgeline.protocol import Backend, Delta, Refusal, Request
from ridgeline.store.records import StoredMessage
from ridgeline.web.conversations import Conversations, now_ms
from ridgeline.web.rules import storable
from ridgeline.web.settings import WebSettings
from ridgeline.web.wire import message_json

log = logging.getLogger("ridgeline.web")

Ending = Literal["stopped", "unheard", "server_stopped", "taken_over"]
_CANCEL_GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a listener is told; `id` lets it go on from here later."""

    id: str
    kind: Literal["snapshot", "text", "end"]
    data: dict[str, object]


class Job:
    """Makes one answer, keeps it in the database as it grows, and tells listeners.

    The log is a list of pieces of text that only grows; an event's id is the run and how much of
    the log it covers. Whoever comes without a valid id first gets everything so far at once.
    """

    def __init__(
        self,
        backend: Backend,
        conversations: Conversations,
        settings: WebSettings,
        tenant: str,
        row: StoredMessage,
        request: Request,
    ) -> None:
        self.tenant = tenant
        self.conversation_id = row.conversation_id
        self.message_id = row.id
        self.run = row.run
        self.request = request
        self.running = True
        self._backend = backend
        self._conversations = conversations
        self._settings = settings
        self._row = row
        self._log: list[str] = []
        self._started_seconds = time.monotonic()
        self._first_seconds: float | None = None
        self._last_seconds = 0.0
        self._tokens = 0
        self._ending: Ending | None = None
        self._retry_after_seconds: float | None = None
        self._changed = asyncio.Event()
        self._listeners = 0
        self._unheard: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._generation: asyncio.Task[StoredMessage] | None = None
        self._end_task: asyncio.Task[None] | None = None

    def start(self, when_done: Callable[["Job"], None]) -> None:
        """Begin; `when_done` is called once, after the last save."""
        self._watch_listeners()
        self._task = asyncio.create_task(self._run(when_done), name=f"answer {self.message_id}")

    @property
    def row(self) -> StoredMessage:
        """The message as it stands now."""
        return (
            replace(self._row, content=self._row.content + "".join(self._log)) if self.running else self._row
        )

    def as_json(self) -> dict[str, object]:
        """The message as it stands now, for the page."""
        return message_json(self.row, retry_after_seconds=self._retry_after_seconds)

    async def end(self, why: Ending) -> None:
        """End the answer, keep its text, free its blocks; returns when all that is done."""
        if self.running and self._ending is None:
            self._ending = why
            self._backend.cancel(self.request.id)
        assert self._task is not None
        done, _ = await asyncio.wait((self._task,), timeout=_CANCEL_GRACE_SECONDS)
        if not done:
            # A save that takes long is waited for; a backend that does not end is not.
            if self._generation is not None:
                self._generation.cancel()
            await asyncio.wait((self._task,))

    def taken_over(self) -> None:
        """End it, for another server goes on with it; what was not saved is left out."""
        self._end_task = asyncio.create_task(self.end("taken_over"))

    async def listen(self, last_event_id: str | None) -> AsyncIterator[Event | None]:
        """Everything after `last_event_id`, then what comes, ending with `end`; None is a heartbeat.

        Without `end`, the answer goes on elsewhere.
        """
        self._listeners += 1
        self._watch_listeners()
        try:
            seen = self._index_of(last_event_id)
            if seen is None:
                seen = len(self._log)
                yield Event(self._id(seen), "snapshot", {"message": self.as_json()})
            while True:
                changed = self._changed
                if seen < len(self._log):
                    text, seen = "".join(self._log[seen:]), len(self._log)
                    yield Event(self._id(seen), "text", {"text": text})
                elif self._ending == "taken_over":
                    return
                elif not self.running:
                    problem = self._conversations.problem
                    yield Event(self._id(seen), "end", {"message": self.as_json(), "problem": problem})
                    return
                else:
                    try:
                        async with asyncio.timeout(self._settings.heartbeat_seconds):
                            await changed.wait()
                    except TimeoutError:
                        yield None
        finally:
            self._listeners -= 1
            self._watch_listeners()

    def _id(self, index: int) -> str:
        return f"{self.request.id}:{index}"

    def _index_of(self, event_id: str | None) -> int | None:
        run, _, index = (event_id or "").rpartition(":")
        if run != self.request.id or not index.isdecimal() or int(index) > len(self._log):
            return None
        return int(index)

    def _watch_listeners(self) -> None:
        if self._unheard is not None:
            self._unheard.cancel()
            self._unheard = None
        if self._listeners == 0 and self.running:
            loop = asyncio.get_running_loop()
            self._unheard = loop.call_later(self._settings.unheard_seconds, self._end_unheard)

    def _end_unheard(self) -> None:
        self._end_task = asyncio.create_task(self.end("unheard"))

    async def _run(self, when_done: Callable[["Job"], None]) -> None:
        self._generation = asyncio.create_task(self._generate())
        saver = asyncio.create_task(self._save_at_intervals())
        outcome = await self._outcome(self._generation)
        await saver
        final = self._with_numbers(replace(outcome, content=self._row.content + "".join(self._log)))
        if self._ending != "taken_over":
            await self._conversations.save(None, [final])
        self._row, self.running = final, False
        self._watch_listeners()
        self._notify()
        when_done(self)

    async def _outcome(self, generation: asyncio.Task[StoredMessage]) -> StoredMessage:
        try:
            return await generation
        except asyncio.CancelledError:
            return self._ended()
        except Refusal as refusal:
            self._retry_after_seconds = refusal.retry_after_seconds
            code, message = refusal.code, refusal.message
        except Exception as error:
            log.error("Answer %s failed: %s", self.request.id, describe_failure(error))
            code = "internal_error"
            message = f"The server failed on this answer; its log has the reason under {self.request.id}."
        return replace(self._row, status="failed", error_code=code, error_message=message)

    async def _generate(self) -> StoredMessage:
        stream = self._backend.generate(self.request)
        try:
            async for delta in stream:
                self._take(delta)
                if delta.finish == "cancelled":
                    return self._ended()
                if delta.finish is not None:
                    return replace(self._row, status="complete", finish=delta.finish)
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()
        return self._ended()

    def _take(self, delta: Delta) -> None:
        if delta.token_ids:
            self._last_seconds = time.monotonic()
            if self._first_seconds is None:
                self._first_seconds = self._last_seconds
            self._tokens += len(delta.token_ids)
        if delta.usage is not None:
            # The prompt of an answer that goes on ends with what there is of it, which is no prompt.
            before = (self._row.completion_tokens or 0) if self.request.continue_final_message else 0
            prompt_tokens = max(0, delta.usage.prompt_tokens - before)
            self._row = replace(
                self._row,
                prompt_tokens=prompt_tokens,
                cached_tokens=min(delta.usage.cached_tokens, prompt_tokens),
            )
        if delta.text:
            self._log.append(storable(delta.text))
            self._notify()

    def _ended(self) -> StoredMessage:
        """The row of an answer that did not come to its own end."""
        if self._ending == "stopped":
            return replace(self._row, status="stopped")
        return replace(self._row, status="interrupted", error_code=self._ending or "server_stopped")

    def _with_numbers(self, row: StoredMessage) -> StoredMessage:
        row = replace(row, finished_ms=now_ms())
        if self._first_seconds is None:
            return row
        ttft_ms = round((self._first_seconds - self._started_seconds) * 1000)
        decode_ms = round((self._last_seconds - self._first_seconds) * 1000)
        return replace(
            row,
            completion_tokens=(row.completion_tokens or 0) + self._tokens,
            ttft_ms=row.ttft_ms if row.ttft_ms is not None else ttft_ms,
            decode_ms=(row.decode_ms or 0) + decode_ms,
        )

    async def _save_at_intervals(self) -> None:
        assert self._generation is not None
        saved = 0
        while not self._generation.done():
            await asyncio.wait((self._generation,), timeout=self._settings.save_interval_seconds)
            if not self._generation.done() and len(self._log) > saved:
                saved = len(self._log)
                await self._conversations.save(None, [self.row])

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
