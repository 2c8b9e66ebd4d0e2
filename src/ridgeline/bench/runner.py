"""Ask the questions at the right times and write down what happened.

Closed loop: N users, each asking its next question as soon as the last is answered. Open loop:
conversations begin at Poisson times whatever the server does; this is the one that shows what
users would see, because a slow server cannot slow the arrivals down.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import aiohttp

from ridgeline.bench.client import ServerError, TokenCounts, stream_chat
from ridgeline.bench.workload import Conversation, poisson_starts


@dataclass(slots=True)
class TurnRecord:
    """One request. Times are the clock's seconds; `outcome` says how it ended.

    `scheduled` is when the user would have sent it; `sent` is when the client did. A difference
    between them is the client's own delay and counts in TTFT.
    """

    conversation: int
    turn: int
    warmup: bool
    scheduled: float
    sent: float = 0.0
    chunk_times: list[float] = field(default_factory=list)
    finished: float = 0.0
    outcome: str = "completed"  # or "refused", "failed"
    error: str = ""
    tokens: TokenCounts | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """How the load is put on.

    Attributes:
        concurrency: users of the closed loop; None for the open loop.
        rate_per_second: conversations begun per second in the open loop.
        conversations: how many are measured.
        warmup: how many run to their end before measuring begins.
        think_seconds: pause of a user between an answer and the next question.
        duration_seconds: begin no further conversation after this long.
        seed: of the arrival times.
    """

    conversations: int
    concurrency: int | None = 1
    rate_per_second: float | None = None
    warmup: int = 0
    think_seconds: float = 0.0
    duration_seconds: float | None = None
    seed: int = 0


@dataclass(slots=True)
class RunResult:
    """Everything that the report is computed from. Times are of the same clock."""

    records: list[TurnRecord]
    started: float
    ended: float
    in_flight_seconds: float
    abandoned_turns: int
    client_cpu_seconds: float
    loop_delays: list[float]


class _InFlight:
    """Integrates the number of requests in flight over time, apart from the records."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._now = clock()
        self.requests = 0
        self.seconds = 0.0

    def change(self, by: int) -> None:
        now = self._clock()
        self.seconds += self.requests * (now - self._now)
        self._now = now
        self.requests += by


class Runner:
    """Puts `Load` on one server. Make one for each run.

    Args:
        session: see `client.new_session`.
        url: the server's address, without `/v1`.
        body: fields of every request beside messages and max_tokens (`model` at least).
        conversations: where questions come from; must not end before the load does.
        on_turn: told each record when it is complete.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        body: dict[str, object],
        conversations: Iterator[Conversation],
        *,
        on_turn: Callable[[TurnRecord], None] = lambda record: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._session = session
        self._url = url
        self._body = body
        self._conversations = conversations
        self._on_turn = on_turn
        self._clock = clock
        self._numbers = count()
        self._records: list[TurnRecord] = []
        self._abandoned = 0
        self._in_flight = _InFlight(clock)

    async def run(self, load: Load) -> RunResult:
        """Warm up, then measure."""
        if load.warmup:
            await self._closed_loop(load, load.warmup, load.concurrency or 1, warmup=True)
        self._in_flight = _InFlight(self._clock)
        self._abandoned = 0
        delays: list[float] = []
        watch = asyncio.create_task(self._watch_loop(delays))
        started, cpu_started = self._clock(), time.process_time()
        try:
            if load.concurrency is not None:
                await self._closed_loop(load, load.conversations, load.concurrency, warmup=False)
            else:
                await self._open_loop(load)
        finally:
            watch.cancel()
        self._in_flight.change(0)
        cpu_seconds = time.process_time() - cpu_started
        ended = self._clock()
        return RunResult(
            self._records, started, ended, self._in_flight.seconds, self._abandoned, cpu_seconds, delays
        )

    async def _closed_loop(self, load: Load, conversations: int, users: int, *, warmup: bool) -> None:
        left = iter(range(conversations))
        limit = None if warmup or load.duration_seconds is None else self._clock() + load.duration_seconds

        async def user() -> None:
            for _ in left:
                if limit is not None and self._clock() >= limit:
                    return
                await self._converse(self._clock(), load.think_seconds, warmup=warmup)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(users, conversations)):
                group.create_task(user())

    async def _open_loop(self, load: Load) -> None:
        if load.rate_per_second is None:
            raise ValueError("the open loop needs rate_per_second")
        start = self._clock()
        async with asyncio.TaskGroup() as group:
            for _, offset in zip(
                range(load.conversations), poisson_starts(load.rate_per_second, load.seed), strict=False
            ):
                if load.duration_seconds is not None and offset > load.duration_seconds:
                    return
                await asyncio.sleep(max(0.0, start + offset - self._clock()))
                group.create_task(self._converse(start + offset, load.think_seconds, warmup=False))

    async def _converse(self, scheduled: float, think_seconds: float, *, warmup: bool) -> None:
        conversation = next(self._conversations)
        number = next(self._numbers)
        messages = [{"role": "system", "content": conversation.system}] if conversation.system else []
        for turn, question in enumerate(conversation.questions):
            messages.append({"role": "user", "content": question})
            record = TurnRecord(number, turn, warmup, scheduled)
            answer = await self._ask(record, messages, conversation.max_tokens)
            self._records.append(record)
            self._on_turn(record)
            if record.outcome != "completed":
                self._abandoned += len(conversation.questions) - turn - 1
                return
            messages.append({"role": "assistant", "content": answer})
            scheduled = record.finished + think_seconds
            await asyncio.sleep(max(0.0, scheduled - self._clock()))

    async def _ask(self, record: TurnRecord, messages: list[dict[str, str]], max_tokens: int) -> str:
        parts: list[str] = []
        body = {**self._body, "messages": messages, "max_tokens": max_tokens}
        self._in_flight.change(+1)
        record.sent = self._clock()
        try:
            async for chunk in stream_chat(self._session, self._url, body):
                if chunk.text:
                    record.chunk_times.append(self._clock())
                    parts.append(chunk.text)
                record.tokens = chunk.usage or record.tokens
        except ServerError as error:
            record.outcome = "refused" if error.refused else "failed"
            record.error = f"{error.status or ''} {error.code}: {error.message}".strip()
        finally:
            record.finished = self._clock()
            self._in_flight.change(-1)
        return "".join(parts)

    async def _watch_loop(self, delays: list[float], every_seconds: float = 0.02) -> None:
        """How late this process runs what is due: what a busy client would add to every time."""
        while True:
            due = self._clock() + every_seconds
            await asyncio.sleep(every_seconds)
            delays.append(max(0.0, self._clock() - due))
