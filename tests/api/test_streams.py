"""Streams as bytes, streams that break, and clients that go away."""

import asyncio
import json
import threading
import time

import httpx
import openai
import pytest

from ridgeline.protocol import Refusal

CHAT = {"model": "fake-model", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
TEXT = {"model": "fake-model", "prompt": "Hi", "stream": True}


def events_of(response: httpx.Response) -> list[str]:
    """The data of each event of a whole stream."""
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


async def test_a_chat_stream_is_role_text_finish_done(http, fake):
    fake.reply = [" Ho", " ho"]
    response = await http.post("/v1/chat/completions", json=CHAT)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert "content-length" not in response.headers
    events = events_of(response)
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["system_fingerprint"] for chunk in chunks} == {"print-fake-model"}
    assert all("usage" not in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": " Ho"},
        {"content": " ho"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]


async def test_usage_is_null_until_the_last_chunk(http):
    response = await http.post("/v1/completions", json=TEXT | {"stream_options": {"include_usage": True}})
    chunks = [json.loads(event) for event in events_of(response)[:-1]]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 8,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.parametrize(("ask", "path"), [(CHAT, "/v1/chat/completions"), (TEXT, "/v1/completions")])
async def test_a_failure_midway_is_an_event_and_the_end(http, fake, ask, path):
    fake.fail_after = 2
    response = await http.post(path, json=ask)
    assert response.status_code == 200
    *chunks, last = events_of(response)
    assert chunks and "choices" in chunks[0]
    error = json.loads(last)["error"]
    assert (error["code"], error["type"]) == ("internal_error", "server_error")
    assert response.headers["x-request-id"] in error["message"]


async def test_a_shutdown_midway_is_told(http, fake):
    fake.cancel_after = 2
    fake.state = "draining"
    events = events_of(await http.post("/v1/completions", json=TEXT))
    assert json.loads(events[-1])["error"]["code"] == "shutting_down"


async def test_many_prompts_are_made_a_line_full_at_a_time(http, fake, monkeypatch):
    generate, running, most = fake.generate, 0, 0

    async def counted(request):
        nonlocal running, most
        running += request.n
        most = max(most, running)
        async for delta in generate(request):
            await asyncio.sleep(0)
            yield delta
        running -= request.n

    monkeypatch.setattr(fake, "generate", counted)
    body = {"model": "fake-model", "prompt": [f"prompt {i}" for i in range(64)], "n": 16}
    response = await http.post("/v1/completions", json=body)
    assert len(response.json()["choices"]) == 1024
    assert most == 128


async def test_one_failed_prompt_ends_its_neighbours(http, fake, monkeypatch):
    generate = fake.generate

    async def refusing(request):
        if request.prompt == "b":
            assert await asyncio.to_thread(fake.held.wait, 10)
            raise Refusal("context_length_exceeded", "too long", param="prompt")
        async for delta in generate(request):
            yield delta

    fake.hold_after = 0
    monkeypatch.setattr(fake, "generate", refusing)
    response = await http.post("/v1/completions", json={"model": "fake-model", "prompt": ["a", "b", "c"]})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert len(fake.closed) == 2


def leave(server: str, path: str, body: dict[str, object], seen: threading.Event) -> None:
    """Ask, wait until `seen`, and cut the connection."""
    with httpx.Client(base_url=server, timeout=60) as client:
        request = client.build_request("POST", path, json=body)
        asking = threading.Thread(target=lambda: swallow(client, request), daemon=True)
        asking.start()
        assert seen.wait(60)
        for connection in client._transport._pool.connections:
            connection._connection._network_stream.get_extra_info("socket").shutdown(2)
        asking.join(10)
    assert not asking.is_alive()


def swallow(client: httpx.Client, request: httpx.Request) -> None:
    try:
        client.send(request)
    except httpx.HTTPError:
        return


@pytest.mark.parametrize("hold_after", [0, 3])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "ask", "requests"),
    [
        ("/v1/chat/completions", CHAT | {"n": 2}, 1),
        ("/v1/completions", TEXT, 1),
        ("/v1/completions", TEXT | {"prompt": ["a", "b", "c"]}, 3),
    ],
    ids=["chat", "text", "prompts"],
)
def test_a_client_that_goes_away_is_cancelled(server, fake, path, ask, requests, stream, hold_after):
    fake.hold_after = hold_after
    leave(server, path, ask | {"stream": stream}, fake.held)
    assert fake.cancelled.wait(60)
    deadline = threading.Event()
    while len(fake.closed) < requests and not deadline.wait(0.01):
        pass
    assert sorted(fake.closed) == sorted(asked.id for asked in fake.requests)
    assert len(fake.closed) == requests


class TestOfficialClient:
    @pytest.fixture
    def client(self, base_url):
        with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0, timeout=60) as client:
            yield client

    def test_leaving_a_stream_cancels_it(self, client, fake):
        fake.hold_after = 3
        stream = client.chat.completions.create(**CHAT)
        assert next(iter(stream)).choices
        assert not fake.cancelled.is_set()
        stream.close()
        assert fake.cancelled.wait(60)
        assert fake.closed == [fake.requests[0].id]

    @pytest.mark.parametrize("stream", [False, True])
    async def test_cancelling_the_task_cancels_the_request(self, base_url, fake, stream):
        fake.hold_after = 2
        async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as client:

            async def ask() -> None:
                answer = await client.chat.completions.create(**CHAT | {"stream": stream})
                async for _ in answer:
                    pass

            task = asyncio.create_task(ask())
            assert await asyncio.to_thread(fake.held.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(fake.cancelled.wait, 10)

    def test_a_timeout_of_the_client_cancels_the_request(self, client, fake):
        fake.hold_after = 0
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=1.0).chat.completions.create(**CHAT | {"stream": False})
        assert fake.cancelled.wait(60)

    def test_a_stream_that_breaks_raises(self, client, fake):
        fake.fail_after = 3
        with pytest.raises(openai.APIError, match="request id") as broken:
            list(client.chat.completions.create(**CHAT))
        assert broken.value.code == "internal_error"

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("invalid_request", openai.BadRequestError),
            ("invalid_api_key", openai.AuthenticationError),
            ("forbidden", openai.PermissionDeniedError),
            ("model_not_found", openai.NotFoundError),
            ("rate_limited", openai.RateLimitError),
            ("at_capacity", openai.InternalServerError),
            ("internal_error", openai.InternalServerError),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_refusals_become_exceptions(self, client, fake, code, expected, stream):
        fake.refuse = Refusal(code, "because", retry_after_seconds=5)
        with pytest.raises(expected, match="because") as refused:
            client.chat.completions.create(**CHAT | {"stream": stream})
        assert refused.value.code == code
        assert refused.value.request_id

    def test_a_refusal_for_a_while_is_tried_again(self, client, fake):
        fake.refuse = Refusal("at_capacity", "full", retry_after_seconds=0.2)

        def make_room() -> None:
            while not fake.requests:
                time.sleep(0.01)
            fake.refuse = None

        waiter = threading.Thread(target=make_room, daemon=True)
        waiter.start()
        answer = client.with_options(max_retries=3).chat.completions.create(**CHAT | {"stream": False})
        assert answer.choices[0].message.content
        assert len(fake.requests) == 2
