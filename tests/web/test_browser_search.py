"""Search in Chromium: what it finds, where it leads, what it says when there is nothing."""

import re
from collections.abc import Callable

import httpx
import pytest
from chatting import ask, box, last_answer, with_clock
from listing import search, stored
from playwright.sync_api import Page, expect
from served import Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


def test_search_finds_titles_and_texts_and_leads_there(server: Server, open_page: OpenPage) -> None:
    filler = "\n\n".join(["Some words to fill the page. " * 12] * 12)
    stored(server, {"Zebra crossing": 0, "Unrelated": 1}, text=f"{filler}\n\nThe ZEBRA runs.\n\n{filler}")
    page = open_page(server.url)
    with_clock(page)
    options = search(page, "zebra")
    expect(options).to_have_count(2)
    expect(options.first).to_have_attribute("aria-selected", "true")
    expect(options.first.locator("mark")).to_have_text("Zebra")
    page.keyboard.press("ArrowDown")
    expect(options.last).to_have_attribute("aria-selected", "true")
    expect(options.last.locator("mark")).to_have_text("ZEBRA")
    expect(options.last).to_contain_text("Unrelated")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_have_text("Unrelated")
    found = page.locator("article.answer")
    expect(found).to_be_focused()
    expect(found).to_have_class(re.compile("found"))
    # The words themselves are marked, and in sight, however long the message is.
    words_found = """() => [...CSS.highlights.get('found')].map((range) => {
        const { top, bottom } = range.getBoundingClientRect();
        return [range.toString(), top >= 0 && bottom <= innerHeight];
    })"""
    assert page.evaluate(words_found) == [["ZEBRA", True]]
    page.clock.fast_forward(4100)
    expect(found).not_to_have_class(re.compile("found"))


def test_search_says_when_there_is_nothing_and_what_failed(server: Server, open_page: OpenPage) -> None:
    stored(server, {"Zebra": 0})
    page = open_page(server.url, allow=("status of 503",))
    options = search(page, "giraffe")
    expect(page.get_by_role("dialog")).to_contain_text("Nothing found for “giraffe”")
    expect(options).to_have_count(0)
    broken = {"error": {"code": "no_replica", "message": "None.", "param": None}}
    page.route("**/web/search?*", lambda route: route.fulfill(status=503, json=broken))
    page.get_by_role("combobox").fill("zebra")
    expect(page.get_by_role("dialog")).to_contain_text("No model is ready")
    page.unroute("**/web/search?*")
    page.get_by_role("dialog").get_by_role("button", name="Try again").click()
    expect(options).to_have_count(1)
    page.keyboard.press("Escape")
    expect(box(page)).to_be_focused()


def test_search_asks_once_for_what_was_typed(server: Server, open_page: OpenPage) -> None:
    stored(server, {"Zebra": 0})
    page = open_page(server.url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/web/search" in request.url else None)
    expect(box(page)).to_be_visible()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("option")).to_have_count(1)  # the conversations of late
    page.evaluate(
        """() => {
            const box = document.querySelector('[role=combobox]');
            for (const typed of ['z', 'ze', 'zeb', 'zebr', 'zebra']) {
                box.value = typed;
                box.dispatchEvent(new Event('input'));
            }
        }"""
    )
    page.keyboard.press("Enter")  # before there is any result
    expect(page.get_by_role("heading", level=1)).to_have_text("Zebra")
    assert [url.split("q=")[1] for url in asked] == ["zebra&limit=30"]


def test_what_is_found_in_another_branch_is_shown(server: Server, open_page: OpenPage) -> None:
    server.backend.script = ["The old answer speaks of xylophones.", "The new one does not."]
    page = open_page(server.url)
    ask(page, "Speak")
    httpx.post(
        f"{server.url}/web/messages",
        json={"content": "Speak again", "conversation_id": page.url[-32:], "parent_id": None},
    )
    page.reload()
    expect(last_answer(page)).to_have_text("The new one does not.")
    options = search(page, "xylophone")
    expect(options).to_have_count(1)
    options.first.click()
    expect(last_answer(page)).to_have_text("The old answer speaks of xylophones.")
