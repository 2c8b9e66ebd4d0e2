"""The thread in Chromium: versions of messages, editing, going on, and the context in use."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from chatting import answers, ask, box, edit, finished, last_answer, patched, question, words
from playwright.sync_api import Page, expect
from served import Server

from ridgeline.protocol import ModelInfo
from ridgeline.web.settings import WebSettings

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


def versions(page: Page) -> Any:
    return page.get_by_role("group", name="Versions")


def test_another_answer_stands_beside_the_first(server: Server, open_page: OpenPage) -> None:
    server.backend.script = ["The first.", "The second.", "The third."]
    page = open_page(server.url)
    ask(page, "Which?")
    expect(versions(page)).to_have_count(0)
    for number in (2, 3):
        page.get_by_role("button", name="Answer again").click()
        expect(versions(page)).to_contain_text(f"{number}/{number}")
        finished(page)
    expect(last_answer(page)).to_have_text("The third.")
    assert [m.content for m in server.backend.requests[2].messages or ()] == ["Which?"]

    with patched(page):
        page.get_by_role("button", name="Previous version").click()
    expect(last_answer(page)).to_have_text("The second.")
    expect(page.locator("p[role=status]")).to_have_text("Version 2 of 3")
    page.reload()
    expect(last_answer(page)).to_have_text("The second.")
    expect(versions(page)).to_contain_text("2/3")

    server.backend.reply = "After the second."
    ask(page, "And then?")
    said = [m.content for m in server.backend.requests[-1].messages or ()]
    assert said == ["Which?", "The second.", "And then?"]


def test_a_tree_is_shown_along_one_path(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    found = page.evaluate(
        """async () => {
            const base = document.querySelector('script[type=module]').src;
            const { newestLeaf, pathTo, versionsAlong } = await import(base.replace('app.js', 'branches.js'));
            const made = (rows) => rows.map(([id, parentId], createdMs) =>
                ({ id, parentId, createdMs, role: /q|r/i.test(id) ? 'user' : 'assistant' }));
            const tree = made(
                [['q', null], ['a', 'q'], ['b', 'q'], ['r', 'a'], ['c', 'r'], ['Q', null], ['d', 'Q']]);
            const circle = made([['x', 'y'], ['y', 'x']]);
            const ids = (messages) => messages.map((message) => message.id).join('');
            return {
                chosen: ids(pathTo(tree, 'c')),
                inner: ids(pathTo(tree, 'b')),
                newest: ids(pathTo(tree, null)),
                unknown: ids(pathTo(tree, 'gone')),
                none: ids(pathTo([], 'c')),
                circle: ids(pathTo(circle, 'x')),
                versions: versionsAlong(tree, pathTo(tree, 'c')).map(ids),
                leaves: ['q', 'a', 'b', 'Q', 'gone'].map((id) => newestLeaf(tree, id)),
            };
        }"""
    )
    assert found == {
        "chosen": "qarc",
        "inner": "qb",
        "newest": "Qd",
        "unknown": "Qd",
        "none": "",
        "circle": "yx",
        "versions": ["qQ", "ab", "r", "c"],
        "leaves": ["c", "c", "b", "d", "gone"],
    }


def test_versions_are_passed_through_by_keyboard(server: Server, open_page: OpenPage) -> None:
    server.backend.script = ["The first.", "The second."]
    page = open_page(server.url)
    ask(page, "Which?")
    page.get_by_role("button", name="Answer again").press("Enter")
    expect(versions(page)).to_contain_text("2/2")
    finished(page)
    back, on = (page.get_by_role("button", name=f"{name} version") for name in ("Previous", "Next"))
    back.focus()
    page.keyboard.press("Enter")
    expect(last_answer(page)).to_have_text("The first.")
    expect(back).to_be_focused()
    expect(back).to_have_attribute("aria-disabled", "true")
    page.keyboard.press("Enter")
    expect(last_answer(page)).to_have_text("The first.")
    on.focus()
    page.keyboard.press("Space")
    expect(last_answer(page)).to_have_text("The second.")
    expect(on).to_be_focused()


def test_an_edited_message_begins_a_branch(server: Server, open_page: OpenPage) -> None:
    server.backend.script = ["One.", "Two.", "Another one."]
    page = open_page(server.url)
    ask(page, "First")
    ask(page, "Second")
    field = edit(page, 0)
    expect(field).to_be_focused()
    expect(field).to_have_value("First")
    field.fill("First, but better")
    page.get_by_role("button", name="Save & send").click()
    expect(last_answer(page)).to_have_text("Another one.")
    finished(page)
    expect(page.locator("article.question .bubble")).to_have_text(["First, but better"])
    assert [m.content for m in server.backend.requests[-1].messages or ()] == ["First, but better"]

    with patched(page):
        page.get_by_role("button", name="Previous version").click()
    expect(page.locator("article.question .bubble")).to_have_text(["First", "Second"])
    expect(page.locator("article.answer .markdown")).to_have_text(["One.", "Two."])
    with patched(page):
        page.get_by_role("button", name="Next version").click()
    expect(page.locator("article .markdown")).to_have_text(["Another one."])
    page.reload()
    expect(page.locator("article.question .bubble")).to_have_text(["First, but better"])


def test_editing_can_be_given_up_and_begins_at_the_empty_box(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    ask(page, "First")
    ask(page, "Second")
    field = edit(page, 0)
    field.fill("Something else")
    page.keyboard.press("Escape")
    expect(field).to_have_count(0)
    expect(question(page, 0)).to_contain_text("First")
    expect(question(page, 0).get_by_role("button", name="Edit message")).to_be_focused()
    edit(page, 1)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("textbox", name="Edit message")).to_have_count(0)
    box(page).focus()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("textbox", name="Edit message")).to_have_value("Second")
    page.keyboard.type("!")
    page.keyboard.press("Enter")
    expect(question(page, 1).locator(".bubble")).to_have_text("Second!")
    finished(page)
    expect(box(page)).to_be_focused()
    assert len(server.backend.requests) == 3


def test_what_was_edited_stays_in_its_box_when_it_is_refused(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url, allow=("status of 400",))
    ask(page, "Short")
    field = edit(page, 0)
    field.fill("word " * 3000)
    page.get_by_role("button", name="Save & send").click()
    expect(page.get_by_role("alert")).to_contain_text("too long for this model")
    expect(field).to_have_value("word " * 3000)


def test_a_version_of_an_earlier_message_stays_under_the_eye(server: Server, open_page: OpenPage) -> None:
    server.backend.reply = "\n\n".join(words(40) for _ in range(12))
    page = open_page(server.url)
    for text in ("First", "Second"):
        ask(page, text)
    edit(page, 0).fill("Otherwise")
    page.get_by_role("button", name="Save & send").click()
    expect(page.locator("article.question .bubble")).to_have_text(["Otherwise"])
    finished(page)
    back = page.get_by_role("button", name="Previous version")
    page.locator(".scroller").evaluate(
        """(box) => new Promise((drawn) => {
            box.scrollTop = 0;
            requestAnimationFrame(() => requestAnimationFrame(drawn)); // the page has noticed by then
        })"""
    )
    before = back.bounding_box()
    back.click()
    expect(page.locator("article.question")).to_have_count(2)
    assert before
    page.wait_for_function(
        """(before) => {
            const { y } = document.querySelector('[aria-label="Next version"]').getBoundingClientRect();
            return Math.abs(y - before) < 3;
        }""",
        arg=before["y"],
    )


def test_an_answer_that_was_cut_off_goes_on(make_server: Callable[..., Server], open_page: OpenPage) -> None:
    server = make_server(WebSettings(max_answer_tokens=3))
    server.backend.reply = words(3)
    server.backend.script = [words(9)]
    page = open_page(server.url)
    ask(page, "Count")
    expect(answers(page)).to_contain_text("reached its length limit")
    meter = page.get_by_role("meter", name="Context in use")
    expect(meter).to_have_attribute("aria-valuenow", "4")
    server.backend.script = ["and done."]
    page.get_by_role("button", name="Continue").click()
    expect(last_answer(page)).to_have_text(f"{words(3)} and done.")
    finished(page)
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)
    expect(meter).to_have_attribute("aria-valuenow", "6")


def test_the_meter_tells_the_context_in_use(server: Server, open_page: OpenPage) -> None:
    server.backend.infos = [ModelInfo("tiny", 1, 200, 100, 1000)]
    server.backend.script = [words(20), words(6)]
    page = open_page(server.url)
    meter = page.get_by_role("meter", name="Context in use")
    expect(meter).to_have_count(0)
    ask(page, words(10))
    expect(meter).to_have_attribute("aria-valuenow", "30")
    expect(meter).to_have_attribute("aria-valuemax", "200")
    expect(meter).to_have_attribute(
        "aria-valuetext", re.compile("^30 of the 200 tokens.*5 of them came from")
    )
    expect(meter).to_contain_text("30 of 200 tokens")
    part = meter.evaluate("(e) => e.querySelector('i').clientWidth / e.querySelector('.bar').clientWidth")
    assert 0.1 < part < 0.2
    page.get_by_role("button", name="Answer again").click()
    expect(meter).to_have_attribute("aria-valuenow", "16")
    page.get_by_role("button", name="Previous version").click()
    expect(meter).to_have_attribute("aria-valuenow", "30")


def test_messages_outside_the_window_are_told_from_the_others(server: Server, open_page: OpenPage) -> None:
    server.backend.infos = [ModelInfo("tiny", 1, 60, 100, 1000)]
    server.backend.reply = words(12)
    page = open_page(server.url)
    for turn in range(4):
        ask(page, f"Turn {turn}: {words(4)}")
    divider = page.get_by_role("note")
    number = int((divider.text_content() or "").split()[0])
    above = page.evaluate(
        """() => [...document.querySelectorAll('article')].map((row) => [
            row.classList.contains('outside'),
            Boolean(row.compareDocumentPosition(document.querySelector('[role=note]')) & 4)])"""
    )
    assert [outside for outside, _ in above] == [is_above for _, is_above in above]
    assert sum(outside for outside, _ in above) == number
