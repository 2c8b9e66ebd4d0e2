"""What a client cannot take from the server: memory, time, and all of its sockets."""

import asyncio
import dataclasses
import socket
import time
from contextlib import closing, suppress

import httpx
import orjson
import pytest

from ridgeline.api.settings import ApiSettings

ASK = {"model": "fake-model", "prompt": "Hi"}
JSON = {"content-type": "application/json"}
LIMIT = 2000


@pytest.fixture
def settings() -> ApiSettings:
    return ApiSettings(
        max_body_bytes=LIMIT,
        max_header_bytes=1500,
        max_requests=2,
        body_timeout_seconds=0.3,
        send_timeout_seconds=0.5,
    )


def body_of(size: int) -> bytes:
    """A good request of exactly so many bytes."""
    empty = orjson.dumps(ASK | {"user": ""})
    return orjson.dumps(ASK | {"prompt": "x" * (size - len(empty) + 2), "user": ""})


async def pieces(data: bytes):
    for start in range(0, len(data), 300):
        yield data[start : start + 300]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 400), (LIMIT + 1, 413), (LIMIT * 100, 413)])
async def test_the_body_is_bounded_however_it_is_sent(http, fake, chunked, size, status):
    data = body_of(size)
    assert len(data) == size
    response = await http.post("/v1/completions", content=pieces(data) if chunked else data, headers=JSON)
    assert response.status_code == status
    error = response.json()["error"]
    if status == 413:
        assert error["code"] == "request_too_large"
        assert "2000" in error["message"] and "max_body_bytes" in error["message"]
        assert response.headers["connection"] == "close"
        assert response.headers["x-request-id"]
    else:  # it was read, and is longer than the model's context
        assert error["code"] == "context_length_exceeded"


async def test_headers_are_bounded(http):
    response = await http.get("/v1/models", headers={"x-padding": "x" * 1500})
    assert (response.status_code, response.json()["error"]["code"]) == (431, "request_too_large")
    assert "max_header_bytes" in response.json()["error"]["message"]


async def test_requests_in_flight_are_bounded_and_health_is_not(http, fake):
    fake.hold_after = 0
    held = [asyncio.create_task(http.post("/v1/completions", json=ASK)) for _ in range(2)]
    while len(fake.requests) < 2:  # noqa: ASYNC110 - the fake belongs to no loop
        await asyncio.sleep(0.01)
    refused = await http.get("/v1/models")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "at_capacity")
    assert refused.headers["retry-after"] == "4"
    assert error["estimated_wait_seconds"] == 3.2
    assert (await http.get("/health/live")).status_code == 200
    assert (await http.get("/health/ready")).status_code == 200
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    assert (await http.get("/v1/models")).status_code == 200


def connect(address: str) -> socket.socket:
    """A bare connection with small buffers, for a client that misbehaves."""
    url = httpx.URL(address)
    bare = socket.socket()
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    bare.settimeout(60)
    bare.connect((url.host, url.port))
    return bare


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: localhost", *lines, "", ""]).encode()


def read_all(bare: socket.socket) -> bytes:
    received = b""
    while piece := bare.recv(65536):
        received += piece
    return received


def test_a_body_that_never_comes_is_given_up(server, fake):
    with closing(connect(server)) as bare:
        bare.sendall(head("/v1/completions", "content-type: application/json", "content-length: 500") + b"{")
        received = read_all(bare)
    assert received.startswith(b"HTTP/1.1 408")
    assert b"body_timeout_seconds" in received
    assert fake.requests == []


def test_an_endless_body_is_cut_off(server, fake):
    with closing(connect(server)) as bare:
        bare.sendall(head("/v1/completions", "content-type: application/json", "transfer-encoding: chunked"))
        with suppress(BrokenPipeError, ConnectionResetError):  # the answer may come before the end
            for _ in range(10):
                bare.sendall(b"200\r\n" + b" " * 0x200 + b"\r\n")
        received = read_all(bare)
    assert received.startswith(b"HTTP/1.1 413")


def stream_without_reading(address: str) -> socket.socket:
    body = orjson.dumps(ASK | {"stream": True, "max_tokens": 1000, "ignore_eos": True})
    bare = connect(address)
    bare.sendall(head("/v1/completions", *JSON_LINES, f"content-length: {len(body)}") + body)
    return bare


JSON_LINES = ("content-type: application/json",)


def test_a_client_that_reads_nothing_holds_the_backend_back_and_is_then_left(server, fake):
    fake.reply = ["x" * 100_000] * 1000  # 100 MB, far more than all buffers of both sockets
    with closing(stream_without_reading(server)):
        assert fake.cancelled.wait(60)
    assert 0 < fake.delivered < 500
    assert len(fake.closed) == 1


@pytest.mark.parametrize("settings", [dataclasses.replace(ApiSettings(), send_timeout_seconds=60.0)])
def test_while_a_client_reads_nothing_nothing_is_drawn_for_it(server, fake, settings):
    fake.reply = ["x" * 100_000] * 1000
    with closing(stream_without_reading(server)) as bare:
        seen = -1
        while seen != fake.delivered or not seen:
            seen = fake.delivered
            time.sleep(0.3)
        assert 0 < seen < 500
        assert not fake.cancelled.is_set()
        bare.recv(65536)
    assert fake.cancelled.wait(60)
