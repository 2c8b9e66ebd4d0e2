"""Conversations as a document: one after the other, and never all in memory."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from documents import conversation, doc
from routes_client import answered
from scripted import ScriptedBackend
from served import Server
from sites import ME, opened

from ridgeline.store.records import StoredMessage
from ridgeline.web.export import document
from ridgeline.web.imports import read_document, store_imported
from ridgeline.web.settings import WebSettings
from ridgeline.web.streamed import StreamedResponse


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


def test_an_answer_being_written_is_exported_as_interrupted(server: Server, client: httpx.Client) -> None:
    server.backend.hold_after = 1
    response = client.post("/web/messages", json={"content": "Go"}).json()
    path = f"/web/conversations/{response['conversation']['id']}"
    while client.get(path).json()["messages"][1]["content"] == "":
        pass
    exported = client.get(f"{path}/export").json()
    row = exported["conversations"][0]["messages"][1]
    assert (row["status"], row["content"]) == ("interrupted", "Yes, ")
    assert read_document(json.dumps(exported).encode(), ME, WebSettings(), 10)


async def test_an_export_has_one_conversation_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "c.db", ScriptedBackend()) as site:
        body = json.dumps(doc(*(conversation(f"{n}" * 32) for n in range(3)))).encode()
        await store_imported(
            site.conversations, site.settings, ME, read_document(body, ME, site.settings, 10)
        )
        loaded: list[str] = []
        messages = site.conversations.messages

        async def noted(name: str) -> list[StoredMessage]:
            loaded.append(name)
            return await messages(name)

        monkeypatch.setattr(site.conversations, "messages", noted)
        names = await site.conversations.ids(ME)
        pieces = document(site.conversations, site.answers, ME, names)
        text = await anext(pieces)
        for number in range(3):
            text += await anext(pieces)
            assert loaded == names[: number + 1]
            if number == 0:
                gone = await site.conversations.get(ME, names[1])
                assert gone is not None
                await site.conversations.delete(gone)
                names.remove(gone.id)
                break
        text += b"".join([piece async for piece in pieces])
        assert [row["id"] for row in json.loads(text)["conversations"]] == names


async def test_a_reader_that_stops_reading_ends_the_export() -> None:
    closed = []

    async def endless():  # type: ignore[no-untyped-def]
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(sent: dict[str, object]) -> None:
        if sent["type"] == "http.response.body":
            await asyncio.Event().wait()

    response = StreamedResponse(endless(), media_type="application/json", send_timeout_seconds=0.02)
    await response({"type": "http"}, receive, send)  # type: ignore[arg-type]
    assert closed == [True]


def test_one_export_at_a_time(make_server: Callable[..., Server]) -> None:
    server = make_server()
    with httpx.Client(base_url=server.url) as client:
        answered(client, "x" * 90_000)
        for _ in range(3):
            assert client.get("/web/export").status_code == 200, "each gives its turn back"
