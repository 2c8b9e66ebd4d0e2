"""A backend with a script in place of a model: deterministic, instant, and it remembers what was asked."""

import asyncio
import hashlib
import random
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ridgeline.protocol import (
    Delta,
    Message,
    ModelInfo,
    ModelStatus,
    Refusal,
    Request,
    Status,
    TokenLogprob,
    Usage,
)

WORDS = (" alpha", " beta", " gamma", " delta", " épsilon", " 日本", " 🌍", " omega", "\n", ".")
FIRST_WORD = 256
VOCAB_SIZE = FIRST_WORD + len(WORDS)


@dataclass
class FakeBackend:
    """Draws words by a hash of (prompt, seed, position); ids below 256 are bytes, the rest words.

    Attributes:
        length: words in an answer that nothing else ends.
        reply: words to answer with instead of drawn ones.
        refuse: raised by `generate` before the first delta.
        fail_after: raise a plain exception after so many deltas of an answer.
        hold_after: stop for ever after so many deltas of an answer; such a request ends by
            cancelling only.
        cancel_after: end with `cancelled` after so many deltas, as `cancel` does.
        state: readiness told by `status`.
        full: `status` tells a full queue.
        requests: what was asked, in order.
        closed: ids of requests whose stream was closed before its end.
        held: set when a request has reached `hold_after`.
        delivered: how many deltas have been taken.
    """

    length: int = 8
    reply: Sequence[str] | None = None
    refuse: Refusal | None = None
    fail_after: int | None = None
    hold_after: int | None = None
    cancel_after: int | None = None
    state: str = "ready"
    full: bool = False
    estimated_wait_seconds: float = 3.2
    requests: list[Request] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    delivered: int = 0
    infos: tuple[ModelInfo, ...] = (
        ModelInfo("fake-model", 1700000000, 1024, VOCAB_SIZE, 1000, aliases=("small", "org/fake")),
        ModelInfo("no-template", 1700000000, 512, VOCAB_SIZE, 1000, has_chat_template=False),
    )

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        refuse = self.refuse
        self.requests.append(request)
        if refuse is not None:
            raise refuse
        finished = False
        try:
            prompt = self._prompt_ids(request)
            limit = self.infos[0].max_context_tokens
            if len(prompt) >= limit:
                raise Refusal(
                    "context_length_exceeded",
                    f"The prompt has {len(prompt)} tokens, but the model's context is {limit}.",
                    param="messages",
                )
            answers = [self._answer(request, index, prompt) for index in range(request.n)]
            for step in range(max(len(answer) for answer in answers)):
                await asyncio.sleep(0)
                for answer in answers:
                    await self._script(step, request)
                    if step < len(answer):
                        self.delivered += 1
                        yield answer[step]
            finished = True
        finally:
            if not finished:
                self.closed.append(request.id)
                self.cancelled.set()

    async def _script(self, step: int, request: Request) -> None:
        if self.fail_after is not None and step >= self.fail_after:
            raise RuntimeError(
                f"the device fell off the bus while reading {request.messages or request.prompt!r}"
            )
        if self.hold_after is not None and step >= self.hold_after:
            self.held.set()
            await asyncio.Event().wait()

    def cancel(self, request_id: str) -> None:
        self.closed.append(request_id)

    def models(self) -> Sequence[ModelInfo]:
        return self.infos

    def status(self) -> Status:
        waiting = 10 if self.full else 0
        models = tuple(
            ModelStatus(
                info.name,
                0,
                8,
                waiting,
                10,
                100,
                100,
                0,
                0,
                16,
                self.estimated_wait_seconds,
                f"print-{info.name}",
            )
            for info in self.infos
        )
        return Status(
            self.state, models, detail="" if self.state == "ready" else "the weights are being read"
        )

    async def tokenize(
        self, model: str, text: str | None = None, messages: Sequence[Message] | None = None
    ) -> list[int]:
        return encode(text if text is not None else _render(messages or ()))

    async def detokenize(
        self, model: str, token_ids: Sequence[int], *, skip_special_tokens: bool = False
    ) -> str:
        return decode(token_ids)

    async def drain(self, timeout_seconds: float) -> None:
        self.state = "draining"

    def _prompt_ids(self, request: Request) -> list[int]:
        if request.messages is not None:
            return encode(_render(request.messages))
        return encode(request.prompt) if isinstance(request.prompt, str) else list(request.prompt or ())

    def _answer(self, request: Request, index: int, prompt: list[int]) -> list[Delta]:
        words = self._words(request, index, prompt)
        stopping, sampling = request.stopping, request.sampling
        limit = stopping.max_tokens if stopping.max_tokens is not None else len(words) + 1
        cut = _cut("".join(words[:limit]), stopping.stop)
        deltas = [self._echoed(request, index, prompt)] if request.echo else []
        length = drawn = 0
        for position, word in enumerate(words[:limit]):
            scores = None if sampling.logprobs is None else (_score(word, sampling.logprobs),)
            deltas.append(Delta(index, word[: max(0, cut.keep - length)], (_id_of(word),), scores))
            length, drawn = length + len(word), position + 1
            if length >= cut.end:
                break
        finish = "stop" if cut.by is not None or limit > len(words) else "length"
        if self.cancel_after is not None:
            deltas, finish = deltas[: self.cancel_after], "cancelled"
        usage = Usage(len(prompt), drawn, cached_tokens=len(prompt) // 16 * 16)
        return [*deltas, Delta(index, finish=finish, stop_reason=cut.by, usage=usage)]

    def _words(self, request: Request, index: int, prompt: list[int]) -> list[str]:
        if self.reply is not None:
            return list(self.reply)
        sampling = request.sampling
        if sampling.temperature == 0:
            seed = "greedy"
        elif sampling.seed is None:
            seed = str(random.random())
        else:
            seed = str(sampling.seed + index)
        count = (request.stopping.max_tokens or 64) if request.stopping.ignore_eos else self.length
        return [WORDS[_hash(seed, prompt, position) % len(WORDS)] for position in range(count)]

    def _echoed(self, request: Request, index: int, prompt: list[int]) -> Delta:
        if request.sampling.prompt_logprobs is None:
            return Delta(index, decode(prompt), tuple(prompt))
        scores = [
            TokenLogprob(token, decode([token]), token_bytes(token), None if position == 0 else -0.5)
            for position, token in enumerate(prompt)
        ]
        return Delta(index, decode(prompt), tuple(prompt), tuple(scores))


def encode(text: str) -> list[int]:
    return list(text.encode())


def token_bytes(token: int) -> bytes:
    return bytes([token]) if token < FIRST_WORD else WORDS[token - FIRST_WORD].encode()


def decode(token_ids: Sequence[int]) -> str:
    return b"".join(map(token_bytes, token_ids)).decode(errors="replace")


def _render(messages: Sequence[Message]) -> str:
    return "".join(f"<{message.role}>{message.content}" for message in messages)


def _hash(seed: str, prompt: list[int], position: int) -> int:
    return hashlib.sha256(f"{seed}/{prompt}/{position}".encode()).digest()[0]


def _id_of(word: str) -> int:
    return FIRST_WORD + WORDS.index(word) if word in WORDS else 0


class Cut(NamedTuple):
    """How much of a text to keep, up to where it was drawn, and by which stop string."""

    keep: int
    end: int
    by: str | None


def _cut(text: str, stops: Sequence[str]) -> Cut:
    found = [Cut(text.index(stop), text.index(stop) + len(stop), stop) for stop in stops if stop in text]
    # Without one, nothing is cut and no length is enough to end the answer.
    return min(found, default=Cut(len(text), len(text) + 1, None))


def _score(word: str, alternatives: int) -> TokenLogprob:
    def entry(text: str, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        return TokenLogprob(_id_of(text), text, text.encode(), logprob, top)

    others = [word, *(other for other in WORDS if other != word)]
    # The last of many cannot be drawn at all.
    top = [entry(other, -0.25 * rank if rank < 9 else float("-inf")) for rank, other in enumerate(others)]
    return entry(word, 0.0, tuple(top[:alternatives]))
