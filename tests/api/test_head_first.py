"""Whole answers for a front door: the head is there with the first token, long before the answer."""

import json

import httpx
import pytest

from ridgeline.protocol import Refusal

DOOR = {"x-ridgeline-begin-at-once": "1"}
ASK = {"model": "fake-model", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
PATH = "/v1/chat/completions"


async def test_the_answer_is_the_same_as_without_a_front_door(http, fake):
    plain = await http.post(PATH, json=ASK)
    first = await http.post(PATH, json=ASK, headers=DOOR)
    assert "content-length" in plain.headers and "content-length" not in first.headers
    assert first.headers["content-type"] == plain.headers["content-type"]
    assert first.headers["x-served-model"] == "fake-model"
    assert first.json()["choices"] == plain.json()["choices"]
    assert first.json()["usage"] == plain.json()["usage"]
    assert [request.whole for request in fake.requests] == [True, True]


async def test_a_stream_is_not_asked_for_as_a_whole(http, fake):
    await http.post(PATH, json=ASK | {"stream": True}, headers=DOOR)
    assert not fake.requests[0].whole


def test_the_head_comes_with_the_first_token_and_spaces_while_the_answer_is_made(server, fake, monkeypatch):
    monkeypatch.setattr("ridgeline.api.answers.BEAT_SECONDS", 0.02)
    fake.hold_after = 2
    with httpx.Client() as client, client.stream("POST", server + PATH, json=ASK, headers=DOOR) as response:
        assert response.status_code == 200
        content = response.iter_raw(1)
        assert [next(content) for _ in range(3)] == [b" "] * 3
        assert not fake.cancelled.is_set()
    assert fake.cancelled.wait(10), "the client is gone, and the answer is still being made"


def test_spaces_before_the_answer_are_json(server, fake, monkeypatch):
    monkeypatch.setattr("ridgeline.api.answers.BEAT_SECONDS", 0.0)
    fake.length = 400
    content = httpx.post(server + PATH, json=ASK, headers=DOOR).content
    assert content.startswith(b" ")
    assert json.loads(content)["usage"]["completion_tokens"] == 400


def test_a_failure_behind_the_head_breaks_the_connection(server, fake):
    fake.fail_after = 2
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(server + PATH, json=ASK, headers=DOOR)
    fake.fail_after = None
    assert httpx.post(server + PATH, json=ASK, headers=DOOR).status_code == 200


async def test_a_refusal_is_a_plain_error(http, fake):
    fake.refuse = Refusal("at_capacity", "full", retry_after_seconds=3.0)
    response = await http.post(PATH, json=ASK, headers=DOOR)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "at_capacity")
