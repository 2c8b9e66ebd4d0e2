"""The page's routes over real HTTP, with what the API's middleware adds to them."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import pytest
from served import Server

from ridgeline.protocol import Refusal
from ridgeline.web.settings import WebSettings

KEYS = {"ann": "key-of-ann", "bob": "key-of-bob"}


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


def events(response: httpx.Response) -> list[tuple[str, str, dict]]:
    found = []
    for block in response.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "data" in fields:
            found.append((fields["id"], fields["event"], json.loads(fields["data"])))
    return found


def ask(client: httpx.Client, content: str, conversation_id: str | None = None) -> dict:
    response = client.post("/web/messages", json={"content": content, "conversation_id": conversation_id})
    assert response.status_code == 200, response.text
    return response.json()


def answer_of(client: httpx.Client, asked: dict) -> dict:
    return events(client.get(f"/web/answers/{asked['answer']['id']}/events"))[-1][2]["message"]


def test_a_conversation_from_its_first_message_to_its_end(client: httpx.Client) -> None:
    session = client.get("/web/session").json()
    assert session["models"] == [{"name": "tiny", "max_context_tokens": 2000, "parameters": 1000}]
    asked = ask(client, "Hello **you**")
    assert asked["question"]["content"] == "Hello **you**"
    final = answer_of(client, asked)
    assert (final["status"], final["content"]) == ("complete", "Yes, of course.")
    assert final["usage"]["completion_tokens"] == 3
    again = ask(client, "More", asked["conversation"]["id"])
    answer_of(client, again)
    shown = client.get(f"/web/conversations/{asked['conversation']['id']}").json()
    assert [row["role"] for row in shown["messages"]] == ["user", "assistant"] * 2
    assert [row["title"] for row in client.get("/web/conversations").json()["conversations"]] == [
        "Hello **you**"
    ]


def test_events_resume_by_last_event_id(server: Server, client: httpx.Client) -> None:
    server.backend.hold_after = 2
    asked = ask(client, "Go")
    path = f"/web/answers/{asked['answer']['id']}/events"
    received = ""
    with client.stream("GET", path) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        for piece in response.iter_text():
            received += piece
            if "of " in received:
                break
    last = [line[4:] for line in received.splitlines() if line.startswith("id: ")][-1]
    live = client.get(f"/web/conversations/{asked['conversation']['id']}").json()["messages"][1]
    assert (live["status"], live["content"]) == ("streaming", "Yes, of ")
    server.backend.hold_after = None
    rest = events(client.get(path, headers={"last-event-id": last}))
    assert [(kind, data.get("text")) for _, kind, data in rest] == [("text", "course."), ("end", None)]


def test_an_answer_of_long_ago_is_told_from_the_database(server: Server, client: httpx.Client) -> None:
    asked = ask(client, "Go")
    answer_of(client, asked)
    server.stop()
    server.start()
    kinds = [kind for _, kind, _ in events(client.get(f"/web/answers/{asked['answer']['id']}/events"))]
    assert kinds == ["snapshot", "end"]
    assert answer_of(client, asked)["content"] == "Yes, of course."


def test_stop_and_continue(server: Server, client: httpx.Client) -> None:
    server.backend.hold_after = 1
    asked = ask(client, "Go")
    name = asked["answer"]["id"]
    while (
        client.get(f"/web/conversations/{asked['conversation']['id']}").json()["messages"][1]["content"] == ""
    ):
        time.sleep(0.01)
    stopped = client.post(f"/web/answers/{name}/stop").json()["answer"]
    assert (stopped["status"], stopped["content"]) == ("stopped", "Yes, ")
    assert server.backend.running == set()
    server.backend.hold_after = None
    assert client.post(f"/web/answers/{name}/continue").json()["answer"]["status"] == "streaming"
    assert answer_of(client, asked)["content"] == "Yes, Yes, of course."


def test_deleting_stops_hides_and_can_be_undone(server: Server, client: httpx.Client) -> None:
    server.backend.hold_after = 1
    asked = ask(client, "Go")
    path = f"/web/conversations/{asked['conversation']['id']}"
    assert client.delete(path).json() == {"deleted": True}
    assert server.backend.running == set()
    assert client.get(path).status_code == 404
    assert client.delete(path).status_code == 404
    assert client.post(f"{path}/restore").json() == {"deleted": False}
    assert client.get(path).json()["messages"][1]["status"] == "stopped"


def test_what_is_deleted_is_erased(make_server: Callable[..., Server]) -> None:
    server = make_server(WebSettings(undo_seconds=0.05))
    with httpx.Client(base_url=server.url) as client:
        asked = ask(client, "Go")
        answer_of(client, asked)
        path = f"/web/conversations/{asked['conversation']['id']}"
        client.delete(path)
        with closing(sqlite3.connect(server.database)) as database:
            while database.execute("SELECT count(*) FROM messages").fetchone() != (0,):
                time.sleep(0.01)
        assert client.post(f"{path}/restore").status_code == 404
    server.stop()
    # The text is gone from the file, not only out of sight.
    assert b"Yes, of course." not in server.database.read_bytes()


def test_pages_of_conversations(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ridgeline.web.conversation_routes._PAGE_SIZE", 2)
    for number in range(3):
        answer_of(client, ask(client, f"Number {number}"))
        time.sleep(0.005)
    first = client.get("/web/conversations").json()
    rest = client.get(
        "/web/conversations", params={"before_ms": first["conversations"][-1]["updated_ms"]}
    ).json()
    titles = [row["title"] for row in first["conversations"] + rest["conversations"]]
    assert titles == ["Number 2", "Number 1", "Number 0"]
    assert (first["more"], rest["more"]) == (True, False)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"content": ""}, 400, "`content`"),
        ({"content": "  \n"}, 400, "white space"),
        ({"content": 5}, 400, "must be a string"),
        ({"text": "Hello"}, 400, "no parameter `text`"),
        ({"content": "Hi", "conversation_id": "nope"}, 404, "no such conversation"),
        ({"content": "Hi", "model": "nope"}, 404, "served are: tiny"),
        ({"content": "x" * 200_000}, 413, "max-message-characters"),
    ],
)
def test_wrong_messages_are_explained(client: httpx.Client, body: dict, status: int, says: str) -> None:
    response = client.post("/web/messages", json=body)
    assert response.status_code == status
    assert says in response.json()["error"]["message"]
    assert client.get("/web/conversations").json()["conversations"] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/web/conversations/nope"),
        ("POST", "/web/conversations/nope/restore"),
        ("GET", "/web/answers/nope/events"),
        ("POST", "/web/answers/nope/stop"),
        ("POST", "/web/answers/nope/continue"),
    ],
)
def test_what_is_not_there_is_404(client: httpx.Client, method: str, path: str) -> None:
    response = client.request(method, path)
    assert response.status_code == 404
    assert "may have been deleted" in response.json()["error"]["message"]


def test_capacity_is_an_event_with_the_wait(server: Server, client: httpx.Client) -> None:
    server.backend.script = [Refusal("at_capacity", "All full.", retry_after_seconds=4)]
    final = answer_of(client, ask(client, "Go"))
    assert final["error"] == {"code": "at_capacity", "message": "All full.", "retry_after_seconds": 4}


def test_keys_separate_their_owners(make_server: Callable[..., Server]) -> None:
    server = make_server(api_keys=KEYS)
    with httpx.Client(base_url=server.url) as nobody:
        assert nobody.get("/").status_code == 200
        for method, path in [
            ("GET", "/web/session"),
            ("GET", "/web/conversations"),
            ("GET", "/web/conversations/x"),
            ("DELETE", "/web/conversations/x"),
            ("POST", "/web/conversations/x/restore"),
            ("POST", "/web/messages"),
            ("POST", "/web/answers/x/continue"),
            ("POST", "/web/answers/x/stop"),
            ("GET", "/web/answers/x/events"),
        ]:
            response = nobody.request(method, path)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key"), path
    ann, bob = (
        httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}) for key in KEYS.values()
    )
    with ann, bob:
        asked = ask(ann, "My secret")
        answer_of(ann, asked)
        assert server.backend.requests[0].tenant == "ann"
        assert bob.get("/web/conversations").json()["conversations"] == []
        assert bob.get(f"/web/conversations/{asked['conversation']['id']}").status_code == 404
        assert bob.get(f"/web/answers/{asked['answer']['id']}/events").status_code == 404
        assert ann.get("/web/session").json()["tenant"] == "ann"


def test_other_sites_and_hosts_are_kept_out(client: httpx.Client) -> None:
    evil = {"origin": "https://evil.example"}
    assert client.get("/web/conversations", headers=evil).status_code == 403
    assert client.post("/web/messages", json={"content": "Hi"}, headers=evil).status_code == 403
    assert client.get("/web/conversations", headers={"host": "evil.example"}).status_code in (400, 403, 421)


def test_a_message_as_a_plain_form_is_refused(client: httpx.Client) -> None:
    response = client.post("/web/messages", data={"content": "Hi"})
    assert response.status_code == 400
    assert "application/json" in response.json()["error"]["message"]


def test_a_full_disk_is_told_in_the_session(
    server: Server, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ridgeline.store import store as store_module

    async def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "_upsert", full)
    final = answer_of(client, ask(client, "Go"))
    assert final["content"] == "Yes, of course."
    assert "the disk is full" in client.get("/web/session").json()["problem"]
