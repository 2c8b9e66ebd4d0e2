"""Two tabs of the same conversations: each learns of the other's turns when the reader comes back."""

from collections.abc import Callable
from typing import Any

import pytest
from chatting import answers, ask, box, edit, finished, last_answer, say, words
from playwright.sync_api import Page, expect
from served import Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


def come_back(page: Page, event: str = "document, visibilitychange") -> None:
    """Chromium without a screen shows all tabs all the time."""
    target, name = event.split(", ")
    page.evaluate(f"() => {target}.dispatchEvent(new Event({name!r}))")


def two_tabs(server: Server, open_page: OpenPage, **options: Any) -> tuple[Page, Page]:
    here = open_page(server.url, **options)
    ask(here, "First")
    there = open_page(here.url)
    expect(last_answer(there)).to_have_text("Yes, of course.")
    return here, there


@pytest.mark.parametrize("event", ["document, visibilitychange", "window, focus", "window, online"])
def test_a_tab_learns_of_the_turns_of_another(server: Server, open_page: OpenPage, event: str) -> None:
    here, there = two_tabs(server, open_page)
    ask(there, "Second")
    there.get_by_role("button", name="New chat").click()
    ask(there, "Elsewhere")
    expect(answers(here)).to_have_count(1)
    box(here).fill("A draft")
    come_back(here, event)
    expect(answers(here)).to_have_count(2)
    expect(here.get_by_role("link", name="Elsewhere")).to_be_visible()
    expect(box(here)).to_have_value("A draft")
    ask(here, "Third")
    texts = [message.content for message in server.backend.requests[-1].messages or ()]
    assert texts == ["First", "Yes, of course.", "Second", "Yes, of course.", "Third"]
    expect(here.get_by_role("group", name="Versions")).to_have_count(0)


def test_an_answer_being_written_elsewhere_is_followed(server: Server, open_page: OpenPage) -> None:
    here, there = two_tabs(server, open_page)
    server.backend.reply, server.backend.hold_after = words(6), 3
    say(there, "Count")
    expect(last_answer(there)).to_have_text("word0 word1 word2")
    come_back(here)
    expect(last_answer(here)).to_have_text("word0 word1 word2")
    server.backend.hold_after = None
    expect(last_answer(here)).to_have_text(words(6))
    finished(here)


def test_an_answer_continued_elsewhere_is_taken_in(server: Server, open_page: OpenPage) -> None:
    server.backend.reply, server.backend.hold_after = words(6), 3
    here = open_page(server.url)
    say(here, "Count")
    expect(last_answer(here)).to_have_text("word0 word1 word2")
    here.get_by_role("button", name="Stop").click()
    expect(answers(here)).to_contain_text("Stopped")
    there = open_page(here.url)
    server.backend.hold_after, server.backend.script = None, ["and so on"]
    there.get_by_role("button", name="Continue").click()
    finished(there)
    come_back(here)
    expect(last_answer(here)).to_have_text("word0 word1 word2 and so on")


def test_what_is_being_edited_stays(server: Server, open_page: OpenPage) -> None:
    here, there = two_tabs(server, open_page)
    ask(there, "Second")
    editor = edit(here, 0)
    editor.fill("First, otherwise")
    with here.expect_response("**/web/conversations"):
        come_back(here)
    here.wait_for_timeout(100)
    expect(editor).to_have_value("First, otherwise")
    expect(answers(here)).to_have_count(1)


def test_a_conversation_deleted_elsewhere_is_gone(server: Server, open_page: OpenPage) -> None:
    here, there = two_tabs(server, open_page, allow=("status of 404",))
    there.get_by_role("button", name="Options for “First”").click()
    there.get_by_role("menuitem", name="Delete").click()
    expect(there.get_by_role("button", name="Undo")).to_be_visible()
    come_back(here)
    expect(here.get_by_role("heading", name="This conversation is not here")).to_be_visible()
    expect(here.get_by_role("link", name="First")).to_have_count(0)
