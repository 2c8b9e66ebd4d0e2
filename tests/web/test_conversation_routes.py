"""List, open, change, search over real HTTP, each only for the owner."""

import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from routes_client import answered, ask, error_of
from served import Server

from ridgeline.web.settings import WebSettings

KEYS = {"ann": "key-of-ann", "bob": "key-of-bob"}


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


@pytest.fixture
def path(client: httpx.Client) -> str:
    return f"/web/conversations/{answered(client, 'Hello')['conversation']['id']}"


def test_the_session_names_defaults_and_limits(make_server: Callable[..., Server]) -> None:
    server = make_server(WebSettings(max_answer_tokens=99, max_import_bytes=1000))
    session = httpx.get(f"{server.url}/web/session").json()
    assert session["defaults"] == {"temperature": 0.3, "top_p": 0.9, "max_tokens": 99}
    assert session["limits"] == {
        "system_prompt_characters": 8000,
        "import_bytes": 1000,
        "title_characters": 200,
    }


def test_a_conversation_has_all_that_the_page_needs(client: httpx.Client) -> None:
    asked = answered(client, "Hello", settings={"system_prompt": " Be nice. ", "temperature": 1})
    conversation = asked["conversation"]
    assert conversation == {
        "id": conversation["id"],
        "title": "Hello",
        "title_by": "first",
        "model": "tiny",
        "pinned": False,
        "temporary": False,
        "settings": {"system_prompt": "Be nice.", "temperature": 1.0, "top_p": None, "max_tokens": None},
        "leaf_id": asked["answer"]["id"],
        "created_ms": conversation["created_ms"],
        "updated_ms": conversation["updated_ms"],
    }
    opened = client.get(f"/web/conversations/{conversation['id']}").json()
    assert opened["conversation"] == conversation


def test_the_whole_tree_is_sent_and_its_leaf(client: httpx.Client, path: str) -> None:
    name = path.rpartition("/")[2]
    second = answered(client, "Second", name)
    edited = answered(client, "Second, edited", name, parent_id=second["question"]["parent_id"])
    opened = client.get(path).json()
    assert opened["conversation"]["leaf_id"] == edited["answer"]["id"]
    assert [(row["position"], row["role"]) for row in opened["messages"]] == [
        (0, "user"),
        (1, "assistant"),
        (2, "user"),
        (2, "user"),
        (3, "assistant"),
        (3, "assistant"),
    ]
    assert client.patch(path, json={"leaf_id": second["answer"]["id"]}).status_code == 200
    assert client.get(path).json()["conversation"]["leaf_id"] == second["answer"]["id"]


def test_regenerating_without_a_body(client: httpx.Client) -> None:
    asked = answered(client, "Hello")
    response = client.post(f"/web/answers/{asked['answer']['id']}/regenerate")
    assert response.status_code == 200
    assert response.json()["answer"]["parent_id"] == asked["question"]["id"]
    assert response.json()["conversation"]["leaf_id"] == response.json()["answer"]["id"]
    missing = client.post(f"/web/answers/{asked['answer']['id']}/regenerate", json={"model": "nope"})
    assert "served are: tiny" in error_of(missing, 404)["message"]


def test_renaming_pinning_and_settings(client: httpx.Client, path: str) -> None:
    before = client.get(path).json()["conversation"]
    changed = client.patch(path, json={"title": "  My\n title ", "pinned": True}).json()["conversation"]
    assert (changed["title"], changed["title_by"], changed["pinned"]) == ("My title", "user", True)
    assert changed["updated_ms"] == before["updated_ms"]
    client.patch(path, json={"settings": {"temperature": 0, "top_p": 0.5}})
    changed = client.patch(path, json={"settings": {"top_p": None, "max_tokens": 5}}).json()["conversation"]
    assert changed["settings"] == {"system_prompt": "", "temperature": 0.0, "top_p": None, "max_tokens": 5}
    assert client.patch(path, json={}).json()["conversation"] == changed
    assert client.get(path).json()["conversation"] == changed


def test_pinned_ones_stand_on_the_first_page_alone(client: httpx.Client, path: str) -> None:
    answered(client, "Another")
    client.patch(path, json={"pinned": True})
    first = client.get("/web/conversations").json()
    assert [row["title"] for row in first["pinned"]] == ["Hello"]
    assert [row["title"] for row in first["conversations"]] == ["Another"]
    later = client.get("/web/conversations", params={"before_ms": 2**41}).json()
    assert (later["pinned"], [row["title"] for row in later["conversations"]]) == ([], ["Another"])


