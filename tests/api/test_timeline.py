"""`GET /v1/requests/{id}/timeline`: what it says, and to whom."""

import httpx
import pytest
import told
from fastapi import FastAPI

from fakes import FakeBackend
from ridgeline.api.app import create_app
from ridgeline.api.settings import ApiSettings
from ridgeline.protocol import Explaining, Timeline


class Remembering(FakeBackend):
    """A backend that remembers what it is told to."""

    timelines: tuple[Timeline, ...] = ()

    async def timeline(self, name, tenant):
        return [t for t in self.timelines if name in (t.id, t.name) and t.tenant == tenant]


@pytest.fixture
def fake() -> Remembering:
    backend = Remembering()
    backend.timelines = (told.timeline(told.LONG, told.FULL),)
    return backend


def client(app: FastAPI, key: str = "") -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers=headers)


async def test_the_whole_story(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/requests/request-a/timeline")
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert (body["object"], body["id"]) == ("request.timeline", "request-a")
    (request,) = body["requests"]
    assert request["id"] == "chatcmpl-a" and request["request_id"] == "request-a"
    assert request["received_at"] == "2026-05-28T20:26:40.000Z"
    first, second = request["answers"]
    assert (first["index"], first["state"], first["total_seconds"]) == (0, "finished", 10.0)
    assert first["spent_seconds"]["queue"] == 2.0 and first["omitted_events"] == 0
    assert first["phases"][1] == {"phase": "queue", "from_seconds": 0.1, "to_seconds": 2.1}
    assert len(first["advice"]) == 4
    assert second["state"] == "refused"
    events = {event["event"]: event for event in first["events"]}
    assert set(events) == {
        "queued", "not_loaded", "load_begun", "loaded", "matched", "admitted", "prefilled", "first_token",
        "preempted", "saved", "finished",
    }  # fmt: skip
    assert all(event["says"] for event in first["events"])
    assert events["queued"]["at_seconds"] == 0.1
    matched = next(event for event in first["events"] if event["event"] == "matched")
    assert matched["evictions"] == [
        {"tokens": 160, "by": "chatcmpl-b", "price": 2e-6, "at_seconds": -60.0},
        {"tokens": 48, "by": "another user's request", "price": None, "at_seconds": -30.0},
    ]
    assert matched["loaded_tokens"] == {"host": 192}


async def test_the_name_of_a_request_is_the_id_that_its_client_is_told(
    http: httpx.AsyncClient, fake: Remembering
) -> None:
    body = {"model": "fake-model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    answer = await http.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine.1"})
    assert fake.requests[-1].name == "mine.1" == answer.headers["x-request-id"]
    assert fake.requests[-1].id == answer.json()["id"]
    answer = await http.post("/v1/completions", json={"model": "fake-model", "prompt": ["a", "b"]})
    assert {r.name for r in fake.requests[-2:]} == {answer.headers["x-request-id"]}


async def test_what_is_not_known_is_not_found(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/requests/another/timeline")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "invalid_request" and answer.json()["error"]["param"] == "id"
    assert "No request 'another' of yours is remembered" in answer.json()["error"]["message"]


async def test_a_stranger_cannot_tell_it_from_one_that_never_was(fake: Remembering) -> None:
    app = create_app(fake, ApiSettings(api_keys={"local": "key-1", "bob": "key-2"}))
    async with client(app, "key-1") as ours, client(app, "key-2") as theirs, client(app) as nobody:
        assert (await ours.get("/v1/requests/request-a/timeline")).status_code == 200
        hidden = await theirs.get("/v1/requests/request-a/timeline")
        never = await theirs.get("/v1/requests/request-z/timeline")
        assert hidden.status_code == never.status_code == 404
        assert hidden.text.replace("request-a", "request-z") == never.text
        assert (await nobody.get("/v1/requests/request-a/timeline")).status_code == 401


async def test_a_backend_that_keeps_none_says_so() -> None:
    backend = FakeBackend()
    assert not isinstance(backend, Explaining)
    async with client(create_app(backend, ApiSettings())) as http:
        answer = await http.get("/v1/requests/request-a/timeline")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "This server keeps no timelines."


@pytest.mark.parametrize("name", ["%00", "a%2Fb", "x" * 5000, "%F0%9F%8C%8D"])
async def test_ids_that_are_none(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"/v1/requests/{name}/timeline")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "invalid_request"
    assert len(answer.text) < 1000
