"""Replicas that compute nothing and answer as a replica of ours does: for what stands before them.

    python benchmarks/fleet/fake_replicas.py --count 8 --core 1

Prints the ports, one a line, and serves until its input ends. Words of a streamed answer are sent one by
one, a gap apart, each with the time of its sending (`t` and nanoseconds of the monotonic clock), so that
a client on the same machine can tell how long each was on its way.
"""

import argparse
import asyncio
import functools
import os
import re
import sys
import time
from typing import cast

import httptools
import uvloop

_STREAM = re.compile(rb'"stream": ?true')
_MOST = re.compile(rb'"max_(?:completion_)?tokens": ?(\d+)')
_GAP = re.compile(rb'"seed": ?(\d+)')
"""Milliseconds between two words: there is no other field that all doors pass on and none looks at."""

_HEAD = b"HTTP/1.1 200 OK\r\nx-ridgeline-load: running=%d; slots=%d; waiting=0; kv_held=0.1; "
_HEAD += b"kv_tokens=100000000; wait_seconds=0\r\ncontent-type: "
_EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
_EVENT += b'"system_fingerprint":"f","choices":['
_USAGE = b'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
_USAGE += b'"prompt_tokens_details":{"cached_tokens":0}}'
_MODELS = b'{"object":"list","data":[{"id":"m","object":"model","max_model_len":131072}]}'
_WORD = b'{"index":0,"delta":{"content":"t%d "},"logprobs":null,"finish_reason":null,"token_ids":[17]}'


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Place:
    """What the connections to one replica have in common: its batch."""

    def __init__(self, slots: int) -> None:
        self.slots, self.running = slots, 0

    def head(self) -> bytes:
        """Of an answer, up to its type."""
        return _HEAD % (self.running, self.slots)


class Replica(asyncio.Protocol):
    """One connection to a replica; one request after the other."""

    def __init__(self, place: Place) -> None:
        self._place, self._streaming = place, False
        self._parser = httptools.HttpRequestParser(self)
        self._loop = asyncio.get_running_loop()
        self._path, self._body = b"", []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop has its own classes

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._ended()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:  # someone tries another protocol
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        """A request begins."""
        self._path, self._body = url, []

    def on_body(self, data: bytes) -> None:
        """More of it."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """All of it is there."""
        body = b"".join(self._body)
        if not self._path.endswith(b"completions"):
            self._whole(_MODELS if self._path.endswith(b"/models") else b"{}")
            return
        found = _MOST.search(body)
        most, prompt = int(found[1]) if found else 64, len(body) // 4
        usage = _USAGE % (prompt, most, prompt + most)
        if _STREAM.search(body):
            gap = _GAP.search(body)
            self._streaming = True
            self._place.running += 1
            head = self._place.head() + b"text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            self._transport.write(head)
            self._word(most, (int(gap[1]) if gap else 0) / 1000, self._loop.time(), usage)
            return
        self._whole(
            b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","system_fingerprint":"f",'
            b'"choices":[{"index":0,"message":{"role":"assistant","content":"%b","refusal":null},'
            b'"logprobs":null,"finish_reason":"length"}],%b}' % (b"word " * most, usage)
        )

    def _whole(self, content: bytes) -> None:
        self._transport.write(
            self._place.head() + b"application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(content), content)
        )

    def _ended(self) -> None:
        self._place.running -= self._streaming
        self._streaming = False

    def _word(self, left: int, gap: float, due: float, usage: bytes) -> None:
        """Send one, and the next after the gap; all at once where there is none."""
        if self._transport.is_closing():
            return
        events = []
        while left:
            left -= 1
            events.append(_framed(_EVENT + _WORD % time.monotonic_ns() + b"]}\n\n"))
            if gap:
                break
        if left:
            self._loop.call_at(due + gap, self._word, left, gap, due + gap, usage)
        else:
            finish = b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}\n\n'
            events.append(_framed(_EVENT + finish))
            events.append(_framed(_EVENT + b"]," + usage + b"}\n\n"))
            self._ended()
            events.append(_framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self._transport.write(b"".join(events))


async def serve(count: int, slots: int) -> None:
    """Until the input ends."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        place = Place(slots)
        server = await loop.create_server(functools.partial(Replica, place), "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--slots", type=int, default=4096, help="sequences that each takes at once")
    parser.add_argument("--core", type=int, help="the only one to run on")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    uvloop.run(serve(options.count, options.slots))


if __name__ == "__main__":
    main()