@pytest.mark.parametrize(
    ("body", "says", "param"),
    [
        ({"title": " \t"}, "`title` must be more than white space", "title"),
        ({"title": "x" * 201}, "at most 200 characters, but has 201", "title"),
        ({"title": 5}, "must be a string, but is 5", "title"),
        ({"pinned": "yes"}, "must be true or false", "pinned"),
        ({"settings": {"temperature": 2.5}}, "at most 2.0, but is 2.5", "settings.temperature"),
        ({"settings": {"temperature": -1}}, "at least 0", "settings.temperature"),
        ({"settings": {"temperature": "hot"}}, "must be a number", "settings.temperature"),
        ({"settings": {"top_p": 0}}, "more than 0", "settings.top_p"),
        ({"settings": {"top_p": 1.1}}, "at most 1", "settings.top_p"),
        ({"settings": {"max_tokens": 0}}, "at least 1, but is 0", "settings.max_tokens"),
        (
            {"settings": {"max_tokens": 5000}},
            "4096 (--site max-answer-tokens), but is 5000",
            "settings.max_tokens",
        ),
        ({"settings": {"max_tokens": 10**30}}, "`settings.max_tokens`", "settings.max_tokens"),
        ({"settings": {"max_tokens": 1.5}}, "integer", "settings.max_tokens"),
        ({"settings": {"system_prompt": "x" * 8001}}, "8000 characters", "settings.system_prompt"),
        ({"settings": {"seed": 1}}, "not a known field", "settings.seed"),
        ({"settings": []}, "must be an object", "settings"),
        ({"colour": "red"}, "no parameter `colour`", "colour"),
        ({"leaf_id": "x" * 65}, "at most 64", "leaf_id"),
    ],
)
def test_wrong_changes_are_explained_and_change_nothing(
    client: httpx.Client, path: str, body: dict, says: str, param: str
) -> None:
    before = client.get(path).json()
    error = error_of(client.patch(path, json={"title": "Other"} | body))
    assert says in error["message"] and error["param"] == param
    assert client.get(path).json() == before
    if "settings" in body:
        new = error_of(client.post("/web/messages", json={"content": "Hi", **body}))
        assert (new["param"], says in new["message"]) == (param, True)


def test_a_leaf_must_be_a_message_of_the_conversation(client: httpx.Client, path: str) -> None:
    other = answered(client, "Elsewhere")["answer"]["id"]
    for leaf_id in ("nope", other):
        assert error_of(client.patch(path, json={"leaf_id": leaf_id}), 404)["param"] == "leaf_id"


@pytest.mark.parametrize(
    ("body", "param"),
    [({"parent_id": "x"}, "parent_id")],
)
def test_what_a_new_conversation_cannot_have(client: httpx.Client, body: dict, param: str) -> None:
    assert error_of(client.post("/web/messages", json={"content": "Hi", **body}))["param"] == param


@pytest.mark.parametrize("body", [{"temporary": True}, {"settings": {"temperature": 1}}])
def test_what_only_a_new_conversation_can_have(client: httpx.Client, path: str, body: dict) -> None:
    body = {"content": "Hi", "conversation_id": path.rpartition("/")[2]} | body
    assert "only for a new conversation" in error_of(client.post("/web/messages", json=body))["message"]


def test_pins_have_a_limit(make_server: Callable[..., Server]) -> None:
    with httpx.Client(base_url=make_server(WebSettings(max_pinned=1)).url) as client:
        paths = [f"/web/conversations/{answered(client, 'Hi')['conversation']['id']}" for _ in range(2)]
        assert client.patch(paths[0], json={"pinned": True}).status_code == 200
        assert "max-pinned" in error_of(client.patch(paths[1], json={"pinned": True}), 409)["message"]
        assert client.patch(paths[0], json={"pinned": True}).status_code == 200
        client.patch(paths[0], json={"pinned": False})
        assert client.patch(paths[1], json={"pinned": True}).status_code == 200


