"""A conversation is a tree: editing, making anew, choosing a branch, going on at its end."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import ScriptedBackend
from sites import ME, opened, stored, told, until

from ridgeline.protocol import ModelInfo, Refusal
from ridgeline.store.errors import StoreError
from ridgeline.store.records import ChatSettings, StoredMessage
from ridgeline.web.rules import NotFoundError
from ridgeline.web.site import Site


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend("one two three")


@pytest.fixture
async def site(tmp_path: Path, backend: ScriptedBackend) -> AsyncIterator[Site]:
    async with opened(tmp_path / "c.db", backend) as site:
        yield site


def asked(backend: ScriptedBackend) -> list[str]:
    return [message.content for message in backend.requests[-1].messages or ()]


async def turn(site: Site, content: str, conversation_id: str | None = None, **place: object):  # type: ignore[no-untyped-def]
    conversation, question, job = await site.answers.ask(ME, conversation_id, content, None, **place)  # type: ignore[arg-type]
    await told(job)
    return conversation, question, job.row


async def leaf(site: Site, conversation_id: str) -> str | None:
    return (await site.conversations.get(ME, conversation_id)).leaf_id  # type: ignore[union-attr]


async def test_an_edit_of_a_later_message_stands_beside_it(site: Site, backend: ScriptedBackend) -> None:
    conversation, _, first = await turn(site, "First")
    _, second, _ = await turn(site, "Second", conversation.id)
    _, edited, answer = await turn(site, "Second, edited", conversation.id, parent_id=second.parent_id)
    assert (edited.parent_id, edited.position) == (first.id, 2)
    assert asked(backend) == ["First", "one two three", "Second, edited"]
    assert await leaf(site, conversation.id) == answer.id
    assert len(await stored(site, conversation.id)) == 6
    await turn(site, "Third", conversation.id)
    assert asked(backend)[2:] == ["Second, edited", "one two three", "Third"]


async def test_an_edit_of_the_first_message_begins_again(site: Site, backend: ScriptedBackend) -> None:
    conversation, _, _ = await turn(site, "First")
    _, question, _ = await turn(site, "Another first", conversation.id, parent_id=None)
    assert (question.parent_id, question.position) == (None, 0)
    assert asked(backend) == ["Another first"]
    rows = await stored(site, conversation.id)
    assert [row.content for row in rows if row.position == 0] == ["First", "Another first"]


async def test_regenerating_adds_a_sibling_and_shows_it(site: Site, backend: ScriptedBackend) -> None:
    conversation, question, first = await turn(site, "First")
    await turn(site, "Second", conversation.id)
    backend.reply = "something else"
    changed, job = await site.answers.regenerate(ME, first.id)
    await told(job)
    assert asked(backend) == ["First"]
    assert (job.row.parent_id, job.row.position, job.row.content) == (question.id, 1, "something else")
    assert changed.leaf_id == await leaf(site, conversation.id) == job.message_id
    assert [row.content for row in await stored(site, conversation.id)][1:3] == [
        "one two three",
        "something else",
    ]


async def test_regenerating_with_another_model(site: Site, backend: ScriptedBackend) -> None:
    backend.infos.append(ModelInfo("large", 1, 2000, 100, 1000))
    conversation, _, answer = await turn(site, "First")
    changed, job = await site.answers.regenerate(ME, answer.id, "large")
    await told(job)
    assert (job.row.model, changed.model) == ("large", "large")
    await turn(site, "Second", conversation.id)
    assert backend.requests[-1].model == "large"


async def test_only_finished_answers_are_made_anew(site: Site, backend: ScriptedBackend) -> None:
    _, question, answer = await turn(site, "First")
    with pytest.raises(Refusal, match="Only the answer"):
        await site.answers.regenerate(ME, question.id)
    with pytest.raises(NotFoundError):
        await site.answers.regenerate("bob", answer.id)
    backend.hold_after = 1
    _, job = await site.answers.regenerate(ME, answer.id)
    with pytest.raises(Refusal, match="is being written"):
        await site.answers.regenerate(ME, job.message_id)
    with pytest.raises(Refusal, match="being written in this conversation"):
        await site.answers.regenerate(ME, answer.id)
    await site.answers.stop(ME, job.message_id)
    backend.hold_after = None
    _, job = await site.answers.regenerate(ME, job.message_id)
    assert (await told(job))[-1].data["message"]["status"] == "complete"  # type: ignore[index]


async def test_every_answer_without_followers_can_go_on(site: Site, backend: ScriptedBackend) -> None:
    backend.hold_after = 1
    conversation, _, job = await site.answers.ask(ME, None, "First", None)
    await until(lambda: job.row.content != "")
    await site.answers.stop(ME, job.message_id)
    backend.hold_after = None
    _, other = await site.answers.regenerate(ME, job.message_id)
    await told(other)
    assert await leaf(site, conversation.id) == other.message_id
    backend.reply = "and more"
    await told(await site.answers.go_on(ME, job.message_id))
    rows = {row.id: row for row in await stored(site, conversation.id)}
    assert rows[job.message_id].content == "one and more"
    assert await leaf(site, conversation.id) == job.message_id, "what goes on is shown"


async def test_an_answer_that_has_followers_does_not_go_on(site: Site, backend: ScriptedBackend) -> None:
    backend.script = [Refusal("at_capacity", "Full.")]
    conversation, _, job = await site.answers.ask(ME, None, "First", None)
    await told(job)
    await turn(site, "Second", conversation.id)
    with pytest.raises(Refusal, match="Only the last answer"):
        await site.answers.go_on(ME, job.message_id)


async def test_places_that_are_not_there(site: Site) -> None:
    conversation, _, _ = await turn(site, "First")
    _, other, _ = await turn(site, "Elsewhere")
    for parent_id in ("nope", other.id):
        with pytest.raises(NotFoundError) as missing:
            await site.answers.ask(ME, conversation.id, "Hi", None, parent_id=parent_id)
        assert missing.value.param == "parent_id"


async def test_a_conversation_without_a_known_leaf_shows_its_newest(
    site: Site, backend: ScriptedBackend
) -> None:
    conversation, _, _ = await turn(site, "First")
    for leaf_id in (None, "gone"):
        await site.conversations.change(
            ME, conversation.id, lambda found, leaf_id=leaf_id: replace(found, leaf_id=leaf_id)
        )
        await turn(site, "Next", conversation.id)
        assert asked(backend)[0] == "First"


async def test_two_tabs_get_one_answer_at_a_time(site: Site, backend: ScriptedBackend) -> None:
    conversation, _, _ = await turn(site, "First")
    backend.hold_after = 1
    results = await asyncio.gather(
        *(site.answers.ask(ME, conversation.id, f"Tab {n}", None, parent_id=None) for n in range(3)),
        site.answers.regenerate(ME, (await stored(site, conversation.id))[1].id),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, Refusal)]
    assert [refusal.code for refusal in refused] == ["rate_limited"] * 3
    assert len(backend.running) == 1
    rows = await stored(site, conversation.id)
    assert len(rows) in (3, 4), "what was refused left nothing behind"


async def test_changes_at_once_do_not_undo_each_other(site: Site) -> None:
    conversation, _, _ = await turn(site, "First")

    def renamed(found):  # type: ignore[no-untyped-def]
        return replace(found, title="Renamed")

    await asyncio.gather(
        turn(site, "Second", conversation.id), site.conversations.change(ME, conversation.id, renamed)
    )
    now = await site.conversations.get(ME, conversation.id)
    assert now is not None and now.title == "Renamed" and now.leaf_id is not None


async def test_a_conversation_deleted_while_it_is_asked_stays_deleted(
    site: Site, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation, _, _ = await turn(site, "First")
    backend.hold_after = 1
    tokenize = backend.tokenize

    async def slow(*args, **options):  # type: ignore[no-untyped-def]
        monkeypatch.setattr(backend, "tokenize", tokenize)
        await site.conversations.delete(conversation)
        return await tokenize(*args, **options)

    monkeypatch.setattr(backend, "tokenize", slow)
    with pytest.raises(NotFoundError):
        await site.answers.ask(ME, conversation.id, "Second", None)
    assert not site.answers.is_busy(conversation.id)
    assert backend.running == set()
    assert await site.conversations.get(ME, conversation.id) is None
    assert await site.conversations.restore(ME, conversation.id)
    assert len(await stored(site, conversation.id)) == 2


async def test_a_conversation_may_not_grow_for_ever(tmp_path: Path, backend: ScriptedBackend) -> None:
    limits = {"max_conversation_messages": 5, "max_conversation_characters": 40}
    async with opened(tmp_path / "limits.db", backend, **limits) as site:
        conversation, _, answer = await turn(site, "First")
        with pytest.raises(
            Refusal, match=r"40 characters \(--site max-conversation-characters\).*would have 48"
        ):
            await site.answers.ask(ME, conversation.id, "x" * 30, None)
        _, _, answer = await turn(site, "x", conversation.id)
        with pytest.raises(Refusal, match=r"5 messages \(--site max-conversation-messages\).* has 4"):
            await site.answers.ask(ME, conversation.id, "y", None)
        _, job = await site.answers.regenerate(ME, answer.id)
        await told(job)
        with pytest.raises(Refusal, match="max-conversation-messages") as full:
            await site.answers.regenerate(ME, answer.id)
        assert full.value.status == 409


async def test_settings_reach_the_model_and_the_system_prompt_comes_first(
    site: Site, backend: ScriptedBackend
) -> None:
    settings = ChatSettings("Be brief.", temperature=1.5, top_p=0.25, max_tokens=2)
    conversation, _, job = await site.answers.ask(ME, None, "Go", None, settings=settings)
    await told(job)
    request = backend.requests[0]
    assert [(m.role, m.content) for m in request.messages or ()] == [("system", "Be brief."), ("user", "Go")]
    assert (request.sampling.temperature, request.sampling.top_p) == (1.5, 0.25)
    assert request.stopping.max_tokens == 2
    assert (job.row.content, job.row.finish) == ("one two ", "length")
    backend.reply = "and more"
    await told(await site.answers.go_on(ME, job.message_id))
    assert [m.role for m in backend.requests[1].messages or ()] == ["system", "user", "assistant"]
    assert conversation.settings == settings


async def test_temperature_zero_is_a_choice_and_not_the_default(site: Site, backend: ScriptedBackend) -> None:
    _, _, job = await site.answers.ask(ME, None, "Go", None, settings=ChatSettings(temperature=0.0))
    await told(job)
    assert backend.requests[0].sampling.temperature == 0.0
    assert backend.requests[0].sampling.top_p == site.settings.sampling.top_p


async def test_the_oldest_turns_leave_the_window_and_the_system_prompt_does_not(
    site: Site, backend: ScriptedBackend
) -> None:
    settings = ChatSettings("rule " * 400)
    conversation, _, job = await site.answers.ask(ME, None, "word " * 300, None, settings=settings)
    await told(job)
    for _ in range(3):
        _, _, row = await turn(site, "word " * 300, conversation.id)
    assert row.context_from > 0
    contents = asked(backend)
    assert contents[0] == "rule " * 400
    assert len(contents) < 8
    edited_beginning = await turn(site, "Short", conversation.id, parent_id=None)
    assert edited_beginning[2].context_from == 0, "the window is that of the branch"


async def test_a_full_disk_stops_no_edit(
    site: Site, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation, _, answer = await turn(site, "First")
    store = site.conversations._store
    save = store.save

    async def full(*_: object) -> None:
        raise StoreError("Conversations cannot be saved in c.db: the disk is full; free some space.")

    monkeypatch.setattr(store, "save", full)
    _, job = await site.answers.regenerate(ME, answer.id)
    await told(job)
    await turn(site, "Edited", conversation.id, parent_id=None)
    await site.conversations.change(ME, conversation.id, lambda found: replace(found, pinned=True))
    assert "disk is full" in (site.conversations.problem or "")
    assert [row.id for row in await site.conversations.newest(ME, limit=5, pinned=True)] == [conversation.id]
    assert await site.conversations.newest(ME, limit=5) == []
    assert len(await site.conversations.messages(conversation.id)) == 5
    await site.conversations.delete(conversation)
    assert await site.conversations.get(ME, conversation.id) is None
    assert await site.conversations.newest(ME, limit=5, pinned=True) == []
    assert not await site.conversations.restore("bob", conversation.id)
    monkeypatch.setattr(store, "save", save)
    assert await site.conversations.restore(ME, conversation.id)
    assert len(await stored(site, conversation.id)) == 5
    assert site.conversations.problem is None


async def test_what_contradicts_the_database_takes_nothing_else_with_it(site: Site) -> None:
    """Rows of two conversations are written together; only those at fault are dropped."""
    orphan = StoredMessage("m1", "nowhere", None, 0, "user", "Hello", "complete", 1)
    site.conversations._note([orphan])
    conversation, _, _ = await turn(site, "First")
    assert len(await stored(site, conversation.id)) == 2
    assert site.conversations._unsaved_rows == {}
