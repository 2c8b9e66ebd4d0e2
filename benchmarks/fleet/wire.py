"""A client that costs little: HTTP/1.1 on bare connections, so that what is before it is the limit."""

import asyncio
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import httptools

_STAMP = re.compile(rb"t(\d{9,20}) ")

DRAIN_SECONDS = 30.0


def percentile(values: Sequence[float], share: float) -> float:
    """Infinite if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("inf")


@dataclass(slots=True)
class Seen:
    """What came back within the measured time. Latencies in seconds."""

    seconds: float = 0.0
    requests: int = 0
    words: int = 0
    failed: int = 0
    first_failure: str = ""
    latencies: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Of the latencies; infinite if there are none."""
        return percentile(self.latencies, share)


class Connection(asyncio.Protocol):
    """Kept open; one request at a time."""

    def __init__(self) -> None:
        self.words: list[tuple[float, float]] = []
        """Of the answer: when each was seen, and how long it was on its way."""
        self._done: asyncio.Future[int] | None = None
        self._closed = False
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own classes
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._closed = True
        self._finish(0)

    def on_body(self, data: bytes) -> None:
        """Words may be cut in two."""
        now = time.monotonic_ns()
        whole = self.tail + data
        end = 0
        for stamp in _STAMP.finditer(whole):
            self.words.append((now / 1e9, (now - int(stamp[1])) / 1e9))
            end = stamp.end()
        self.tail = whole[max(end, len(whole) - 64) :]

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._finish(self._parser.get_status_code())
        if not self._parser.should_keep_alive():
            self._transport.close()

    def _finish(self, status: int) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(status)

    async def ask(self, message: bytes) -> int:
        """Send a request and wait for the whole answer; its status, 0 if the connection broke."""
        self._done = asyncio.get_running_loop().create_future()
        self.words, self.tail = [], b""
        self._transport.write(message)
        return await self._done

    @property
    def open(self) -> bool:
        """Whether another request can be sent."""
        return not self._closed and not self._transport.is_closing()


class Client:
    """Asks at some addresses in turn, with connections kept for the next question.

    Args:
        ports: on this machine.
        messages: whole HTTP requests, taken one after the other.
        stream: they ask for streams, so words are timed and not answers.
        status: of what counts as answered.
    """

    def __init__(
        self, ports: Sequence[int], messages: Sequence[bytes], *, stream: bool, status: int = 200
    ) -> None:
        self._ports, self._messages, self._stream, self._status = ports, messages, stream, status
        self._idle: dict[int, list[Connection]] = {port: [] for port in ports}
        self._next = 0

    async def _one(self, seen: Seen, begin: float, end: float, due: float | None = None) -> None:
        """One question. What is seen between `begin` and `end` counts."""
        self._next += 1
        port = self._ports[self._next % len(self._ports)]
        message = self._messages[self._next % len(self._messages)]
        came = time.monotonic() if due is None else due
        idle = self._idle[port]
        connection = idle.pop() if idle else None
        if connection is None or not connection.open:
            loop = asyncio.get_running_loop()
            try:
                _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
            except OSError as error:
                seen.failed += 1
                seen.first_failure = seen.first_failure or str(error)
                await asyncio.sleep(0.05)  # who asks again at once would do nothing else
                return
        good = await connection.ask(message) == self._status
        now = time.monotonic()
        if self._stream:
            stamped = [each for when, each in connection.words if begin <= when <= end]
            seen.words += len(stamped)
            seen.latencies += stamped
        if not good:
            seen.failed += 1
            seen.first_failure = seen.first_failure or connection.tail.decode("utf-8", "replace")
        elif begin <= now <= end:
            seen.requests += 1
            if not self._stream:
                seen.latencies.append(now - came)
        if connection.open:
            idle.append(connection)

    async def closed(self, users: int, warm_up: float, seconds: float) -> Seen:
        """Users who ask again as soon as they are answered."""
        seen = Seen(seconds=seconds)
        begin = time.monotonic() + warm_up
        end = begin + seconds

        async def user(number: int) -> None:
            await asyncio.sleep(warm_up / 2 * number / users)
            while time.monotonic() < end:
                await self._one(seen, begin, end)

        asking = [asyncio.create_task(user(number)) for number in range(users)]
        try:
            ended, left = await asyncio.wait(asking, timeout=warm_up + seconds + DRAIN_SECONDS)
            seen.failed += len(left)
            for each in ended:
                each.result()  # raises what went wrong here
        finally:
            for each in asking:
                each.cancel()
        return seen

    async def open(
        self, rate: float, warm_up: float, seconds: float, seed: int, patience: float = DRAIN_SECONDS
    ) -> Seen:
        """Questions at Poisson times, each counted from when it was due; left when patience ends."""
        seen, rng = Seen(seconds=seconds), random.Random(seed)
        due = time.monotonic()
        begin = due + warm_up
        end = begin + seconds
        asked: set[asyncio.Task[None]] = set()
        while (due := due + rng.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._one(seen, begin, end, due))
            asked.add(task)
            task.add_done_callback(asked.discard)
        if asked:
            _, left = await asyncio.wait(asked, timeout=patience)
            seen.failed += len(left)
            for task in left:
                task.cancel()
        return seen
