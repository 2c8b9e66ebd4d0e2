"""Going on with answers whose server is gone, behind the page: who may, from where, and to which end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from routes_client import answer_of, ask, error_of, events
from scripted import ScriptedBackend
from served import Server
from sites import ME, opened, stored, told, until

from ridgeline.protocol import Refusal
from ridgeline.store.records import StoredMessage
from ridgeline.web.job import Job
from ridgeline.web.resuming import Seen
from ridgeline.web.settings import WebSettings
from ridgeline.web.site import Site

MakeSite = Callable[..., Awaitable[Site]]


@pytest.fixture
async def make_site(tmp_path: Path) -> AsyncIterator[MakeSite]:
    """Sites with a backend of their own, that share a database."""
    async with AsyncExitStack() as stack:

        async def make(reply: str = "one two three four", **changes: Any) -> Site:
            return await stack.enter_async_context(
                opened(tmp_path / "c.db", ScriptedBackend(reply), **changes)
            )

        yield make


def backend(site: Site) -> ScriptedBackend:
    assert isinstance(site.backend, ScriptedBackend)
    return site.backend


async def held(site: Site, words: int = 2) -> tuple[Job, StoredMessage]:
    """An answer that is held in the middle, and as it is stored."""
    backend(site).hold_after = words
    _, _, job = await site.answers.ask(ME, None, "Go", None)
    await until(lambda: job.row.content.count(" ") >= words)
    return job, await saved(site, job)


async def saved(site: Site, job: Job) -> StoredMessage:
    async with asyncio.timeout(5):
        while True:
            row = (await stored(site, job.conversation_id))[1]
            if row.content == job.row.content:
                return row
            await asyncio.sleep(0.002)


async def finished(site: Site, job: Job | StoredMessage) -> StoredMessage:
    assert isinstance(job, Job), job
    await told(job)
    return (await stored(site, job.conversation_id))[1]


async def test_a_running_answer_is_only_joined(make_site: MakeSite) -> None:
    site = await make_site()
    job, row = await held(site)
    assert await site.answers.resume(ME, row.id, Seen(row.run, "one ")) is job
    assert len(backend(site).requests) == 1


async def test_it_goes_on_from_what_the_page_has_to_where_it_would_have_ended(make_site: MakeSite) -> None:
    _, row = await held(await make_site())
    site = await make_site("four five six", max_answer_tokens=5)
    after = await finished(site, await site.answers.resume(ME, row.id, Seen(row.run, "one two three ")))
    request = backend(site).requests[-1]
    assert request.continue_final_message
    assert [message.content for message in request.messages or ()] == ["Go", "one two three "]
    assert request.stopping.max_tokens == 2, "three of five were there"
    assert (after.content, after.finish) == ("one two three four five ", "length")
    assert (after.prompt_tokens, after.completion_tokens) == (1, 5)


async def test_one_that_was_continued_at_its_limit_keeps_what_it_was_given(make_site: MakeSite) -> None:
    site = await make_site(max_answer_tokens=3)
    _, _, job = await site.answers.ask(ME, None, "Go", None)
    await told(job)
    assert job.row.finish == "length"
    backend(site).hold_after, backend(site).reply = 1, "four five six seven"
    going_on = await site.answers.go_on(ME, job.message_id)
    await until(lambda: going_on.row.content == "one two three four ")
    row = await saved(site, going_on)
    other = await make_site("five six seven", max_answer_tokens=3)
    after = await finished(other, await other.answers.resume(ME, row.id, Seen(row.run, row.content)))
    assert (after.content, after.finish) == ("one two three four five six ", "length")


@pytest.mark.parametrize("text", ["", "one ", "something else", "one two, otherwise"])
async def test_a_page_that_knows_less_or_otherwise_gets_what_was_saved(
    make_site: MakeSite, text: str
) -> None:
    _, row = await held(await make_site())
    site = await make_site("and so on")
    after = await finished(site, await site.answers.resume(ME, row.id, Seen(row.run, text)))
    assert after.content == "one two and so on"


async def test_one_that_had_not_begun_is_made_anew(make_site: MakeSite) -> None:
    _, row = await held(await make_site(), words=0)
    site = await make_site()
    after = await finished(site, await site.answers.resume(ME, row.id, Seen(row.run, "")))
    assert not backend(site).requests[-1].continue_final_message
    assert after.content == "one two three four"


async def test_of_several_pages_one_goes_on_and_the_others_follow(make_site: MakeSite) -> None:
    _, row = await held(await make_site())
    sites = [await make_site("and so on"), await make_site("and so on")]
    for site in sites:
        backend(site).hold_after = 1
    seen = Seen(row.run, row.content)
    found = await asyncio.gather(*(site.answers.resume(ME, row.id, seen) for site in (*sites, *sites)))
    jobs = {job for job in found if isinstance(job, Job)}
    assert len(jobs) == 1
    assert sum(len(backend(site).requests) for site in sites) <= 1
    late = await (await make_site()).answers.resume(ME, row.id, seen)
    assert isinstance(late, StoredMessage)
    assert late.run == jobs.pop().run != row.run


async def test_who_has_lost_an_answer_neither_writes_it_nor_tells_its_end(make_site: MakeSite) -> None:
    first, second = await make_site(), await make_site("and so on")
    job, row = await held(first)
    listening = asyncio.create_task(told(job))
    taken = await second.answers.resume(ME, row.id, Seen(row.run, row.content))
    after = await finished(second, taken)
    assert after.content == "one two and so on"
    backend(first).hold_after = 3
    events = await listening
    assert "end" not in [event.kind for event in events]
    assert first.answers.job(ME, row.id) is None
    await until(lambda: not backend(first).running)
    await first.close()
    assert (await stored(second, row.conversation_id))[1] == after


@pytest.mark.parametrize("how", ["stopped", "complete", "another run", "more was asked", "failed"])
async def test_what_nobody_is_to_go_on_with_stays(make_site: MakeSite, how: str) -> None:
    first, second = await make_site(), await make_site()
    if how == "failed":
        backend(first).script = [RuntimeError("of its own")]
    job, row = await held(first, words=0 if how == "failed" else 2)
    if how == "stopped":
        await first.answers.stop(ME, row.id)
    if how in ("complete", "failed"):
        backend(first).hold_after = None
        await told(job)
    if how == "more was asked":
        await told((await second.answers.ask(ME, row.conversation_id, "And?", None, parent_id=row.id))[2])
    asked = len(backend(second).requests)
    run = "another" if how == "another run" else row.run
    found = await second.answers.resume(ME, row.id, Seen(run, row.content))
    assert isinstance(found, StoredMessage)
    assert len(backend(second).requests) == asked


async def test_a_server_that_comes_to_a_shared_database_leaves_what_others_write(make_site: MakeSite) -> None:
    """And what they have deleted, as long as it can be brought back."""
    first = await make_site(is_shared=True)
    job, row = await held(first)
    conversation, _, other = await first.answers.ask(ME, None, "Go", None)
    await first.answers.stop(ME, other.message_id)
    await first.conversations.delete(conversation)
    second = await make_site(is_shared=True, undo_seconds=30.0)
    assert (await stored(second, row.conversation_id))[1].status == "streaming"
    await first.conversations.restore(ME, other.conversation_id)
    assert len(await stored(second, other.conversation_id)) == 2
    backend(first).hold_after = None
    assert (await finished(first, job)).content == "one two three four"


async def test_one_that_cannot_be_gone_on_with_after_all_is_left_as_it_was(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others of the same user have begun while it was taken over."""
    first, second = await make_site(), await make_site("and so on")
    _, row = await held(first)
    allowed = second.answers._check_limits
    seen = Seen(row.run, "one two three ")

    def full_the_second_time(tenant: str, conversation_id: str) -> None:
        allowed(tenant, conversation_id)
        monkeypatch.setattr(second.answers, "_check_limits", refuse)

    def refuse(tenant: str, conversation_id: str) -> None:
        raise Refusal("rate_limited", "there are others")

    monkeypatch.setattr(second.answers, "_check_limits", full_the_second_time)
    with pytest.raises(Refusal, match="there are others"):
        await second.answers.resume(ME, row.id, seen)
    left = (await stored(second, row.conversation_id))[1]
    assert (left.run, left.content) == (row.run, "one two three ")
    monkeypatch.setattr(second.answers, "_check_limits", allowed)
    after = await finished(second, await second.answers.resume(ME, row.id, seen))
    assert after.content == "one two three and so on"


