"""A document comes in as it went out: whole, or not at all."""

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from documents import ID, conversation, doc, message
from hypothesis import given
from hypothesis import strategies as st
from routes_client import answered, error_of
from scripted import ScriptedBackend
from served import Server
from sites import ME, opened

from ridgeline.protocol import Refusal
from ridgeline.store.errors import StoreError
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.web.imports import read_document, store_imported
from ridgeline.web.settings import WebSettings

KEYS = {"ann": "key-of-ann", "bob": "key-of-bob"}


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


def shape(opened: dict) -> dict:
    """What an export and import must keep: everything but ids and what only an answer's making tells."""
    rows = opened["messages"]
    places = {row["id"]: index for index, row in enumerate(rows)}
    places[None] = None
    skip = ("id", "parent_id", "usage", "context_from", "run")
    return {
        "conversation": {k: v for k, v in opened["conversation"].items() if k not in ("id", "leaf_id")},
        "leaf": places[opened["conversation"]["leaf_id"]],
        "rows": [
            {k: v for k, v in row.items() if k not in skip} | {"parent": places[row["parent_id"]]}
            for row in rows
        ],
    }


def test_what_is_exported_and_imported_is_the_same(
    server: Server, client: httpx.Client, make_server: Callable[..., Server], tmp_path: Path
) -> None:
    asked = answered(client, "Grüße 👋", settings={"system_prompt": "Be nice.", "top_p": 0.5})
    name = asked["conversation"]["id"]
    answered(client, "Second", name)
    server.backend.script = [RuntimeError("no")]
    answered(client, "Edited", name, parent_id=None)
    client.patch(f"/web/conversations/{name}", json={"pinned": True, "title": "Mine"})
    client.patch(f"/web/conversations/{name}", json={"leaf_id": asked["answer"]["id"]})
    answered(client, "Another one")
    response = client.get("/web/export")
    assert response.headers["content-disposition"].startswith('attachment; filename="ridgeline-')
    exported = response.json()
    assert (exported["format"], exported["version"]) == ("ridgeline-conversations", 1)
    assert [row["title"] for row in exported["conversations"]] == ["Another one", "Mine"]
    one = client.get(f"/web/conversations/{name}/export").json()
    assert one["conversations"] == [exported["conversations"][1]]
    before = shape(client.get(f"/web/conversations/{name}").json())
    assert client.post("/web/import", json=exported).json() == {
        "imported": 0,
        "skipped": 2,
        "conversations": [],
    }
    server.stop()
    server.database = tmp_path / "other.db"
    server.start()
    done = client.post("/web/import", json=exported).json()
    assert (done["imported"], done["skipped"], len(done["conversations"])) == (2, 0, 2)
    assert shape(client.get(f"/web/conversations/{name}").json()) == before
    assert client.get("/web/search", params={"q": "GRÜSSE"}).json()["results"] == []
    (hit,) = client.get("/web/search", params={"q": "GRÜßE"}).json()["results"]
    assert hit["conversation"]["id"] == name
    again = client.get("/web/export").json()["conversations"]
    assert [row["title"] for row in again] == ["Another one", "Mine"]
    answered(client, "And on", name)
    assert server.backend.requests[-1].messages[1].content == "Grüße 👋"  # type: ignore[index]


def test_ids_of_others_are_made_anew_and_found_again(make_server: Callable[..., Server]) -> None:
    server = make_server(api_keys=KEYS)
    ann, bob = (
        httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}) for key in KEYS.values()
    )
    with ann, bob:
        answered(ann, "My secret")
        exported = ann.get("/web/export").json()
        changed = copy.deepcopy(exported)
        changed["conversations"][0]["title"] = "Stolen"
        done = bob.post("/web/import", json=changed).json()
        assert (done["imported"], done["conversations"][0]["title"]) == (1, "Stolen")
        assert done["conversations"][0]["id"] != exported["conversations"][0]["id"]
        assert bob.post("/web/import", json=changed).json()["skipped"] == 1
        assert ann.get("/web/export").json()["conversations"] == exported["conversations"]
        assert len(bob.get("/web/export").json()["conversations"]) == 1


def test_what_was_deleted_can_be_imported_again(client: httpx.Client) -> None:
    name = answered(client, "Hello")["conversation"]["id"]
    exported = client.get("/web/export").json()
    client.delete(f"/web/conversations/{name}")
    assert client.post("/web/import", json=exported).json()["imported"] == 1
    assert client.post(f"/web/conversations/{name}/restore").status_code == 200
    assert len(client.get("/web/conversations").json()["conversations"]) == 2


