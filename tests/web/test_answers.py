"""Answers as jobs: they go on alone, can be resumed, stopped, continued, and are never lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scripted import ScriptedBackend

from ridgeline.protocol import Refusal
from ridgeline.store.errors import StoreError
from ridgeline.store.records import StoredMessage
from ridgeline.store.store import Store
from ridgeline.web.context import newest_path
from ridgeline.web.job import Event, Job
from ridgeline.web.rules import NotFoundError
from ridgeline.web.settings import WebSettings
from ridgeline.web.site import Site

ME = "local"
MakeSite = Callable[..., Awaitable[Site]]


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend("one two three four")


@pytest.fixture
async def make_site(tmp_path: Path, backend: ScriptedBackend) -> AsyncIterator[MakeSite]:
    sites: list[Site] = []

    async def make(**changes: object) -> Site:
        settings = replace(WebSettings(save_interval_seconds=0.01), **changes)  # type: ignore[arg-type]
        site = Site(backend, Store(tmp_path / "c.db"), settings)
        await site.open()
        sites.append(site)
        return site

    yield make
    for site in sites:
        await site.close()


@pytest.fixture
async def site(make_site: MakeSite) -> Site:
    return await make_site()


async def told(job: Job, last_event_id: str | None = None) -> list[Event]:
    return [event async for event in job.listen(last_event_id) if event is not None]


async def until(holds: Callable[[], bool]) -> None:
    while True:
        if holds():
            return
        await asyncio.sleep(0.002)


async def held(job: Job, words: int) -> None:
    await until(lambda: job.row.content.count(" ") >= words)


async def until_stored(site: Site, conversation_id: str, content: str) -> None:
    while True:
        if (await stored(site, conversation_id))[1].content == content:
            return
        await asyncio.sleep(0.005)


async def rows(site: Site, conversation_id: str) -> list[StoredMessage]:
    return newest_path(await site.conversations.messages(conversation_id))


async def stored(site: Site, conversation_id: str) -> list[StoredMessage]:
    return await site.conversations._store.messages(conversation_id)


async def test_an_answer_is_told_and_kept_with_its_numbers(site: Site, backend: ScriptedBackend) -> None:
    conversation, question, job = await site.answers.ask(ME, None, "How many?", None)
    events = await told(job)
    assert (events[0].kind, events[-1].kind) == ("snapshot", "end")
    text = events[0].data["message"]["content"] + "".join(  # type: ignore[index]
        str(event.data["text"]) for event in events if event.kind == "text"
    )
    assert text == "one two three four"
    saved = await stored(site, conversation.id)
    assert [(row.role, row.content, row.status) for row in saved] == [
        ("user", "How many?", "complete"),
        ("assistant", "one two three four", "complete"),
    ]
    answer = saved[1]
    assert (answer.parent_id, answer.model, answer.finish) == (question.id, "tiny", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (2, 4, 1)
    assert answer.finished_ms is not None and answer.ttft_ms is not None
    assert backend.requests[0].tenant == ME


async def test_what_no_database_takes_is_replaced(site: Site, backend: ScriptedBackend) -> None:
    backend.script = ["half a pair \ud800 and a nul \0 here"]
    _, _, job = await site.answers.ask(ME, None, "?", None)
    assert (await told(job))[-1].kind == "end"
    assert job.row.status == "complete"
    assert job.row.content == "half a pair ? and a nul \N{REPLACEMENT CHARACTER} here"


async def test_the_next_turn_carries_the_history(site: Site, backend: ScriptedBackend) -> None:
    conversation, _, job = await site.answers.ask(ME, None, "First", None)
    await told(job)
    _, _, job = await site.answers.ask(ME, conversation.id, "Second", None)
    await told(job)
    assert [(m.role, m.content) for m in backend.requests[1].messages or ()] == [
        ("user", "First"),
        ("assistant", "one two three four"),
        ("user", "Second"),
    ]
    assert [row.position for row in await rows(site, conversation.id)] == [0, 1, 2, 3]


async def test_a_listener_goes_on_where_it_was_and_a_stranger_gets_everything(
    site: Site, backend: ScriptedBackend
) -> None:
    backend.hold_after = 2
    _, _, job = await site.answers.ask(ME, None, "Go", None)
    await held(job, 2)
    first = job.listen(None)
    snapshot = await anext(first)
    assert snapshot is not None and snapshot.data["message"]["content"] == "one two "  # type: ignore[index]
    await first.aclose()  # type: ignore[attr-defined]
    backend.hold_after = None
    events = await told(job, snapshot.id)
    assert "snapshot" not in [event.kind for event in events]
    assert "".join(str(event.data.get("text", "")) for event in events) == "three four"
    for foreign in ("nonsense", "web-1:0", f"{job.request.id}:99", f"{job.request.id}:x"):
        assert (await told(job, foreign))[0].kind == "snapshot"
    assert [event.kind for event in await told(job, events[-1].id)] == ["end"]


async def test_two_listeners_hear_the_same(site: Site, backend: ScriptedBackend) -> None:
    backend.hold_after = 1
    _, _, job = await site.answers.ask(ME, None, "Go", None)
    both = asyncio.gather(told(job), told(job))
    await held(job, 1)
    backend.hold_after = None
    first, second = await both
    assert first[-1] == second[-1]
    assert first[-1].data["message"]["content"] == "one two three four"  # type: ignore[index]


@pytest.mark.parametrize("deaf", [False, True], ids=["cancels", "must be closed"])
async def test_stop_keeps_the_text_and_frees_the_blocks(
    site: Site, backend: ScriptedBackend, deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ridgeline.web.job._CANCEL_GRACE_SECONDS", 0.05)
    backend.hold_after, backend.deaf = 2, deaf
    conversation, _, job = await site.answers.ask(ME, None, "Go", None)
    await held(job, 2)
    answer = await site.answers.stop(ME, job.message_id)
    assert backend.running == set()
    assert (answer["status"], answer["content"]) == ("stopped", "one two ")
    saved = (await stored(site, conversation.id))[1]
    assert (saved.status, saved.content, saved.completion_tokens) == ("stopped", "one two ", 2)
    assert (await told(job))[-1].data["message"]["status"] == "stopped"  # type: ignore[index]


async def test_an_answer_nobody_hears_is_ended(make_site: MakeSite, backend: ScriptedBackend) -> None:
    site = await make_site(unheard_seconds=0.2)
    backend.hold_after = 2
    _, _, job = await site.answers.ask(ME, None, "Go", None)
    listening = asyncio.create_task(told(job))
    await held(job, 2)
    await asyncio.sleep(0.4)
    assert job.running, "somebody listened"
    listening.cancel()
    await until(lambda: not job.running)
    assert backend.running == set()
    assert (job.row.status, job.row.error_code, job.row.content) == ("interrupted", "unheard", "one two ")


async def test_text_reaches_the_database_while_it_grows(site: Site, backend: ScriptedBackend) -> None:
    backend.hold_after = 3
    conversation, _, job = await site.answers.ask(ME, None, "Go", None)
    await held(job, 3)
    await until_stored(site, conversation.id, "one two three ")
    assert (await stored(site, conversation.id))[1].status == "streaming"


async def test_a_stopping_server_keeps_what_is_there_and_the_next_one_continues(
    make_site: MakeSite, backend: ScriptedBackend
) -> None:
    site = await make_site()
    backend.hold_after = 2
    conversation, _, job = await site.answers.ask(ME, None, "Go", None)
    await held(job, 2)
    await site.close()
    assert backend.running == set()
    backend.hold_after = None
    site = await make_site()
    answer = (await rows(site, conversation.id))[1]
    assert (answer.status, answer.error_code, answer.content) == ("interrupted", "server_stopped", "one two ")
    backend.reply = "and so on"
    job = await site.answers.go_on(ME, answer.id)
    await told(job)
    request = backend.requests[-1]
    assert request.continue_final_message
    assert [m.content for m in request.messages or ()] == ["Go", "one two "]
    answer = (await stored(site, conversation.id))[1]
    assert (answer.status, answer.content, answer.error_code) == ("complete", "one two and so on", None)
    assert (answer.prompt_tokens, answer.completion_tokens) == (1, 5)


async def test_a_server_that_was_killed_leaves_an_interrupted_answer(
    make_site: MakeSite, backend: ScriptedBackend, tmp_path: Path
) -> None:
    site = await make_site()
    backend.hold_after = 2
    conversation, _, job = await site.answers.ask(ME, None, "Go", None)
    await held(job, 2)
    await until_stored(site, conversation.id, "one two ")
    after = await make_site()
    answer = (await rows(after, conversation.id))[1]
    assert (answer.status, answer.error_code, answer.content) == ("interrupted", "server_stopped", "one two ")


async def test_a_refusal_is_told_with_its_wait_and_can_be_tried_again(
    site: Site, backend: ScriptedBackend
) -> None:
    backend.script = [Refusal("at_capacity", "All full.", retry_after_seconds=7.5)]
    conversation, _, job = await site.answers.ask(ME, None, "Go", None)
    message = (await told(job))[-1].data["message"]
    assert message["status"] == "failed"  # type: ignore[index]
    assert message["error"] == {"code": "at_capacity", "message": "All full.", "retry_after_seconds": 7.5}  # type: ignore[index]
    await told(await site.answers.go_on(ME, job.message_id))
    assert not backend.requests[-1].continue_final_message
    assert [row.content for row in await stored(site, conversation.id)] == ["Go", "one two three four"]


async def test_a_failure_keeps_the_text_and_tells_no_secrets(
    site: Site, backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.script = [RuntimeError("it quoted: my secret question")]
    _, _, job = await site.answers.ask(ME, None, "my secret question", None)
    await told(job)
    assert (job.row.status, job.row.error_code, job.row.content) == ("failed", "internal_error", "Well, ")
    assert job.request.id in (job.row.error_message or "")
    assert "secret" not in caplog.text and "RuntimeError" in caplog.text


async def test_a_backend_that_cancels_by_itself_interrupts(site: Site, backend: ScriptedBackend) -> None:
    backend.hold_after = 1
    _, _, job = await site.answers.ask(ME, None, "Go", None)
    await held(job, 1)
    backend.cancel(job.request.id)
    await told(job)
    assert (job.row.status, job.row.error_code) == ("interrupted", "server_stopped")


async def test_an_answer_cut_at_the_limit_can_go_on(make_site: MakeSite, backend: ScriptedBackend) -> None:
    site = await make_site(max_answer_tokens=2)
    _, _, job = await site.answers.ask(ME, None, "Go", None)
    await told(job)
    assert (job.row.status, job.row.finish, job.row.content) == ("complete", "length", "one two ")
    backend.reply = "three"
    job = await site.answers.go_on(ME, job.message_id)
    await told(job)
    assert (job.row.content, job.row.finish, job.row.completion_tokens) == ("one two three", "stop", 3)
    with pytest.raises(Refusal, match="not whole"):
        await site.answers.go_on(ME, job.message_id)


async def test_limits_name_themselves(make_site: MakeSite, backend: ScriptedBackend) -> None:
    site = await make_site(max_running_answers=2, max_message_characters=10, max_conversations=3)
    with pytest.raises(
        Refusal, match=r"may have 10 characters \(--site max-message-characters\).* has 11"
    ) as too_long:
        await site.answers.ask(ME, None, "x" * 11, None)
    assert too_long.value.status == 413
    backend.hold_after = 0
    first, _, job = await site.answers.ask(ME, None, "Go", None)
    with pytest.raises(Refusal, match="being written in this conversation"):
        await site.answers.ask(ME, first.id, "Again", None)
    await site.answers.ask(ME, None, "Go", None)
    with pytest.raises(Refusal, match="--site max-running-answers") as busy:
        await site.answers.ask(ME, None, "Go", None)
    assert busy.value.status == 429
    await site.answers.ask("somebody else", None, "Go", None)
    await site.answers.stop(ME, job.message_id)
    await site.answers.ask(ME, None, "Go", None)
    with pytest.raises(Refusal, match=r"There are 3 conversations.*--site max-conversations") as full:
        await site.answers.ask(ME, None, "Go", None)
    assert full.value.status == 409
    assert len(await site.conversations.newest(ME, limit=10)) == 3


async def test_an_answer_may_be_as_long_as_the_context_leaves(site: Site, backend: ScriptedBackend) -> None:
    """The context is 2000 tokens, less than an answer may have elsewhere."""
    conversation, _, job = await site.answers.ask(ME, None, "word " * 1300, None)
    await told(job)
    assert job.row.status == "complete"
    assert backend.requests[-1].stopping.max_tokens == 700
    _, _, job = await site.answers.ask(ME, conversation.id, "word " * 100, None)
    await told(job)
    assert backend.requests[-1].stopping.max_tokens == 2000 - 1300 - 4 - 100


async def test_an_answer_may_not_be_endless(make_site: MakeSite, backend: ScriptedBackend) -> None:
    site = await make_site(max_answer_tokens=3)
    _, _, job = await site.answers.ask(ME, None, "Go", None)
    await told(job)
    assert (job.row.content, job.row.finish) == ("one two three ", "length")


async def test_a_refused_message_leaves_nothing_behind(site: Site, backend: ScriptedBackend) -> None:
    with pytest.raises(Refusal) as refused:
        await site.answers.ask(ME, None, "word " * 3000, None)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(Refusal, match="no model 'large'"):
        await site.answers.ask(ME, None, "Go", "large")
    assert await site.conversations.newest(ME, limit=10) == []
    assert backend.requests == []


async def test_what_belongs_to_others_is_not_there(site: Site, backend: ScriptedBackend) -> None:
    backend.hold_after = 1
    conversation, _, job = await site.answers.ask("ann", None, "Go", None)
    assert site.answers.job("bob", job.message_id) is None
    for attempt in (
        site.answers.stop("bob", job.message_id),
        site.answers.go_on("bob", job.message_id),
        site.answers.ask("bob", conversation.id, "Hello", None),
    ):
        with pytest.raises(NotFoundError):
            await attempt
    assert job.running


async def test_a_full_disk_stops_no_answer_and_what_was_kept_is_written_later(
    site: Site, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = site.conversations._store
    save = store.save

    async def full(*_: object) -> None:
        raise StoreError("Conversations cannot be saved in c.db: the disk is full; free some space.")

    monkeypatch.setattr(store, "save", full)
    conversation, _, job = await site.answers.ask(ME, None, "First", None)
    end = (await told(job))[-1]
    assert end.data["message"]["content"] == "one two three four"  # type: ignore[index]
    assert "the disk is full" in str(end.data["problem"])
    _, _, job = await site.answers.ask(ME, conversation.id, "Second", None)
    await told(job)
    assert [m.content for m in backend.requests[-1].messages or ()] == [
        "First",
        "one two three four",
        "Second",
    ]
    assert [row.id for row in await site.conversations.newest(ME, limit=5)] == [conversation.id]
    assert await stored(site, conversation.id) == []
    monkeypatch.setattr(store, "save", save)
    _, _, job = await site.answers.ask(ME, conversation.id, "Third", None)
    assert (await told(job))[-1].data["problem"] is None
    assert [row.position for row in await stored(site, conversation.id)] == [0, 1, 2, 3, 4, 5]


async def test_a_database_that_cannot_be_opened_is_a_problem_and_no_end(
    tmp_path: Path, backend: ScriptedBackend
) -> None:
    (tmp_path / "file").write_text("in the way")
    site = Site(backend, Store(tmp_path / "file" / "c.db"), WebSettings())
    await site.open()
    _, _, job = await site.answers.ask(ME, None, "Go", None)
    end = (await told(job))[-1]
    assert end.data["message"]["status"] == "complete"  # type: ignore[index]
    assert "memory only" in str(end.data["problem"])
    await site.close()


async def test_rows_that_contradict_the_database_do_not_block_others(site: Site) -> None:
    orphan = StoredMessage("m1", "nowhere", None, 0, "user", "Hello", "complete", 1)
    await site.conversations.save(None, [orphan])
    conversation, _, job = await site.answers.ask(ME, None, "Go", None)
    assert (await told(job))[-1].data["problem"] is None
    assert len(await stored(site, conversation.id)) == 2


async def test_no_character_that_a_database_refuses_gets_through(
    site: Site, backend: ScriptedBackend
) -> None:
    backend.reply = "a\0b"
    conversation, _, job = await site.answers.ask(ME, None, "c\0d", None)
    await told(job)
    assert [row.content for row in await stored(site, conversation.id)] == ["c\ufffdd", "a\ufffdb"]


async def test_finished_logs_are_forgotten(make_site: MakeSite) -> None:
    site = await make_site(linger_seconds=0.02)
    _, _, job = await site.answers.ask(ME, None, "Go", None)
    await told(job)
    await until(lambda: site.answers.job(ME, job.message_id) is None)


async def test_a_silent_stream_shows_that_it_lives(make_site: MakeSite, backend: ScriptedBackend) -> None:
    site = await make_site(heartbeat_seconds=0.01)
    backend.hold_after = 0
    _, _, job = await site.answers.ask(ME, None, "Go", None)
    stream = job.listen(None)
    assert (await anext(stream)) is not None
    assert (await anext(stream)) is None
    await stream.aclose()  # type: ignore[attr-defined]
