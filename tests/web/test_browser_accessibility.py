"""axe-core finds no barrier in any state of the page, wide and narrow, light and dark."""

from collections.abc import Callable, Iterator
from typing import Any

import axe
import httpx
import pytest
from chatting import PHONE, answers, box, finished, from_menu
from looks import CALM, RICH, WIDE, close_list, open_list, say
from playwright.sync_api import Page, expect
from served import Server

from ridgeline.protocol import ModelInfo, Refusal
from ridgeline.web.settings import WebSettings

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def size(request: pytest.FixtureRequest) -> dict[str, Any]:
    shape: dict[str, Any] = request.param
    return shape | CALM


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def check(open_page: OpenPage) -> Iterator[Callable[[Page, str], None]]:
    """Collects what axe-core finds, so that one run tells all of it."""
    found: list[str] = []

    def check(page: Page, state: str) -> None:
        found.extend(f"{state}: {problem}" for problem in axe.violations(page))
        page.mouse.move(1, 1)

    yield check
    assert found == []


Check = Callable[[Page, str], None]


@pytest.fixture
def open_page_with_errors(open_page: OpenPage) -> OpenPage:
    def open_anyway(url: str, **options: Any) -> Page:
        expected = (
            "status of 4",
            "status of 5",
            "ERR_CONNECTION",
            "ERR_FAILED",
            "ERR_INCOMPLETE",
            "ERR_EMPTY",
        )
        return open_page(url, allow=expected, **options)

    return open_anyway


def test_conversations(
    server: Server, open_page: OpenPage, size: dict[str, Any], scheme: str, check: Check
) -> None:
    server.backend.infos.append(ModelInfo("large", 1, 8000, 100, 10**9))
    page = open_page(server.url, color_scheme=scheme, **size)
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    check(page, "new chat")
    server.backend.reply, server.backend.hold_after = RICH, 12
    say(page, "Show me everything")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(answers(page).locator("h2, h3, h4").first).to_be_visible()
    check(page, "an answer being written")
    server.backend.hold_after = None
    finished(page)
    expect(answers(page).locator("math, .katex").first).to_be_attached()
    check(page, "code, table and maths")
    page.get_by_role("button", name="Edit").first.click()
    check(page, "editing a message")
    page.keyboard.press("Escape")
    page.get_by_role("heading", level=1).get_by_role("button").click()
    check(page, "renaming by the heading")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Model: tiny").click()
    expect(page.get_by_role("menu")).to_be_visible()
    check(page, "the menu of models")
    page.keyboard.press("Escape")
    page.goto(f"{server.url}/?temporary")
    expect(page.get_by_role("note")).to_be_visible()
    check(page, "temporary chat")


def test_list_and_dialogs(
    server: Server, open_page_with_errors: OpenPage, size: dict[str, Any], scheme: str, check: Check
) -> None:
    for number in range(3):
        httpx.post(f"{server.url}/web/messages", json={"content": f"Question {number}"})
    page = open_page_with_errors(server.url, color_scheme=scheme, **size)
    expect(box(page)).to_be_visible()
    open_list(page)
    check(page, "the list")
    page.get_by_role("button", name="Options for “Question 1”").click()
    expect(page.get_by_role("menu")).to_be_visible()
    check(page, "the menu of a conversation")
    page.get_by_role("menuitem", name="Pin").click()
    expect(page.get_by_role("heading", name="Pinned")).to_be_visible()
    page.get_by_role("button", name="Options for “Question 1”").click()
    page.get_by_role("menuitem", name="Rename").click()
    check(page, "renaming in the list")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Options for “Question 2”").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    check(page, "deleted, with undo")
    page.get_by_role("button", name="Menu", exact=True).click()
    expect(page.get_by_role("menu")).to_be_visible()
    check(page, "the menu of the page")
    page.keyboard.press("Escape")
    from_menu(page, "Your data")
    dialog = page.get_by_role("dialog")
    dialog.locator("input[type=file]").set_input_files(
        {"name": "broken.json", "mimeType": "application/json", "buffer": b'{"format": 1}'}
    )
    expect(dialog.locator(".bad")).to_be_visible()
    expect(dialog.get_by_role("button", name="Choose a file")).to_be_enabled()
    for button in dialog.get_by_role("button").all():
        expect(button).to_have_css("opacity", "1")  # they have their colours back
    check(page, "a file that cannot be imported")
    dialog.get_by_role("button", name="Delete all…").click()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    check(page, "whether to delete all")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    expect(dialog).to_have_accessible_name("Search conversations")
    check(page, "search, nothing typed")
    page.get_by_role("combobox").fill("question")
    expect(page.locator("mark").first).to_be_visible()
    check(page, "search results")
    page.get_by_role("combobox").fill("no such thing")
    expect(dialog).to_contain_text("Nothing found")
    check(page, "nothing found")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+/")
    expect(dialog).to_have_accessible_name("Keyboard shortcuts")
    check(page, "shortcuts")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    close_list(page)
    page.get_by_role("button", name="Settings of this chat").click()
    dialog.get_by_label("Temperature").fill("hot")
    check(page, "settings")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_contain_text("Give a number")
    check(page, "settings that are wrong")


def test_errors(
    make_server: Callable[..., Server],
    open_page_with_errors: OpenPage,
    size: dict[str, Any],
    scheme: str,
    check: Check,
) -> None:
    server = make_server(WebSettings(max_running_answers=1))
    full = Refusal("at_capacity", "All full.", retry_after_seconds=60.0)
    server.backend.script = [full, RuntimeError("broken")]
    page = open_page_with_errors(server.url, color_scheme=scheme, **size)
    say(page, "Please")
    expect(page.get_by_role("alert")).to_contain_text("Trying again in")
    check(page, "at capacity")
    page.get_by_role("button", name="Try now").click()
    expect(page.get_by_role("alert")).to_contain_text("Something went wrong")
    check(page, "a failure")
    server.backend.hold_after = 1
    httpx.post(f"{server.url}/web/messages", json={"content": "Another one"})
    say(page, "And now?")
    expect(page.get_by_role("alert").last).to_contain_text("One thing at a time")
    check(page, "rate limit")
    server.stop()
    say(page, "Still there?")
    expect(page.get_by_role("alert").last).to_contain_text("The server does not answer")
    check(page, "server gone")
    page.goto("about:blank")
    server.backend.hold_after = None
    server.start()
    page.goto(f"{server.url}/c/{'0' * 32}")
    expect(page.get_by_role("heading", name="This conversation is not here")).to_be_visible()
    check(page, "no such conversation")


def test_signing_in_and_waiting(
    make_server: Callable[..., Server],
    open_page_with_errors: OpenPage,
    size: dict[str, Any],
    scheme: str,
    check: Check,
) -> None:
    server = make_server(api_keys={"ann": "right-key"})
    page = open_page_with_errors(server.url, color_scheme=scheme, **size)
    page.get_by_label("API key").fill("wrong")
    check(page, "sign in")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("not one of this server’s keys")
    check(page, "a wrong key")
    page.route("**/web/session", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("heading", name="The server does not answer")).to_be_visible()
    check(page, "unreachable")


def test_axe_finds_what_is_wrong(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    expect(box(page)).to_be_visible()
    page.evaluate(
        """() => {
            document.querySelector('#message').labels[0].remove();
            document.querySelector('#message').placeholder = '';
            document.querySelector('h1').style.color = '#ccc';
        }"""
    )
    assert {problem.split(":")[0] for problem in axe.violations(page)} >= {"label", "color-contrast"}
