"""The front door as a `Backend`: asks the core, talks to replicas, and goes on elsewhere when one fails."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import aiohttp

from ridgeline.fleet.config import Fleet
from ridgeline.fleet.core.door import Arrival, Decision, Door, Refuse, Send
from ridgeline.fleet.core.keys import canonical, prefix_keys
from ridgeline.fleet.membership import Membership
from ridgeline.fleet.upstream import (
    CONNECT_SECONDS,
    MAX_LINE_BYTES,
    SILENCE_SECONDS,
    Fault,
    Full,
    Upstream,
    body_of,
)
from ridgeline.protocol import Delta, Message, ModelInfo, ModelStatus, Refusal, Request, Status, Usage

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1

LOOKED_BACK = 32
"""Tokens at the end of an answer that may not have been given out as text yet."""

ASSUMED_CONTEXT = 8192
UNKNOWN_VOCABULARY = 1 << 31


@dataclass(slots=True)
class _Open:
    """A request between its arrival and its end."""

    mailbox: asyncio.Queue[Decision] = field(default_factory=asyncio.Queue)
    cancelled: bool = False


@dataclass(slots=True)
class _Answer:
    """What has been given out of an answer: where another replica has to go on.

    `ids` are the tokens that `text` stands for, where replicas tell them; `before` of them, and as many
    tokens of the prompt as that, were the prompt of the replica that goes on.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list)
    pieces: int = 0
    before: int = 0
    finish: Delta | None = None
    usage: Usage | None = None