def test_searching(client: httpx.Client) -> None:
    first = answered(client, "About Straßen, " + "filler " * 10 + "\nand BÄUME of all kinds " + "x" * 200)
    found = client.get("/web/search", params={"q": " bäume "}).json()
    assert found["more"] is False
    (result,) = found["results"]
    assert result["conversation"]["id"] == first["conversation"]["id"]
    assert result["message_id"] == first["question"]["id"]
    assert result["snippet"]["match"] == "BÄUME"
    assert result["snippet"]["before"] == "…" + "filler " * 5 + "\nand "
    assert result["snippet"]["after"].startswith(" of all kinds xxx")
    assert result["snippet"]["after"].endswith("x…") and len(result["snippet"]["after"]) == 81
    (titled,) = client.get("/web/search", params={"q": "STRASSEN"}).json()["results"]
    assert titled["message_id"] is None and titled["snippet"]["match"] == "Straßen"
    for q in ("", "  ", "\0", "nothing like it", '"', "a*b'; --"):
        assert client.get("/web/search", params={"q": q}).json() == {"results": [], "more": False}
    answered(client, "More Bäume and Straßen")
    limited = client.get("/web/search", params={"q": "Bäume", "limit": 1}).json()
    assert (len(limited["results"]), limited["more"]) == (1, True)


@pytest.mark.parametrize(
    ("address", "param"),
    [
        ("/web/search?q=a&limit=0", "limit"),
        ("/web/search?q=a&limit=51", "limit"),
        ("/web/search?q=a&limit=x", "limit"),
        (f"/web/search?q={'a' * 201}", "q"),
        ("/web/conversations?before_ms=-1", "before_ms"),
        ("/web/conversations?before_ms=99999999999999999999", "before_ms"),
        ("/web/conversations?before_ms=1e9", "before_ms"),
        ("/web/conversations?before_ms=%D9%A3", "before_ms"),
    ],
)
def test_wrong_addresses_are_explained(client: httpx.Client, address: str, param: str) -> None:
    assert error_of(client.get(address))["param"] == param


def test_the_title_by_the_model_can_be_waited_for(server: Server, client: httpx.Client) -> None:
    server.backend.title = '"Greeting the world"'
    path = f"/web/conversations/{answered(client, 'Hello')['conversation']['id']}"
    waited = client.get(f"{path}/title", params={"wait": "true"}).json()["conversation"]
    assert (waited["title"], waited["title_by"]) == ("Greeting the world", "model")
    assert client.get(f"{path}/title").json()["conversation"] == waited
    assert client.get(f"{path}x/title?wait=true").status_code == 404


def test_deleting_ends_the_title_too(server: Server, client: httpx.Client) -> None:
    server.backend.hold_titles = True
    path = f"/web/conversations/{answered(client, 'Hello')['conversation']['id']}"
    while not server.backend.titles:
        time.sleep(0.01)
    assert client.delete(path).json() == {"deleted": True}
    assert server.backend.running == set()


def test_each_route_is_for_the_owner_alone(make_server: Callable[..., Server]) -> None:
    server = make_server(api_keys=KEYS)
    ann, bob = (
        httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}) for key in KEYS.values()
    )
    with ann, bob, httpx.Client(base_url=server.url) as nobody:
        asked = answered(ann, "My secret")
        kept = f"/web/conversations/{asked['conversation']['id']}"
        hidden = answered(ann, "My other secret", temporary=True)
        temporary = f"/web/conversations/{hidden['conversation']['id']}"
        requests: list[tuple[str, str, dict | None]] = []
        for path, answer in ((kept, asked), (temporary, hidden)):
            message = f"/web/answers/{answer['answer']['id']}"
            requests += [
                ("GET", path, None),
                ("PATCH", path, {"title": "Mine"}),
                ("PATCH", path, {"leaf_id": answer["question"]["id"]}),
                ("GET", f"{path}/title", None),
                ("GET", f"{path}/title?wait=true", None),
                ("GET", f"{path}/export", None),
                ("DELETE", path, None),
                ("POST", f"{path}/restore", {}),
                ("POST", "/web/messages", {"content": "Hi", "conversation_id": path.rpartition("/")[2]}),
                ("GET", f"{message}/events", None),
                ("POST", f"{message}/regenerate", {}),
                ("POST", f"{message}/continue", {}),
                ("POST", f"{message}/stop", {}),
            ]
        for method, path, body in requests:
            assert bob.request(method, path, json=body).status_code == 404, path
            refused = nobody.request(method, path, json=body)
            assert error_of(refused, 401)["code"] == "invalid_api_key", path
        for method, path in [
            ("GET", "/web/search?q=secret"),
            ("GET", "/web/export"),
            ("POST", "/web/import"),
        ]:
            assert nobody.request(method, path).status_code == 401
        assert bob.get("/web/search", params={"q": "secret"}).json()["results"] == []
        assert bob.get("/web/conversations").json()["conversations"] == []
        assert bob.get("/web/export").json()["conversations"] == []
        mine = answered(bob, "Mine")
        for parent_id in (asked["answer"]["id"], hidden["answer"]["id"]):
            body = {"content": "Hi", "conversation_id": mine["conversation"]["id"], "parent_id": parent_id}
            assert error_of(bob.post("/web/messages", json=body), 404)["param"] == "parent_id"
        assert ann.get(kept).json()["conversation"]["title"] == "My secret"
        assert ann.get(temporary).json()["conversation"]["title"] == "My other secret"


