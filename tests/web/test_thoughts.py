"""What a model thinks aloud is kept, but is no part of what it says."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from scripted import ScriptedBackend
from sites import ME, opened, told

from ridgeline.web.site import Site
from ridgeline.web.thoughts import NO_THOUGHTS, spoken

THOUGHTFUL = "<think>\nThe user counts. So do I.\n</think>\n\nOne, two."


@pytest.fixture
def backend() -> ScriptedBackend:
    backend = ScriptedBackend(THOUGHTFUL)
    backend.title = "Counting to two"
    return backend


@pytest.fixture
async def site(tmp_path: Path, backend: ScriptedBackend) -> AsyncIterator[Site]:
    async with opened(tmp_path / "c.db", backend) as site:
        yield site


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (THOUGHTFUL, "One, two."),
        ("<think>\n\n</think>\n\nOne, two.", "One, two."),
        ("\n <think>a</think>b</think>", "b</think>"),
        ("<think>never ended", ""),
        ("<thinking>no tag</thinking>", "<thinking>no tag</thinking>"),
        ("Say <think>x</think>", "Say <think>x</think>"),
        ("", ""),
    ],
)
def test_what_is_said(content: str, said: str) -> None:
    assert spoken(content) == said


async def test_later_turns_are_not_shown_the_thoughts(site: Site, backend: ScriptedBackend) -> None:
    conversation, _, job = await site.answers.ask(ME, None, "Count", None)
    await told(job)
    _, _, job = await site.answers.ask(ME, conversation.id, "More", None)
    await told(job)
    assert [m.content for m in backend.requests[1].messages or ()] == ["Count", "One, two.", "More"]
    rows = await site.conversations.messages(conversation.id)
    assert rows[1].content == THOUGHTFUL, "they are kept"


async def test_thoughts_that_were_stopped_are_gone_on_with(site: Site, backend: ScriptedBackend) -> None:
    backend.hold_after = 3
    conversation, _, job = await site.answers.ask(ME, None, "Count", None)
    listener = job.listen(None)
    while "counts" not in job.row.content and "user" not in job.row.content:
        await anext(listener)
    await site.answers.stop(ME, job.message_id)
    thought = job.row.content
    assert spoken(thought) == ""
    backend.hold_after, backend.script = None, ["Enough.</think>Two."]
    await told(await site.answers.go_on(ME, job.message_id))
    request = backend.requests[-1]
    assert request.continue_final_message
    assert [m.content for m in request.messages or ()] == ["Count", thought]
    rows = await site.conversations.messages(conversation.id)
    assert spoken(rows[1].content) == "Two."


async def test_the_title_is_made_of_what_was_said(site: Site, backend: ScriptedBackend) -> None:
    conversation, _, job = await site.answers.ask(ME, None, "Count", None)
    await told(job)
    await site.titles.wait(conversation.id)
    (request,) = backend.titles
    said = [m.content for m in request.messages or ()]
    assert (said[1], said[-1], request.continue_final_message) == ("One, two.", NO_THOUGHTS, True)
    found = await site.conversations.get(ME, conversation.id)
    assert found is not None and (found.title, found.title_by) == ("Counting to two", "model")


async def test_thoughts_alone_make_no_title(site: Site, backend: ScriptedBackend) -> None:
    backend.reply = "<think>I do not know"
    conversation, _, job = await site.answers.ask(ME, None, "Count", None)
    await told(job)
    await site.titles.wait(conversation.id)
    assert backend.titles == []
