"""Temporary conversations answer like others, and leave no trace anywhere."""

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from scripted import ScriptedBackend
from served import Server
from sites import ME, opened, told, until

from ridgeline.protocol import Refusal
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.web.rules import NotFoundError
from ridgeline.web.settings import WebSettings
from ridgeline.web.site import Site
from ridgeline.web.temporary import TemporaryConversations, is_temporary, new_temporary_id

SECRET = "a secret of mine"
REPLY = "nobody will know"


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend(REPLY)


@pytest.fixture
async def site(tmp_path: Path, backend: ScriptedBackend) -> AsyncIterator[Site]:
    async with opened(tmp_path / "c.db", backend) as site:
        yield site


async def begun(site: Site, content: str = SECRET, tenant: str = ME) -> Conversation:
    conversation, _, job = await site.answers.ask(tenant, None, content, None, temporary=True)
    await told(job)
    return conversation


def traces(folder: Path, text: str) -> list[str]:
    """Files of the database (and its log) that have the text in them."""
    files = list(folder.glob("c.db*"))
    assert files
    return [file.name for file in files if text.encode() in file.read_bytes()]


def test_neither_the_database_nor_its_log_ever_has_a_word_of_it(
    make_server: Callable[..., Server], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = make_server()
    server.backend.reply = REPLY
    with httpx.Client(base_url=server.url) as client:

        def ask(content: str, **more: object) -> dict:
            asked = client.post("/web/messages", json={"content": content, **more}).json()
            client.get(f"/web/answers/{asked['answer']['id']}/events")
            return asked

        name = ask(SECRET, temporary=True, settings={"system_prompt": "my own rules"})["conversation"]["id"]
        again = ask("more of my secrets", conversation_id=name)
        path = f"/web/conversations/{name}"
        assert client.patch(path, json={"title": "my secret title"}).status_code == 200
        regenerated = client.post(f"/web/answers/{again['answer']['id']}/regenerate").json()
        client.get(f"/web/answers/{regenerated['answer']['id']}/events")
        shown = client.get(path).json()
        assert shown["conversation"]["temporary"] is True
        assert len(shown["messages"]) == 5
        assert shown["messages"][1]["content"] == REPLY
        assert client.get("/web/conversations").json() == {"pinned": [], "conversations": [], "more": False}
        for wanted in ("secret", "nobody", "my"):
            assert client.get("/web/search", params={"q": wanted}).json()["results"] == []
        assert client.get("/web/export").json()["conversations"] == []
        refused = client.get(f"{path}/export")
        assert (refused.status_code, "not exported" in refused.text) == (400, True)
        assert client.patch(path, json={"pinned": True}).status_code == 400
        ask("This one is kept")
        words = (SECRET, REPLY[:6], "more of my secrets", "my own rules", "my secret title", name)
        kept_words = [word for word in words if traces(tmp_path, word)]
        # The one that is kept has the same answer.
        assert kept_words == [REPLY[:6]]
    server.stop()
    assert [word for word in words if traces(tmp_path, word)] == [REPLY[:6]]
    assert SECRET not in caplog.text
    server.start()
    with httpx.Client(base_url=server.url) as client:
        assert client.get(path).status_code == 404


async def test_its_answer_can_be_stopped_and_continued(site: Site, backend: ScriptedBackend) -> None:
    backend.hold_after = 2
    conversation, _, job = await site.answers.ask(ME, None, "Hi", None, temporary=True)
    await until(lambda: job.row.content.count(" ") == 2)
    await site.answers.stop(ME, job.message_id)
    backend.hold_after = None
    await told(await site.answers.go_on(ME, job.message_id))
    rows = await site.conversations.messages(conversation.id)
    assert [row.content for row in rows] == ["Hi", f"nobody will {REPLY}"]


async def test_deleting_is_for_good_and_at_once(site: Site, backend: ScriptedBackend) -> None:
    backend.hold_after = 1
    conversation, _, job = await site.answers.ask(ME, None, "Hi", None, temporary=True)
    await site.answers.stop_conversation(conversation.id)
    await site.conversations.delete(conversation)
    assert backend.running == set()
    assert await site.conversations.get(ME, conversation.id) is None
    assert await site.conversations.of_message(ME, job.message_id) is None
    assert not await site.conversations.restore(ME, conversation.id)


async def test_an_answer_that_outlives_its_conversation_is_not_written(
    site: Site, backend: ScriptedBackend, tmp_path: Path
) -> None:
    backend.hold_after = 1
    conversation, _, job = await site.answers.ask(ME, None, SECRET, None, temporary=True)
    await until(lambda: job.row.content != "")
    site.temporary.drop(conversation.id)
    backend.hold_after = None
    await told(job)
    assert await site.conversations.messages(conversation.id) == []
    assert site.conversations.problem is None
    assert site.conversations._unsaved_rows == {}
    assert traces(tmp_path, REPLY) == []


async def test_what_belongs_to_others_is_not_there(site: Site) -> None:
    conversation = await begun(site, tenant="ann")
    answer = (await site.conversations.messages(conversation.id))[1]
    assert await site.conversations.get("bob", conversation.id) is None
    assert await site.conversations.of_message("bob", answer.id) is None
    for attempt in (
        site.answers.ask("bob", conversation.id, "Hello", None),
        site.answers.regenerate("bob", answer.id),
        site.answers.go_on("bob", answer.id),
    ):
        with pytest.raises(NotFoundError):
            await attempt


async def test_too_many_drop_the_one_unused_for_longest(tmp_path: Path, backend: ScriptedBackend) -> None:
    async with opened(tmp_path / "c.db", backend, max_temporary=3) as site:
        others = await begun(site, tenant="bob")
        names = [(await begun(site)).id for _ in range(3)]
        assert await site.conversations.get(ME, names[0]) is not None  # used again
        newest = await begun(site)
        alive = [await site.conversations.get(ME, name) is not None for name in [*names, newest.id]]
        assert alive == [True, False, True, True]
        assert await site.conversations.get("bob", others.id) is not None


async def test_none_goes_while_it_is_being_answered_in(tmp_path: Path, backend: ScriptedBackend) -> None:
    async with opened(tmp_path / "c.db", backend, max_temporary=2) as site:
        backend.hold_after = 1
        for _ in range(2):
            await site.answers.ask(ME, None, "Hi", None, temporary=True)
        with pytest.raises(Refusal, match=r"2 temporary conversations .*max-temporary"):
            await site.answers.ask(ME, None, "Hi", None, temporary=True)


async def test_one_may_not_grow_for_ever(tmp_path: Path, backend: ScriptedBackend) -> None:
    async with opened(tmp_path / "c.db", backend, max_temporary_characters=40) as site:
        conversation = await begun(site, "x" * 20)
        with pytest.raises(Refusal, match=r"40 characters \(--site max-temporary-characters\)"):
            await site.answers.ask(ME, conversation.id, "y" * 10, None)


async def test_those_unused_for_too_long_are_gone() -> None:
    now = 0.0
    held = TemporaryConversations(WebSettings(temporary_seconds=60), clock=lambda: now)
    busy = {"temporary-b"}
    held.is_busy = lambda name: name in busy
    for name in ("temporary-a", "temporary-b", "temporary-c"):
        held.put(Conversation(name, ME, "Title", "tiny", 1, 1))
        held.put_rows([StoredMessage(f"m-{name}", name, None, 0, "user", "Hi", "complete", 1)])
    now = 30.0
    assert held.get(ME, "temporary-c") is not None
    now = 60.0
    assert held.of_message(ME, "m-temporary-a") is None
    assert [held.get(ME, f"temporary-{name}") is not None for name in "abc"] == [False, True, True]
    busy.clear()
    now = 120.0
    assert held.messages("temporary-b") != [], "gone only when looked at"
    held.expire()
    assert held.messages("temporary-b") == []
    held.clear()


async def test_a_timer_forgets_them_though_nobody_asks() -> None:
    held = TemporaryConversations(WebSettings(temporary_seconds=0.02))
    held.put(Conversation("temporary-a", ME, "Title", "tiny", 1, 1))
    await until(lambda: held._held == {})


def test_ids_tell_what_they_are_and_fit_the_database() -> None:
    name = new_temporary_id()
    assert is_temporary(name) and len(name) == 32
    assert not is_temporary("0" * 32)