def test_too_many_searches_at_once_are_refused(make_server: Callable[..., Server]) -> None:
    with httpx.Client(base_url=make_server(WebSettings(max_searches=0)).url) as client:
        error = error_of(client.get("/web/search?q=abc"), 429)
        assert "max-searches" in error["message"]


def test_a_full_disk_lets_changes_through_and_says_so(
    server: Server, client: httpx.Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ridgeline.store import store as store_module

    async def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "_upsert", full)
        assert client.patch(path, json={"title": "Renamed"}).json()["conversation"]["title"] == "Renamed"
        assert "the disk is full" in client.get("/web/session").json()["problem"]
        assert [row["title"] for row in client.get("/web/conversations").json()["conversations"]] == [
            "Renamed"
        ]
        assert client.delete(path).json() == {"deleted": True}
        assert client.get(path).status_code == 404
        assert client.post(f"{path}/restore").json() == {"deleted": False}
    ask(client, "Hi")
    server.stop()
    server.start()
    assert client.get(path).json()["conversation"]["title"] == "Renamed"


def test_a_locked_database_is_a_sentence(
    server: Server, client: httpx.Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    from ridgeline.store import database

    server.stop()
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_MS", 20)
    server.start()
    with sqlite3.connect(server.database, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        changed = client.patch(path, json={"title": "Renamed"})
        assert changed.json()["conversation"]["title"] == "Renamed"
        assert "another process keeps it locked" in client.get("/web/session").json()["problem"]
        document = client.get(f"{path}/export").json()
        document["conversations"][0]["id"] = "elsewhere"
        failed = error_of(client.post("/web/import", json=document), 500)
        assert "another process keeps it locked" in failed["message"]
        other.execute("ROLLBACK")
    assert client.post("/web/import", json=document).json()["imported"] == 1
    answered(client, "Hi")
    assert client.get("/web/session").json()["problem"] is None


def test_all_are_deleted_at_once_but_those_of_others_and_temporary_ones(
    make_server: Callable[..., Server],
) -> None:
    server = make_server(WebSettings(undo_seconds=0.01), api_keys=KEYS)
    ann, bob = (
        httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}) for key in KEYS.values()
    )
    with ann, bob:
        pinned = answered(ann, "One")["conversation"]["id"]
        ann.patch(f"/web/conversations/{pinned}", json={"pinned": True})
        answered(ann, "Two")
        kept = ask(ann, "Three", temporary=True)["conversation"]["id"]
        answered(bob, "Mine")
        server.backend.hold_after = 1
        ask(ann, "Four")
        assert ann.get("/web/conversations/count").json() == {"conversations": 3, "pinned": 1}
        assert ann.delete("/web/conversations").json() == {"deleted": 3}
        assert server.backend.running == set()
        assert ann.get("/web/conversations/count").json() == {"conversations": 0, "pinned": 0}
        assert ann.get("/web/conversations").json() == {"pinned": [], "conversations": [], "more": False}
        assert ann.get(f"/web/conversations/{kept}").status_code == 200
        assert len(bob.get("/web/conversations").json()["conversations"]) == 1
        assert ann.delete("/web/conversations").json() == {"deleted": 0}
        path = f"/web/conversations/{pinned}/restore"
        while ann.post(path).status_code == 200:  # they can be brought back no longer than others
            ann.delete("/web/conversations")
            time.sleep(0.02)
