"""Ask the questions at the right times and write down what happened.

Closed loop: N users, each asking its next question as soon as the last is answered and thought about.
Open loop: conversations begin at times fixed beforehand (Poisson's, or a trace's) whatever the server
does; this is the one that shows what users would see, because a slow server cannot slow the arrivals
down.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice

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
    status: int = 0  # of the answer that refused or failed it
    code: str = ""
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """How the load is put on.

    Attributes:
        concurrency: users of the closed loop; None for the open loop.
        rate_per_second: conversations begun per second in the open loop; None where the times of
            arrival are given.
        conversations: how many are measured, at most; None for all that there are.
        warmup: how many run to their end, without pauses, before measuring begins.
        think_seconds: pause of a user between an answer and the next question, where the conversation
            has none of its own.
        duration_seconds: begin no further conversation after this long.
        cut_turns: after that time begin no further turn either.
        seed: of the arrival times.
    """

    conversations: int | None
    concurrency: int | None = 1
    rate_per_second: float | None = None
    warmup: int = 0
    think_seconds: float = 0.0
    duration_seconds: float | None = None
    cut_turns: bool = False
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
    cut_turns: int = 0


@dataclass(frozen=True, slots=True)
class _Pace:
    """How users of one part of a run pause, and when they stop."""

    think_seconds: float
    ends: float | None
    seed: int = 0
    cuts_turns: bool = False
    warmup: bool = False

    def think(self, conversation: Conversation, turn: int) -> float:
        """Seconds of pause before this turn."""
        if self.warmup:
            return 0.0
        return conversation.think_seconds[turn] if conversation.think_seconds else self.think_seconds


_WARM_UP = _Pace(think_seconds=0.0, ends=None, warmup=True)


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
        conversations: where questions come from; where they end, so does the load.
        warmup: where those of the warm-up come from; the same if not given.
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
        warmup: Iterator[Conversation] | None = None,
        on_turn: Callable[[TurnRecord], None] = lambda record: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._session = session
        self._url = url
        self._body = body
        self._conversations = conversations
        self._warmup = warmup or conversations
        self._on_turn = on_turn
        self._clock = clock
        self._numbers = count()
        self._records: list[TurnRecord] = []
        self._abandoned = 0
        self._cut = 0
        self._in_flight = _InFlight(clock)

    async def run(
        self,
        load: Load,
        arrivals: Iterable[float] | None = None,
        *,
        before_measuring: Callable[[], Awaitable[None]] | None = None,
    ) -> RunResult:
        """Warm up, then measure.

        Args:
            load: how many, how fast.
            arrivals: seconds from the beginning at which conversations begin, rising; Poisson times of
                the load's rate if not given.
            before_measuring: awaited once between warm-up and measuring.
        """
        if load.warmup:
            await self._warm_up(load.warmup, load.concurrency or 1)
        if before_measuring is not None:
            await before_measuring()
        self._in_flight = _InFlight(self._clock)
        self._abandoned = self._cut = 0
        delays: list[float] = []
        watch = asyncio.create_task(self._watch_loop(delays))
        started, cpu_started = self._clock(), time.process_time()
        try:
            if load.concurrency is not None:
                await self._closed_loop(load, load.concurrency)
            else:
                await self._open_loop(load, arrivals)
        finally:
            watch.cancel()
        self._in_flight.change(0)
        cpu_seconds = time.process_time() - cpu_started
        ended = self._clock()
        return RunResult(
            records=self._records,
            started=started,
            ended=ended,
            in_flight_seconds=self._in_flight.seconds,
            abandoned_turns=self._abandoned,
            client_cpu_seconds=cpu_seconds,
            loop_delays=delays,
            cut_turns=self._cut,
        )

    async def _warm_up(self, conversations: int, users: int) -> None:
        await self._users(islice(self._warmup, conversations), min(users, conversations), _WARM_UP)

    async def _closed_loop(self, load: Load, users: int) -> None:
        pace = self._pace(load)
        source = islice(self._conversations, load.conversations)
        most = users if load.conversations is None else load.conversations
        await self._users(source, min(users, most), pace)

    def _pace(self, load: Load) -> "_Pace":
        ends = None if load.duration_seconds is None else self._clock() + load.duration_seconds
        return _Pace(load.think_seconds, ends, load.seed, cuts_turns=load.cut_turns)

    async def _users(self, source: Iterator[Conversation], users: int, pace: "_Pace") -> None:
        async def user(phase: float) -> None:
            while (conversation := next(source, None)) is not None:
                due = self._clock() + phase * pace.think(conversation, 0)
                if pace.ends is not None and due >= pace.ends:
                    return
                await asyncio.sleep(max(0.0, due - self._clock()))
                await self._converse(conversation, due, pace)
                phase = 1.0

        async with asyncio.TaskGroup() as group:
            for number in range(users):
                # Spread over a pause: people do not all begin at once.
                group.create_task(user(random.Random(f"{pace.seed}/user/{number}").random()))

    async def _open_loop(self, load: Load, arrivals: Iterable[float] | None) -> None:
        if arrivals is None:
            if load.rate_per_second is None:
                raise ValueError("the open loop needs rate_per_second or arrivals")
            arrivals = poisson_starts(load.rate_per_second, load.seed)
        start, pace = self._clock(), self._pace(load)
        async with asyncio.TaskGroup() as group:
            for offset in islice(arrivals, load.conversations):
                if load.duration_seconds is not None and offset > load.duration_seconds:
                    return
                # Made before it is due, so that making it delays nothing.
                conversation = next(self._conversations, None)
                if conversation is None:
                    return
                await asyncio.sleep(max(0.0, start + offset - self._clock()))
                group.create_task(self._converse(conversation, start + offset, pace))

    async def _converse(self, conversation: Conversation, scheduled: float, pace: "_Pace") -> None:
        number = next(self._numbers)
        messages = [{"role": "system", "content": conversation.system}] if conversation.system else []
        for turn, question in enumerate(conversation.questions):
            if turn:
                scheduled += pace.think(conversation, turn)
                if pace.cuts_turns and pace.ends is not None and scheduled >= pace.ends:
                    self._cut += len(conversation.questions) - turn
                    return
                await asyncio.sleep(max(0.0, scheduled - self._clock()))
            messages.append({"role": "user", "content": question})
            record = TurnRecord(number, turn, pace.warmup, scheduled)
            answer = await self._ask(record, messages, conversation.limit(turn))
            self._records.append(record)
            self._on_turn(record)
            if record.outcome != "completed":
                self._abandoned += len(conversation.questions) - turn - 1
                return
            messages.append({"role": "assistant", "content": answer})
            scheduled = record.finished

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
            record.status, record.code = error.status, error.code
            record.retry_after_seconds = error.retry_after_seconds
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
