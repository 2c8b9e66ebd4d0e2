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
from ridgeline.fleet.continuation import Given, can_go_on, cancelled, continued, continued_in_text, usage_of
from ridgeline.fleet.core.decisions import Arrival, Decision, Refuse, Send
from ridgeline.fleet.core.door import Door
from ridgeline.fleet.core.replica import Load
from ridgeline.fleet.lately import Lately
from ridgeline.fleet.membership import LEASE_SECONDS, Membership
from ridgeline.fleet.metrics import FleetMetrics
from ridgeline.fleet.notes import Notes
from ridgeline.fleet.upstream import (
    CONNECT_SECONDS,
    MAX_LINE_BYTES,
    SILENCE_SECONDS,
    Fault,
    Full,
    Upstream,
    salt_of,
)
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
from ridgeline.protocol.load import ReplicaLoad
from ridgeline.protocol.prefix_keys import prefix_keys, text_of, text_with_answer

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


class FrontDoor:
    """Serves a fleet's models. Use from one event loop; `start` first.

    Args:
        fleet: as the file says.
        region: of this front door; the first of the fleet's if None.
        file: that the fleet was read from; it is read again when it changes.
        token: that replicas which register themselves know it by, and it them.
        rng: for choices among equals.
    """

    def __init__(
        self,
        fleet: Fleet,
        region: str | None = None,
        file: Path | None = None,
        token: str | None = None,
        rng: random.Random | None = None,
    ) -> None:
        names = [each.name for each in fleet.regions]
        if region is not None and region not in names:
            raise Refusal("invalid_request", f"There is no region {region}; there are {', '.join(names)}.")
        self._fleet, self._file, self._token = fleet, file, token
        self._members: Membership | None = None
        self.region = region or names[0]
        self.door = Door(
            self.region,
            fleet.round_trips(),
            max_wait_seconds=fleet.capacity.max_wait_seconds,
            max_waiting=fleet.capacity.max_waiting,
            # Replicas renew their leases thrice in this time: after it, who is there is known.
            patient_until=time.monotonic() + LEASE_SECONDS,
            rng=rng,
        )
        self.metrics = FleetMetrics(self.door)
        self._open: dict[str, _Open] = {}
        self._notes = Notes()
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
        self._members = Membership(self.door, self._fleet, self._session, self._act, self._token)
        self.metrics.missing = self._members.missing
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

    @property
    def members(self) -> Membership:
        """Who belongs to the fleet; only once it is started."""
        assert self._members is not None, "not started"
        return self._members

    @property
    def lately(self) -> Lately:
        """Where requests went and why, for people."""
        return self._notes.lately

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

    async def detokenize(
        self, model: str, token_ids: Sequence[int], *, skip_special_tokens: bool = False
    ) -> str:
        """Some replica's answer."""
        body: dict[str, object] = {"tokens": list(token_ids)}
        if skip_special_tokens:
            body["skip_special_tokens"] = True
        answer = await self._ask_any(model, "/detokenize", body)
        return str(answer["prompt"])

    async def _ask_any(self, model: str, path: str, body: dict[str, object]) -> dict[str, Any]:
        now = time.monotonic()
        for replica in list(self.door.replicas.values()):
            if replica.takes(model, now):
                upstream = self.members.upstreams[replica.id]
                with contextlib.suppress(Fault, Full):
                    answer = await upstream.ask(self._session, path, body | {"model": upstream.model})
                    return dict(answer)
        raise Refusal("no_replica", f"No replica of {model} answers.")

    async def timeline(self, name: str, tenant: str) -> Sequence[Timeline]:
        """See `Explaining`: where it was sent, why, and what became of it there."""
        return self._notes.find(name, tenant)

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream an answer, from as many replicas one after the other as it takes."""
        self._notes.came(request)
        try:
            arrival = self._arrival(request)
            async with contextlib.aclosing(self._answers(request, arrival)) as deltas:
                async for delta in deltas:
                    yield delta
        except Refusal as refusal:
            self._notes.refused(request, refusal)
            self.metrics.refused(refusal.code)
            raise

    def _arrival(self, request: Request) -> Arrival:
        """The request as the core knows it; raises Refusal for what is not served at all."""
        if self._state != "ready":
            raise Refusal(
                "shutting_down" if self._state == "draining" else "no_replica",
                f"This front door is {self._state}.",
            )
        if request.id in self._open:
            raise Refusal("invalid_request", f"The request id {request.id} is in use.", param="id")
        text = text_of(request)
        return Arrival(
            request.id,
            request.model,
            tuple(prefix_keys(salt_of(request), text)),
            len(text),
            request.tenant,
            request.priority,
            request.stopping.max_tokens,
            self.fleet.smaller(request.model) if request.allow_smaller_model else (),
        )

    async def _answers(self, request: Request, arrival: Arrival) -> AsyncGenerator[Delta, None]:
        opened = self._open[request.id] = _Open()
        self._idle.clear()
        answers: dict[int, Given] = {}
        over = False
        try:
            came = time.monotonic()
            self._notes.queued(request, arrival, self.door, came)
            self._act(self.door.arrive(arrival, came))
            while not over:
                decision = await opened.mailbox.get()
                if opened.cancelled:
                    for delta in cancelled(request, answers):
                        yield delta
                    return
                if not isinstance(decision, Send):
                    over = True
                    raise decision.refusal
                mine = self._notes.placed(request, decision, came)
                self.metrics.sent(decision.replica, mine)
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
                    self._ended(request, arrival, decision, answers)
                except Full as full:
                    self._notes.returned(request, decision, "full", str(full), answers)
                    self.metrics.returned(decision.replica, "full")
                    self._act(self.door.refused_full(request.id, time.monotonic()))
                except Fault as fault:
                    self._failed(request, decision, fault, answers)
                came = time.monotonic()
        finally:
            if not over:
                self._act(self.door.left_by_client(request.id, time.monotonic()))
            del self._open[request.id]
            self._notes.over(request)
            if not self._open:
                self._idle.set()

    async def _attempt(
        self, request: Request, decision: Send, answers: dict[int, Given]
    ) -> AsyncGenerator[Delta, None]:
        """One replica's part of the answers: from the beginning, or from where another one broke off."""
        upstream = self.members.upstreams[decision.replica]
        rest, exact = await self._rest(request, upstream, answers)
        goes_on, first = bool(answers), True

        def heard(load: ReplicaLoad) -> None:
            now = time.monotonic()
            told = Load(
                now,
                load.running,
                load.slots,
                load.waiting,
                load.kv_held,
                load.wait_seconds,
                load.kv_tokens,
                load.kv_promised,
            )
            self._act(self.door.told(decision.replica, told, now))
            self.members.reports.heard(decision.replica, load.cache_log)

        def began() -> None:
            self._began(request, decision, goes_on)

        async with contextlib.aclosing(upstream.answer(self._session, rest, heard, began)) as deltas:
            async for delta in deltas:
                if first:
                    first = False
                    if goes_on and not (exact and answers[0].fingerprint == delta.fingerprint):
                        yield Delta(0, continued=True)
                if answers.setdefault(delta.index, Given()).add(delta):
                    yield delta
        for answer in answers.values():
            if answer.finish is None:
                raise Fault("the stream ended without a finish")
        usage = usage_of(answers)
        for index, answer in sorted(answers.items()):
            assert answer.finish is not None
            yield replace(answer.finish, usage=usage if index == 0 else Usage(usage.prompt_tokens, 0))

    async def _rest(
        self, request: Request, upstream: Upstream, answers: dict[int, Given]
    ) -> tuple[Request, bool]:
        """The request for what has not been given out yet, and whether it goes on behind the very token.

        Between replicas that tell tokens it goes on behind the very token that was given out last, so that
        greedy text is the same as if nothing had happened. Others go on behind the text.
        """
        for each in answers.values():
            each.finish = None
        answer = answers.get(0)
        if answer is None or not answer.text:
            answers.clear()
            return request, True
        if upstream.speaks_ridgeline and answer.ids:
            with contextlib.suppress(Refusal):
                prompt = await self._prompt_ids(request, upstream)
                kept = await self._kept(answer, upstream)
                if kept:
                    del answer.ids[kept:]
                    return continued(request, answer, kept, tuple(prompt + answer.ids)), True
        logger.warning("%s goes on behind its text: another token may be drawn", request.id)
        return continued_in_text(request, answer), False

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

    async def _kept(self, answer: Given, upstream: Upstream) -> int:
        """How many tokens make exactly the text that was given out; 0 if none do.

        The last ones may be a part of a character, or of what could become a stop string.
        """
        for count in range(len(answer.ids), max(0, len(answer.ids) - LOOKED_BACK), -1):
            body = {
                "model": upstream.model,
                "tokens": answer.ids[:count],
                "skip_special_tokens": True,  # as answers do
            }
            if (await upstream.ask(self._session, "/detokenize", body))["prompt"] == answer.text:
                return count
        return 0

    def _began(self, request: Request, decision: Send, goes_on: bool) -> None:
        now = time.monotonic()
        self.door.began(request.id, now)
        self._notes.began(request, decision, goes_on, now)

    def _ended(self, request: Request, arrival: Arrival, decision: Send, answers: dict[int, Given]) -> None:
        now, usage = time.monotonic(), usage_of(answers)
        said = answers[0].text
        decisions = self.door.ended(
            request.id,
            now,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            full_keys=prefix_keys(salt_of(request), text_with_answer(request, said), arrival.keys),
            answer_tokens=usage.completion_tokens,
        )
        self._notes.ended(request, answers, now)
        self.metrics.ended(decision.chosen.cached_tokens, usage.cached_tokens)
        self._act(decisions)

    def _failed(self, request: Request, decision: Send, fault: Fault, answers: dict[int, Given]) -> None:
        logger.warning("replica %s failed at %s: %s", decision.replica, request.id, fault)
        self._notes.returned(request, decision, "fault", str(fault), answers)
        self.metrics.returned(decision.replica, "fault")
        # Also where this one cannot go on: others may get the place that it had.
        self._act(self.door.failed(request.id, time.monotonic()))
        if any(answer.text for answer in answers.values()) and not can_go_on(request):
            raise Refusal("internal_error", "The replica failed in the middle of the answer.")
