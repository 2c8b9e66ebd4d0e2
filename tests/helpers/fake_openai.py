"""A small server that speaks the OpenAI protocol with answers that are known beforehand."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer


class FakeServer:
    """Answers each request with `tokens` pieces; refuses, breaks or cuts as told by number."""

    def __init__(self, tokens: int = 4, refuse: tuple[int, ...] = (), cut: tuple[int, ...] = ()) -> None:
        self.tokens = tokens
        self.refuse = refuse
        self.cut = cut
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.hold: asyncio.Event | None = None
        self.context: int | None = None
        self.refusal_headers = {"Retry-After": "7"}
        self.prompt_tokens = 0
        self._changed = asyncio.Condition()

    async def reached(self, in_flight: int) -> None:
        """Wait until this many requests are being answered at once."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.in_flight >= in_flight)

    async def models(self, request: web.Request) -> web.Response:
        told = {} if self.context is None else {"max_model_len": self.context}
        return web.json_response({"object": "list", "data": [{"id": "fake", "object": "model", **told}]})

    async def metrics(self, request: web.Request) -> web.Response:
        """As vLLM counts: half of each prompt is found."""
        return web.Response(
            text="# TYPE vllm:prefix_cache_queries_total counter\n"
            f'vllm:prefix_cache_queries_total{{model_name="fake"}} {self.prompt_tokens}\n'
            "# TYPE vllm:prefix_cache_hits_total counter\n"
            f'vllm:prefix_cache_hits_total{{model_name="fake"}} {self.prompt_tokens / 2}\n'
        )

    async def chat(self, request: web.Request) -> web.StreamResponse:
        number = len(self.requests)
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if number in self.refuse:
            error = {"message": "The replica is full.", "code": "at_capacity", "type": "server_error"}
            return web.json_response({"error": error}, status=503, headers=self.refusal_headers)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        async with self._changed:
            self._changed.notify_all()
        try:
            return await self._stream(request, body, cut=number in self.cut)
        finally:
            self.in_flight -= 1

    async def _stream(self, request: web.Request, body: dict[str, Any], *, cut: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(event: dict[str, Any]) -> None:
            await response.write(b"data: " + orjson.dumps(event) + b"\n\n")

        await send({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        for index in range(self.tokens):
            await send({"choices": [{"index": 0, "delta": {"content": f"w{index} "}}]})
            if self.hold is not None:
                await self.hold.wait()
            await asyncio.sleep(0)
        if cut:
            return response
        await send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        prompt = sum(len(message["content"].split()) for message in body["messages"])
        self.prompt_tokens += prompt
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": self.tokens,
            "prompt_tokens_details": {"cached_tokens": prompt // 2},
        }
        await send({"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def serving(fake: FakeServer, *, counters: bool = False) -> AsyncIterator[str]:
    """The fake server's address; with `counters` it has a page of metrics."""
    app = web.Application()
    app.router.add_get("/v1/models", fake.models)
    if counters:
        app.router.add_get("/metrics", fake.metrics)
    app.router.add_post("/v1/chat/completions", fake.chat)
    server = TestServer(app)
    await server.start_server()
    try:
        yield str(server.make_url("")).rstrip("/")
    finally:
        await server.close()


class Running:
    """A fake server on a thread of its own."""

    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._up.wait(60)

    def _run(self) -> None:
        async def main() -> None:
            async with serving(self.fake) as self.url:
                self._up.set()
                await self._stop.wait()

        self._loop.run_until_complete(main())
        self._loop.close()

    def go_on(self) -> None:
        """Let go of what `hold` holds.

        After a signal to a client this has it noticed in any case: one that comes just before an event
        loop begins to wait is seen by Python only when something wakes the loop.
        """
        if self.fake.hold is not None:
            self._loop.call_soon_threadsafe(self.fake.hold.set)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
