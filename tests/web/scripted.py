"""A backend that says what it is told to, word by word, and can be held in the middle."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

from ridgeline.protocol import (
    Delta,
    Message,
    ModelInfo,
    ModelStatus,
    Refusal,
    Request,
    Status,
    Timeline,
    Usage,
)

_WORDS = re.compile(r"\S+\s*|\s+")


def words(text: str) -> list[str]:
    """One token per word, with the white space after it."""
    return _WORDS.findall(text)


class ScriptedBackend:
    """A `Backend` without a model.

    Attributes:
        reply: what is answered when the script is empty.
        script: answers to give first, in order; a `Refusal` or another exception is raised.
        hold_after: stop after so many words until this is None again or the request is cancelled.
        delay_seconds: time per word.
        requests: what was asked, in order; those for titles are in `titles`.
        title: what is answered to those; nothing leaves a conversation the title it has.
        hold_titles: those wait until this is False again or they are cancelled.
        draining: whether the server is about to end.
        running: ids of requests that hold blocks.
        timelines: what is remembered of requests.
    """

    def __init__(self, reply: str = "Yes, of course.") -> None:
        self.reply = reply
        self.script: list[str | Exception] = []
        self.hold_after: int | None = None
        self.delay_seconds = 0.0
        self.requests: list[Request] = []
        self.titles: list[Request] = []
        self.title: str | Exception = ""
        self.hold_titles = False
        self.running: set[str] = set()
        self.timelines: list[Timeline] = []
        self.infos = [ModelInfo("tiny", 1, 2000, 100, 1000)]
        self.deaf = False
        self.draining = False
        self._cancelled: set[str] = set()

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        if request.id.startswith("title-"):
            async for delta in self._title(request):
                yield delta
            return
        self.requests.append(request)
        reply = self.script.pop(0) if self.script else self.reply
        if isinstance(reply, Refusal):
            raise reply
        prompt = len(await self.tokenize(request.model, messages=request.messages))
        context = next(info for info in self.infos if info.name == request.model).max_context_tokens
        if prompt + (request.stopping.max_tokens or 1) > context:
            raise Refusal("context_length_exceeded", f"The context holds {context} tokens.")
        self.running.add(request.id)
        try:
            count = 0
            for word in words(reply) if isinstance(reply, str) else ["Well, "]:
                await self._wait(request, count)
                if self._ended(request):
                    yield Delta(0, finish="cancelled", usage=Usage(prompt, count, prompt // 2))
                    return
                count += 1
                yield Delta(0, word, (count,))
                if count == request.stopping.max_tokens:
                    yield Delta(0, finish="length", usage=Usage(prompt, count, prompt // 2))
                    return
            if isinstance(reply, Exception):
                raise reply
            yield Delta(0, finish="stop", usage=Usage(prompt, count, prompt // 2))
        finally:
            self.running.discard(request.id)

    async def timeline(self, name: str, tenant: str) -> Sequence[Timeline]:
        return [t for t in self.timelines if name in (t.id, t.name) and t.tenant == tenant]

    async def _title(self, request: Request) -> AsyncIterator[Delta]:
        self.titles.append(request)
        self.running.add(request.id)
        try:
            while self.hold_titles and not self._ended(request):  # noqa: ASYNC110 - as in `_wait`
                await asyncio.sleep(0.005)
            if isinstance(self.title, Exception):
                raise self.title
            made = words(self.title)[: request.stopping.max_tokens]
            whole = len(made) == len(words(self.title))
            yield Delta(0, "".join(made), tuple(range(len(made))))
            finish = "cancelled" if self._ended(request) else "stop" if whole else "length"
            yield Delta(0, finish=finish, usage=Usage(1, len(made), 0))
        finally:
            self.running.discard(request.id)

    async def _wait(self, request: Request, count: int) -> None:
        await asyncio.sleep(self.delay_seconds)
        # Polled: tests change `hold_after` from another thread.
        while not self._ended(request):
            held = self.hold_after
            if held is None or count < held:
                return
            await asyncio.sleep(0.005)

    def _ended(self, request: Request) -> bool:
        return request.id in self._cancelled

    def cancel(self, request_id: str) -> None:
        if not self.deaf:
            self._cancelled.add(request_id)

    def models(self) -> Sequence[ModelInfo]:
        return self.infos

    def status(self) -> Status:
        models = tuple(
            ModelStatus(info.name, 0, 8, 0, 8, 9, 9, 0, 0, 16, 1.0, "print") for info in self.infos
        )
        return Status("draining" if self.draining else "ready", models)

    async def tokenize(
        self, model: str, text: str | None = None, messages: Sequence[Message] | None = None
    ) -> list[int]:
        texts = [text] if text is not None else [message.content for message in messages or ()]
        return [0] * sum(len(words(part)) for part in texts)

    async def detokenize(
        self, model: str, token_ids: Sequence[int], *, skip_special_tokens: bool = False
    ) -> str:
        return " ".join(map(str, token_ids))

    async def drain(self, timeout_seconds: float) -> None:
        return None