class FrontDoor:
    """Serves a fleet's models. Use from one event loop; `start` first.

    Args:
        fleet: as the file says.
        region: of this front door; the first of the fleet's if None.
        file: that the fleet was read from; it is read again when it changes.
        rng: for choices among equals.
    """

    def __init__(
        self,
        fleet: Fleet,
        region: str | None = None,
        file: Path | None = None,
        rng: random.Random | None = None,
    ) -> None:
        names = [each.name for each in fleet.regions]
        if region is not None and region not in names:
            raise Refusal("invalid_request", f"There is no region {region}; there are {', '.join(names)}.")
        self._fleet, self._file = fleet, file
        self._members: Membership | None = None
        self.region = region or names[0]
        self.door = Door(
            self.region,
            fleet.round_trips(),
            max_wait_seconds=fleet.capacity.max_wait_seconds,
            max_waiting=fleet.capacity.max_waiting,
            rng=rng,
        )
        self._open: dict[str, _Open] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._state: Literal["starting", "ready", "draining"] = "starting"
        self._idle = asyncio.Event()
        self._idle.set()

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Look for all replicas; ready when it returns, however many are there."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=timeout, read_bufsize=MAX_LINE_BYTES
        )
        self._members = Membership(self.door, self._fleet, self._session, self._act)
        await self._members.start()
        self._tasks.append(asyncio.create_task(self._tick()))
        if self._file is not None:
            self._tasks.append(asyncio.create_task(self._members.follow(self._file)))
        self._state = "ready"

    async def drain(self, timeout_seconds: float) -> None:
        """See `Backend.drain`."""
        self._state = "draining"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_seconds)

    async def close(self) -> None:
        """End the tasks and connections."""
        self._state = "draining"
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._members is not None:
            await self._members.close()
            await self._session.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._act(self.door.tick(time.monotonic()))

    def _act(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            self._open[decision.request].mailbox.put_nowait(decision)

    @property
    def fleet(self) -> Fleet:
        """As it is now."""
        return self._fleet if self._members is None else self._members.fleet

    def set_state(self, replica_ids: Sequence[str], state: str) -> None:
        """`up`, `cordoned` or `draining`; raises Refusal for one that is not there."""
        for replica_id in replica_ids:
            if replica_id not in self.door.replicas:
                there = ", ".join(sorted(self.door.replicas)) or "none"
                raise Refusal(
                    "invalid_request",
                    f"There is no replica {replica_id}; there are: {there}.",
                    param="replicas",
                )
        self._act(self.door.set_state(replica_ids, state, time.monotonic()))

    def _upstream(self, replica_id: str) -> Upstream:
        assert self._members is not None, "not started"
        return self._members.upstreams[replica_id]

    # --- Backend ---------------------------------------------------------------------------------

    def models(self) -> Sequence[ModelInfo]:
        """The fleet's models."""
        contexts = {} if self._members is None else self._members.contexts
        return [
            ModelInfo(
                model.name,
                created=0,
                max_context_tokens=contexts.get(model.name, ASSUMED_CONTEXT),
                vocab_size=UNKNOWN_VOCABULARY,
                parameters=0,
                aliases=(model.class_,) if model.class_ else (),
            )
            for model in self.fleet.models
        ]

    def status(self) -> Status:
        """Sums over the replicas of each model."""
        now, models = time.monotonic(), []
        for model in self.fleet.models:
            replicas = [each for each in self.door.replicas.values() if model.name in each.models]
            models.append(
                ModelStatus(
                    name=model.name,
                    batch_size=sum(each.running for each in replicas),
                    max_batch_size=sum(each.slots for each in replicas),
                    waiting=self.door.waiting,
                    max_waiting=self.fleet.capacity.max_waiting,
                    blocks_total=0,
                    blocks_free=0,
                    blocks_held=0,
                    blocks_idle=0,
                    block_size_tokens=1,
                    estimated_wait_seconds=self.door.wait_seconds(model.name, now) or 0.0,
                    fingerprint="",
                )
            )
        return Status(self._state, tuple(models), "", len(self._open))

    def cancel(self, request_id: str) -> None:
        """See `Backend.cancel`; takes effect with the next piece of the answer, or in the line at once."""
        opened = self._open.get(request_id)
        if opened is not None:
            opened.cancelled = True
            opened.mailbox.put_nowait(Refuse(request_id, Refusal("shutting_down", "It was cancelled.")))

    async def tokenize(
        self, model: str, text: str | None = None, messages: Sequence[Message] | None = None
    ) -> list[int]:
        """Some replica's answer."""
        body: dict[str, object] = {"model": model}
        if messages is None:
            body["prompt"] = text or ""
        else:
            body["messages"] = [{"role": each.role, "content": each.content} for each in messages]
        return [int(token) for token in (await self._ask_any(model, "/tokenize", body))["tokens"]]

    async def detokenize(self, model: str, token_ids: Sequence[int]) -> str:
        """Some replica's answer."""
        answer = await self._ask_any(model, "/detokenize", {"model": model, "tokens": list(token_ids)})
        return str(answer["prompt"])

    async def _ask_any(self, model: str, path: str, body: dict[str, object]) -> dict[str, Any]:
        now = time.monotonic()
        for replica in list(self.door.replicas.values()):
            if replica.takes(model, now):
                upstream = self._upstream(replica.id)
                with contextlib.suppress(Fault, Full):
                    answer = await upstream.ask(self._session, path, body | {"model": upstream.model})
                    return dict(answer)
        raise Refusal("no_replica", f"No replica of {model} answers.")

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream an answer, from as many replicas one after the other as it takes."""
        if self._state != "ready":
            raise Refusal(
                "shutting_down" if self._state == "draining" else "no_replica",
                f"This front door is {self._state}.",
            )
        if request.sampling.logprobs is not None:
            raise Refusal(
                "invalid_request", "A front door does not pass log probabilities on.", param="logprobs"
            )
        text = _text(request)
        root = f"{request.model}/{request.tenant}"
        arrival = Arrival(
            request.id,
            request.model,
            tuple(prefix_keys(root, text)),
            len(text),
            request.tenant,
            request.priority,
            request.stopping.max_tokens,
        )
        if request.id in self._open:
            raise Refusal("invalid_request", f"The request id {request.id} is in use.", param="id")
        opened = self._open[request.id] = _Open()
        self._idle.clear()
        over = False
        try:
            self._act(self.door.arrive(arrival, time.monotonic()))
            answers: dict[int, _Answer] = {}
            while not over:
                decision = await opened.mailbox.get()
                if opened.cancelled:
                    for delta in _cancelled(request, answers):
                        yield delta
                    return
                if not isinstance(decision, Send):
                    over = True
                    raise decision.refusal
                try:
                    attempt = self._attempt(request, decision, answers)
                    async with contextlib.aclosing(attempt) as deltas:
                        async for delta in deltas:
                            yield delta
                            if opened.cancelled:
                                break
                    if opened.cancelled:
                        continue  # the mailbox says so
                    over = True
                    self._ended(request, root, text, answers)
                except Full:
                    self._act(self.door.refused_full(request.id, time.monotonic()))
                except Fault as fault:
                    self._failed(request, decision, fault, answers)
        finally:
            if not over:
                self._act(self.door.left_by_client(request.id, time.monotonic()))
            del self._open[request.id]
            if not self._open:
                self._idle.set()

    async def _attempt(
        self, request: Request, decision: Send, answers: dict[int, _Answer]
    ) -> AsyncGenerator[Delta, None]:
        """One replica's part of the answers: from the beginning, or from where another one broke off."""
        upstream = self._upstream(decision.replica)
        path, body = body_of(await self._rest(request, upstream, answers), upstream)
        async with contextlib.aclosing(upstream.stream(self._session, path, body)) as deltas:
            async for delta in deltas:
                self.door.began(request.id, time.monotonic())
                answer = answers.setdefault(delta.index, _Answer())
                answer.text += delta.text
                answer.ids += delta.token_ids
                answer.pieces += bool(delta.text)
                if delta.usage is not None:
                    answer.usage = delta.usage
                elif delta.finish is not None:
                    answer.finish = delta
                else:
                    yield delta
        for answer in answers.values():
            if answer.finish is None:
                raise Fault("the stream ended without a finish")
        usage = _usage(answers)
        for index, answer in sorted(answers.items()):
            assert answer.finish is not None
            yield replace(answer.finish, usage=usage if index == 0 else Usage(usage.prompt_tokens, 0))

    async def _rest(self, request: Request, upstream: Upstream, answers: dict[int, _Answer]) -> Request:
        """The request for what has not been given out yet.

        Between replicas that tell tokens it goes on behind the very token that was given out last, so that
        greedy text is the same as if nothing had happened. Others go on behind the text.
        """
        for each in answers.values():
            each.finish = None
        answer = answers.get(0)
        if answer is None or not answer.text:
            answers.clear()
            return request
        if upstream.speaks_ridgeline and answer.ids:
            with contextlib.suppress(Refusal):
                prompt = await self._prompt_ids(request, upstream)
                kept = await self._kept(answer, upstream)
                if kept:
                    del answer.ids[kept:]
                    return _continued(request, answer, kept, tuple(prompt + answer.ids))
        logger.warning("%s goes on behind its text: another token may be drawn", request.id)
        return _continued_in_text(request, answer)

    async def _prompt_ids(self, request: Request, upstream: Upstream) -> list[int]:
        if isinstance(request.prompt, tuple):
            return list(request.prompt)
        if request.continue_final_message:
            raise Refusal("invalid_request", "templates cannot be asked for half an answer")
        body: dict[str, object] = {"model": upstream.model}
        if request.messages is None:
            body["prompt"] = request.prompt or ""
        else:
            body["messages"] = [{"role": each.role, "content": each.content} for each in request.messages]
        answer = await upstream.ask(self._session, "/tokenize", body)
        return [int(token) for token in answer["tokens"]]

    async def _kept(self, answer: _Answer, upstream: Upstream) -> int:
        """How many tokens make exactly the text that was given out; 0 if none do.

        The last ones may be a part of a character, or of what could become a stop string.
        """
        for count in range(len(answer.ids), max(0, len(answer.ids) - LOOKED_BACK), -1):
            body = {"model": upstream.model, "tokens": answer.ids[:count]}
            if (await upstream.ask(self._session, "/detokenize", body))["prompt"] == answer.text:
                return count
        return 0

    def _ended(self, request: Request, root: str, text: bytes, answers: dict[int, _Answer]) -> None:
        usage = _usage(answers)
        said = answers[0].text
        if request.messages is not None:
            whole = canonical([*request.messages, Message("assistant", said)])
        else:
            whole = text + said.encode("utf-8", "surrogatepass")
        decisions = self.door.ended(
            request.id,
            time.monotonic(),
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            full_keys=prefix_keys(root, whole),
        )
        self._act(decisions)

    def _failed(self, request: Request, decision: Send, fault: Fault, answers: dict[int, _Answer]) -> None:
        logger.warning("replica %s failed at %s: %s", decision.replica, request.id, fault)
        # Also where this one cannot go on: others may get the place that it had.
        self._act(self.door.failed(request.id, time.monotonic()))
        if any(answer.text for answer in answers.values()) and not _can_go_on(request):
            raise Refusal("internal_error", "The replica failed in the middle of the answer.")


def _cancelled(request: Request, answers: dict[int, _Answer]) -> list[Delta]:
    """The end of every answer that has none."""
    usage = Usage(0, sum(each.pieces for each in answers.values()))
    return [
        Delta(index, finish="cancelled", usage=usage)
        for index in range(request.n)
        if index not in answers or answers[index].finish is None
    ]


def _text(request: Request) -> bytes:
    if request.messages is not None:
        return canonical(request.messages)
    if isinstance(request.prompt, tuple):
        return b"".join(token.to_bytes(4, "little") for token in request.prompt)
    return (request.prompt or "").encode("utf-8", "surrogatepass")


def _can_go_on(request: Request) -> bool:
    """Whether another replica can be asked for the rest: of one answer, in text."""
    return request.n == 1 and not request.echo


def _usage(answers: dict[int, _Answer]) -> Usage:
    """Of the whole request, whoever computed which part."""
    first = answers[0]
    if first.usage is None:
        return Usage(0, sum(each.pieces for each in answers.values()))
    told = first.usage
    return Usage(told.prompt_tokens - first.before, told.completion_tokens + first.before, told.cached_tokens)


def _continued(request: Request, answer: _Answer, drawn: int, prompt: tuple[int, ...]) -> Request:
    """Go on behind `drawn` tokens."""
    stopping, answer.before = request.stopping, drawn
    if stopping.max_tokens is not None:
        stopping = replace(stopping, max_tokens=max(1, stopping.max_tokens - drawn))
    stopping = replace(stopping, min_tokens=max(0, stopping.min_tokens - drawn))
    return replace(request, messages=None, prompt=prompt, continue_final_message=False, stopping=stopping)


def _continued_in_text(request: Request, answer: _Answer) -> Request:
    """Go on behind the text, with about as many tokens left as there should be."""
    said, drawn = answer.text, len(answer.ids) or answer.pieces
    answer.ids, answer.before = [], drawn
    stopping = request.stopping
    if stopping.max_tokens is not None:
        stopping = replace(stopping, max_tokens=max(1, stopping.max_tokens - drawn))
    if request.messages is None:
        return replace(request, prompt=f"{request.prompt}{said}", stopping=stopping)
    messages = request.messages
    if request.continue_final_message:
        messages = (*messages[:-1], Message(messages[-1].role, messages[-1].content + said))
    else:
        messages = (*messages, Message("assistant", said))
    return replace(request, messages=messages, continue_final_message=True, stopping=stopping)