@pytest.mark.parametrize(
    ("document", "param", "says"),
    [
        (doc(format="other"), "format", "ridgeline-conversations"),
        (doc(version=2), "version", "must be one of 1, but is 2"),
        ({"format": "ridgeline-conversations", "version": 1}, "conversations", "is required"),
        (doc(extra=1), "extra", "no parameter `extra`"),
        (doc(conversation(title=" ")), "conversations[0].title", "white space"),
        (doc(conversation(title="x" * 201)), "conversations[0].title", "200"),
        (doc(conversation(created_ms=-1)), "conversations[0].created_ms", "at least 0"),
        (doc(conversation(updated_ms=2**42)), "conversations[0].updated_ms", "at most"),
        (doc(conversation(pinned="no")), "conversations[0].pinned", "true or false"),
        (doc(conversation(title_by="me")), "conversations[0].title_by", "one of"),
        (doc(conversation(leaf_id="z")), "conversations[0].leaf_id", "one of its messages"),
        (doc(conversation(tenant="bob")), "conversations[0].tenant", "not a known field"),
        (doc(conversation(id="")), "conversations[0].id", "at least 1"),
        (doc(conversation(id="x" * 65)), "conversations[0].id", "at most 64"),
        (doc(conversation(), conversation()), "conversations[1].id", "twice"),
        (
            doc(conversation(settings={"temperature": 3})),
            "conversations[0].settings.temperature",
            "at most 2",
        ),
        (
            doc(conversation(settings={"max_tokens": 5000})),
            "conversations[0].settings.max_tokens",
            "max-answer-tokens",
        ),
        (
            doc(conversation(messages=[message("a"), message("a")])),
            "conversations[0].messages[1].id",
            "twice",
        ),
        (
            doc(conversation(messages=[message("b", "a"), message("a")])),
            "conversations[0].messages[0].parent_id",
            "before it",
        ),
        (
            doc(conversation(messages=[message("a", "a")])),
            "conversations[0].messages[0].parent_id",
            "before it",
        ),
        (
            doc(conversation(messages=[message("a", "b"), message("b", "a")])),
            "conversations[0].messages[0].parent_id",
            "before it",
        ),
        (
            doc(conversation(messages=[message("a", role="system")])),
            "conversations[0].messages[0].role",
            "one of",
        ),
        (
            doc(conversation(messages=[message("a", status="streaming")])),
            "conversations[0].messages[0].status",
            "one of",
        ),
        (
            doc(conversation(messages=[message("a", content=None)])),
            "conversations[0].messages[0].content",
            "a string",
        ),
        (
            doc(conversation(messages=[message("a", error={"code": "x" * 65, "message": ""})])),
            "conversations[0].messages[0].error.code",
            "at most 64",
        ),
    ],
)
def test_one_fault_and_nothing_is_stored(client: httpx.Client, document: dict, param: str, says: str) -> None:
    good = conversation("f" * 32)
    document = document | {"conversations": [*document.get("conversations", []), good]}
    if param == "conversations":
        del document["conversations"]
    error = error_of(client.post("/web/import", json=document))
    assert error["param"] == param and says in error["message"]
    assert client.get("/web/conversations").json()["conversations"] == []


@pytest.mark.parametrize("body", [b"", b"[", b"[]", b'"text"', b'{"a": "\\ud800"}', b"[" * 100_000, b"\xff"])
def test_what_is_no_document_at_all(client: httpx.Client, body: bytes) -> None:
    response = client.post("/web/import", content=body, headers={"content-type": "application/json"})
    error_of(response)


def test_a_form_is_no_document(client: httpx.Client) -> None:
    assert "application/json" in error_of(client.post("/web/import", data={"a": "b"}))["message"]


def test_places_are_counted_anew_and_times_are_not_in_the_future() -> None:
    rows = [message("a"), message("b", "a", created_ms=2**41), message("c", "b", role="user")]
    body = json.dumps(doc(conversation("x", messages=rows, updated_ms=2**41))).encode()
    (found,) = read_document(body, ME, WebSettings(), now_ms=100)
    assert [row.position for row in found.rows] == [0, 1, 2]
    assert [row.created_ms for row in found.rows] == [5, 100, 5]
    assert found.conversation.updated_ms == 100
    renamed = found.under(ID)
    assert {row.conversation_id for row in renamed.rows} == {ID}
    assert [row.parent_id for row in renamed.rows] == [None, renamed.rows[0].id, renamed.rows[1].id]
    assert renamed == found.under(ID) != found.under("f" * 32)