async def test_who_ended_one_does_not_speak_for_who_goes_on_with_it(make_site: MakeSite) -> None:
    first, second = await make_site(), await make_site("and so on")
    job, row = await held(first)
    await job.end("unheard")
    row = await saved(first, job)
    assert await first.answers.writer(ME, row.id) is job
    backend(second).hold_after = 1
    going_on = await second.answers.resume(ME, row.id, Seen(row.run, row.content))
    assert isinstance(going_on, Job)
    assert await first.answers.writer(ME, row.id) is None
    assert await second.answers.writer(ME, row.id) is going_on


async def test_stopping_one_whose_server_is_gone(make_site: MakeSite) -> None:
    _, row = await held(await make_site())
    site = await make_site()
    seen = Seen(row.run, "one two three ")
    stopped = await site.answers.stop(ME, row.id, seen)
    assert (stopped["status"], stopped["content"], stopped["error"]) == ("stopped", "one two three ", None)
    assert isinstance(await site.answers.resume(ME, row.id, seen), StoredMessage)
    assert (await site.answers.stop(ME, row.id, seen)) == stopped
    assert backend(site).requests == []


async def test_a_draining_server_begins_nothing(make_site: MakeSite) -> None:
    site, beside = await make_site(), await make_site()
    job, row = await held(site)
    seen = Seen(row.run, "")
    for one in (site, beside):
        backend(one).draining = True
    assert await site.answers.resume(ME, row.id, seen) is job
    for going_on in (
        beside.answers.ask(ME, None, "Hello", None),
        beside.answers.resume(ME, row.id, seen),
    ):
        with pytest.raises(Refusal) as refused:
            await going_on
        assert (refused.value.code, refused.value.status) == ("shutting_down", 503)
    assert await site.conversations.ids(ME) == [row.conversation_id]
    assert backend(beside).requests == []


