"""Titles made by the model: behind the answer, once, and only where they are good."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import ScriptedBackend
from sites import ME, opened, told, until

from ridgeline.protocol import Refusal
from ridgeline.protocol.request import PRIORITY_BATCH
from ridgeline.store.errors import StoreError
from ridgeline.store.records import Conversation
from ridgeline.web.job import Job
from ridgeline.web.site import Site
from ridgeline.web.titles import clean_title, title_of


@pytest.fixture
def backend() -> ScriptedBackend:
    backend = ScriptedBackend("one two three")
    backend.title = "Counting to three"
    return backend


@pytest.fixture
async def site(tmp_path: Path, backend: ScriptedBackend) -> AsyncIterator[Site]:
    async with opened(tmp_path / "c.db", backend) as site:
        yield site


async def answered(site: Site, content: str = "Count", **options: object) -> tuple[Conversation, Job]:
    conversation, _, job = await site.answers.ask(ME, None, content, None, **options)  # type: ignore[arg-type]
    await told(job)
    return conversation, job


async def titled(site: Site, conversation_id: str) -> tuple[str, str]:
    await site.titles.wait(conversation_id)
    found = await site.conversations.get(ME, conversation_id)
    assert found is not None
    return found.title, found.title_by


async def test_the_first_answer_gets_a_title_that_uses_its_cache(
    site: Site, backend: ScriptedBackend
) -> None:
    conversation, _ = await answered(site)
    assert (conversation.title, conversation.title_by) == ("Count", "first")
    assert await titled(site, conversation.id) == ("Counting to three", "model")
    (request,) = backend.titles
    assert [m.content for m in request.messages or ()][:2] == ["Count", "one two three"]
    assert (request.priority, request.stopping.max_tokens, request.tenant) == (PRIORITY_BATCH, 24, ME)
    stored = await site.conversations._store.conversation(ME, conversation.id)
    assert stored is not None and stored.title == "Counting to three"
    assert stored.updated_ms == conversation.updated_ms, "a title is no use of the conversation"


async def test_the_answer_ends_before_its_title_is_asked_for(site: Site, backend: ScriptedBackend) -> None:
    backend.hold_titles = True
    _, job = await answered(site)
    assert not job.running
    await until(lambda: len(backend.titles) == 1)
    conversation, _, second = await site.answers.ask(ME, job.conversation_id, "More", None)
    assert (await told(second))[-1].data["message"]["status"] == "complete"  # type: ignore[index]
    backend.hold_titles = False
    assert await titled(site, conversation.id) == ("Counting to three", "model")


async def test_later_answers_ask_for_none(site: Site, backend: ScriptedBackend) -> None:
    backend.title = ""
    conversation, job = await answered(site)
    assert await titled(site, conversation.id) == ("Count", "first")
    _, _, second = await site.answers.ask(ME, conversation.id, "More", None)
    await told(second)
    _, third = await site.answers.regenerate(ME, job.message_id)
    await told(third)
    await site.titles.wait(conversation.id)
    assert len(backend.titles) == 1


@pytest.mark.parametrize("ending", ["stopped", "failed"])
async def test_an_answer_that_is_not_complete_gets_none(
    site: Site, backend: ScriptedBackend, ending: str
) -> None:
    backend.script = [RuntimeError("no")] if ending == "failed" else []
    backend.hold_after = 1
    _, _, job = await site.answers.ask(ME, None, "Count", None)
    await until(lambda: job.row.content != "")
    if ending == "stopped":
        await site.answers.stop(ME, job.message_id)
    backend.hold_after = None
    await told(job)
    assert job.row.status == ending
    await site.titles.wait(job.conversation_id)
    assert backend.titles == []


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "  \n ",
        "word " * 30,
        "x" * 81,
        "<think> Hmm",
        Refusal("at_capacity", "Full.", retry_after_seconds=1),
        RuntimeError("it quoted: my secret"),
    ],
)
async def test_bad_titles_leave_the_first_one(
    site: Site, backend: ScriptedBackend, bad: str | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    backend.title = bad
    conversation, _ = await answered(site)
    assert await titled(site, conversation.id) == ("Count", "first")
    assert len(backend.titles) == 1
    assert "secret" not in caplog.text


async def test_a_title_that_takes_too_long_is_given_up(tmp_path: Path, backend: ScriptedBackend) -> None:
    backend.hold_titles = True
    async with opened(tmp_path / "c.db", backend, title_seconds=0.05) as site:
        conversation, _ = await answered(site)
        assert await titled(site, conversation.id) == ("Count", "first")
        assert backend.running == set()


async def test_waiting_for_a_title_has_an_end(tmp_path: Path, backend: ScriptedBackend) -> None:
    backend.hold_titles = True
    async with opened(tmp_path / "c.db", backend, title_wait_seconds=0.05) as site:
        conversation, _ = await answered(site)
        assert await titled(site, conversation.id) == ("Count", "first")
        assert len(backend.running) == 1, "the title itself goes on"


async def test_a_name_given_by_the_user_stays(site: Site, backend: ScriptedBackend) -> None:
    backend.hold_titles = True
    conversation, _ = await answered(site)
    await until(lambda: len(backend.titles) == 1)
    await site.conversations.change(
        ME, conversation.id, lambda found: replace(found, title="Mine", title_by="user")
    )
    backend.hold_titles = False
    assert await titled(site, conversation.id) == ("Mine", "user")


async def test_deleting_cancels_the_title(site: Site, backend: ScriptedBackend) -> None:
    backend.hold_titles = True
    conversation, _ = await answered(site)
    await until(lambda: len(backend.running) == 1)
    await site.answers.stop_conversation(conversation.id)
    assert backend.running == set()
    await site.conversations.delete(conversation)
    assert await site.conversations.restore(ME, conversation.id)
    assert await titled(site, conversation.id) == ("Count", "first")


async def test_a_stopping_server_cancels_titles_and_keeps_the_first(
    tmp_path: Path, backend: ScriptedBackend
) -> None:
    backend.hold_titles = True
    async with opened(tmp_path / "c.db", backend) as site:
        conversation, _ = await answered(site)
        await until(lambda: len(backend.running) == 1)
        await site.close()
        assert backend.running == set()
    async with opened(tmp_path / "c.db", backend) as site:
        assert await titled(site, conversation.id) == ("Count", "first")


async def test_no_title_begins_after_the_end(site: Site, backend: ScriptedBackend) -> None:
    backend.title = ""
    conversation, job = await answered(site)
    await site.titles.wait(conversation.id)
    await site.titles.close()
    site.titles.consider(job)
    await site.titles.wait(conversation.id)
    assert len(backend.titles) == 1


async def test_a_full_disk_keeps_the_title_for_later(
    site: Site, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise StoreError("Conversations cannot be saved in c.db: the disk is full; free some space.")

    with monkeypatch.context() as patch:
        patch.setattr(site.conversations._store, "save", full)
        conversation, _ = await answered(site)
        assert await titled(site, conversation.id) == ("Counting to three", "model")
    await site.conversations.save()
    stored = await site.conversations._store.conversation(ME, conversation.id)
    assert stored is not None and stored.title == "Counting to three"


async def test_temporary_conversations_get_none(site: Site, backend: ScriptedBackend) -> None:
    conversation, _ = await answered(site, temporary=True)
    await site.titles.wait(conversation.id)
    assert backend.titles == []


@pytest.mark.parametrize(
    ("text", "complete", "title"),
    [
        ("Counting", True, "Counting"),
        ('"Counting to three."', True, "Counting to three"),
        ("**Title: Counting**", True, "Counting"),
        ("# Counting", True, "Counting"),
        ("„Zählen bis drei“", True, "Zählen bis drei"),
        ("\n\n Counting \nand more", True, "Counting"),
        ("Counting\nand then it was cut", False, "Counting"),
        ("Counting and then it was c", False, None),
        ("What is C#?", True, "What is C#?"),
        ('Here is a possible title:\n\n"Counting"', True, "Counting"),
        ('**Here is a possible title:**\n\n"Coun', False, None),
        ("Here is a possible title:", True, None),
        ("tab\there\x00\x1b[31m", True, "tab here [31m"),
        ("数を数える", True, "数を数える"),
        ('""', True, None),
        ("", True, None),
        ("x" * 80, True, "x" * 80),
        ("x" * 81, True, None),
        ("<b>bold</b>", True, None),
        ("How the nine of them counted up to three", True, "How the nine of them counted up to three"),
        ("The city, on the river, is the capital of France", True, None),
    ],
)
def test_what_becomes_of_the_models_words(text: str, complete: bool, title: str | None) -> None:
    assert clean_title(text, complete) == title


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("Hello", "Hello"),
        ("  two\n lines ", "two lines"),
        ("word " * 30, "word word word word word word word word word word word word…"),
        ("x" * 80, "x" * 60 + "…"),
        (" \n ", "New chat"),
    ],
)
def test_first_titles(content: str, title: str) -> None:
    assert title_of(content) == title