@given(st.lists(st.integers(-1, 30), max_size=30))
def test_trees_of_any_shape_come_in_whole(parents: list[int]) -> None:
    rows = []
    for index, parent in enumerate(parents):
        parent = parent if 0 <= parent < index else -1
        rows.append(message(f"m{index}", f"m{parent}" if parent >= 0 else None, role="user"))
    (found,) = read_document(json.dumps(doc(conversation(messages=rows))).encode(), ME, WebSettings(), 10)
    by_id = {row.id: row for row in found.rows}
    assert [row.id for row in found.rows] == [row["id"] for row in rows]
    for row in found.rows:
        assert row.position == (by_id[row.parent_id].position + 1 if row.parent_id else 0)


def test_nul_characters_come_in_replaced() -> None:
    body = json.dumps(doc(conversation(messages=[message("a", content="c\0d")], model="m\0"))).encode()
    (found,) = read_document(body, ME, WebSettings(), 10)
    assert (found.rows[0].content, found.conversation.model) == ("c\ufffdd", "m\ufffd")


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"max_conversation_messages": 2}, "max-conversation-messages"),
        ({"max_conversation_characters": 2}, "max-conversation-characters"),
    ],
)
def test_a_conversation_that_is_too_large_is_named(limits: dict, says: str) -> None:
    with pytest.raises(Refusal, match=says) as refused:
        read_document(json.dumps(doc()).encode(), ME, replace(WebSettings(), **limits), 10)
    assert refused.value.param == "conversations[0]"


def test_limits_of_documents_conversations_and_pins(make_server: Callable[..., Server]) -> None:
    server = make_server(WebSettings(max_import_bytes=2000, max_conversations=2, max_pinned=1))
    with httpx.Client(base_url=server.url) as client:
        large = error_of(client.post("/web/import", json=doc(conversation(model="x" * 2000))), 413)
        assert "2000 bytes" in large["message"]
        many = doc(*(conversation(f"{n}" * 32, pinned=True, messages=[]) for n in range(3)))
        error = error_of(client.post("/web/import", json=many), 409)
        assert "max-conversations" in error["message"] and "3 would come in" in error["message"]
        assert client.get("/web/conversations").json()["conversations"] == []
        del many["conversations"][2]
        assert client.post("/web/import", json=many).json()["imported"] == 2
        listed = client.get("/web/conversations").json()
        assert (len(listed["pinned"]), len(listed["conversations"])) == (1, 1)


async def test_a_disk_that_fills_half_way_is_told_and_the_rest_can_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps(doc(*(conversation(f"{n}" * 32) for n in range(3)))).encode()
    async with opened(tmp_path / "c.db", ScriptedBackend()) as site:
        found = read_document(body, ME, site.settings, 10)
        add, left = site.conversations._store.add, [1]

        async def filling(conversation: Conversation, rows: list[StoredMessage]) -> None:
            if not left:
                raise StoreError("Conversations cannot be saved in c.db: the disk is full; free some space.")
            left.pop()
            await add(conversation, rows)

        with monkeypatch.context() as patch:
            patch.setattr(site.conversations._store, "add", filling)
            with pytest.raises(StoreError, match="disk is full"):
                await store_imported(site.conversations, site.settings, ME, found)
        assert await site.conversations.count(ME) == 1
        stored, skipped = await store_imported(site.conversations, site.settings, ME, found)
        assert (len(stored), skipped) == (2, 1)


async def test_two_imports_at_once_store_each_conversation_once(tmp_path: Path) -> None:
    body = json.dumps(doc(*(conversation(f"{n}" * 32) for n in range(5)))).encode()
    async with opened(tmp_path / "c.db", ScriptedBackend()) as site:
        found = read_document(body, ME, site.settings, 10)
        both = await asyncio.gather(
            *(store_imported(site.conversations, site.settings, ME, found) for _ in range(2))
        )
        assert sum(len(stored) for stored, _ in both) == sum(skipped for _, skipped in both) == 5
        assert await site.conversations.count(ME) == 5