async def test_a_temporary_one_goes_on_at_its_server(make_site: MakeSite) -> None:
    site = await make_site(unheard_seconds=0.05)
    backend(site).hold_after = 2
    _, _, job = await site.answers.ask(ME, None, "Go", None, temporary=True)
    await until(lambda: not job.running)
    assert job.row.error_code == "unheard"
    backend(site).hold_after, backend(site).reply = None, "and so on"
    going_on = await site.answers.resume(ME, job.message_id, Seen(job.row.run, job.row.content))
    assert isinstance(going_on, Job)
    await told(going_on)
    assert going_on.row.content == "one two and so on"


@pytest.fixture
def two_servers(make_server: Callable[..., Server]) -> tuple[Server, Server]:
    settings = replace(WebSettings(), heartbeat_seconds=0.2, save_interval_seconds=0.02)
    first, second = make_server(settings), make_server(settings)
    return first, second


def test_an_answer_of_another_server_is_told_as_it_is_saved(two_servers: tuple[Server, Server]) -> None:
    first, second = two_servers
    first.backend.hold_after = 2
    with httpx.Client(base_url=first.url) as here, httpx.Client(base_url=second.url) as there:
        asked = ask(here, "Go")
        path = f"/web/answers/{asked['answer']['id']}"
        silent = events(there.get(f"{path}/events"))
        assert silent[-1][1] == "snapshot", "its server may be gone: no end"
        assert silent[-1][2]["message"]["content"] == "Yes, of "
        first.backend.hold_after = None
        assert answer_of(there, asked)["content"] == "Yes, of course."


def test_the_routes_of_a_page_that_has_lost_its_server(two_servers: tuple[Server, Server]) -> None:
    first, second = two_servers
    first.backend.hold_after = 2
    with httpx.Client(base_url=first.url) as here, httpx.Client(base_url=second.url) as there:
        assert there.get("/web/session").json()["heartbeat_seconds"] == 0.2
        asked = ask(here, "Go")
        path = f"/web/answers/{asked['answer']['id']}"
        body = {"run": asked["answer"]["run"], "text": "Yes, of ", "automatic": True}
        second.backend.reply, second.backend.hold_after = "trees.", 0
        resumed = there.post(f"{path}/continue", json=body).json()["answer"]
        assert (resumed["status"], resumed["content"]) == ("streaming", "Yes, of ")
        assert resumed["run"] != body["run"]
        second.backend.hold_after = None
        assert answer_of(there, asked)["content"] == "Yes, of trees."
        late = there.post(f"{path}/continue", json=body).json()["answer"]
        assert (late["status"], late["content"]) == ("complete", "Yes, of trees.")
        error_of(there.post(f"{path}/continue", json=body | {"text": 1}))
        second.backend.draining = True
        response = there.post("/web/messages", json={"content": "More"})
        assert error_of(response, 503)["code"] == "shutting_down"
        assert response.headers["connection"] == "close"


def temporary(name: str = "temporary-" + "0" * 22, **more: object) -> dict[str, object]:
    """A temporary conversation, as a page has it whose server was lost in the middle."""
    question = {"id": "a" * 32, "role": "user", "content": "Go", "created_ms": 1}
    answer = {
        "id": "b" * 32,
        "parent_id": "a" * 32,
        "role": "assistant",
        "content": "Yes, of ",
        "status": "interrupted",
        "model": "tiny",
        "created_ms": 2,
        "error": {"code": "server_stopped", "message": ""},
    }
    times = {"created_ms": 1, "updated_ms": 2}
    return {"id": name, "title": "Go", "messages": [question, answer], **times, **more}


def test_a_temporary_conversation_is_put_back_and_goes_on(make_server: Callable[..., Server]) -> None:
    server = make_server(api_keys={"ann": "sk-ann", "bob": "sk-bob"})
    server.backend.reply = "course."
    ann, bob = ({"authorization": f"Bearer sk-{name}"} for name in ("ann", "bob"))
    with httpx.Client(base_url=server.url, headers=ann) as client:
        found = client.post("/web/temporary", json=temporary(pinned=True)).json()["conversation"]
        assert (found["temporary"], found["pinned"]) == (True, False)
        body = {"run": None, "text": "Yes, of ", "automatic": True}
        asked = client.post(f"/web/answers/{'b' * 32}/continue", json=body).json()
        assert answer_of(client, asked)["content"] == "Yes, of course."
        again = temporary(messages=[])
        assert client.post("/web/temporary", json=again).status_code == 200
        assert len(client.get(f"/web/conversations/{again['id']}").json()["messages"]) == 2, "as it was"
        assert client.post("/web/temporary", json=again, headers=bob).status_code == 404
        for name in ("0" * 32, "temporary-", "temporary-../../x"):
            assert error_of(client.post("/web/temporary", json=temporary(name)))["param"] == "id"
        assert client.get("/web/conversations").json()["conversations"] == []
