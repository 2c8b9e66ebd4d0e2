"""What tests of the page do again and again: ask, wait, and look at the answer."""

from typing import Any

from playwright.sync_api import Locator, Page, expect

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def box(page: Page) -> Locator:
    """The message box."""
    return page.get_by_role("textbox", name="Message", exact=True)


def say(page: Page, text: str) -> None:
    """Type a message and send it."""
    box(page).fill(text)
    box(page).press("Enter")


def answers(page: Page) -> Locator:
    """All answers of the branch that is shown."""
    return page.locator("article.answer")


def last_answer(page: Page) -> Locator:
    """The text of the newest answer."""
    return answers(page).last.locator(".markdown")


def finished(page: Page) -> None:
    """Wait until nothing is being written."""
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    expect(answers(page).last.locator("footer")).to_be_visible()


def ask(page: Page, text: str) -> None:
    """Ask, and wait for the answer."""
    asked = answers(page).count()
    say(page, text)
    expect(answers(page)).to_have_count(asked + 1)
    finished(page)


def patched(page: Page) -> Any:
    """Around what changes a conversation: waits until the server has taken it."""
    return page.expect_response(lambda response: response.request.method == "PATCH" and response.ok)


def with_clock(page: Page) -> None:
    """Load the page again with a clock that goes as ever, and can be moved on by tests."""
    page.clock.install()
    page.reload()
    expect(box(page)).to_be_visible()


def in_clipboard(page: Page, text: str) -> None:
    """Wait until it is there: the page is told of that later."""
    page.wait_for_function("async (text) => (await navigator.clipboard.readText()) === text", arg=text)


def words(count: int) -> str:
    """So many words, each a token of the scripted backend."""
    return " ".join(f"word{n}" for n in range(count))


def question(page: Page, number: int) -> Locator:
    """One of the questions of the branch that is shown."""
    return page.locator("article.question").nth(number)


def edit(page: Page, number: int) -> Locator:
    """Open the editor of a message, and return its box."""
    question(page, number).hover()
    question(page, number).get_by_role("button", name="Edit message").click()
    return page.get_by_role("textbox", name="Edit message")


def from_menu(page: Page, name: str, role: str = "menuitem") -> None:
    """Choose from the menu below the list."""
    page.get_by_role("button", name="Menu", exact=True).click()
    page.get_by_role(role, name=name).click()  # type: ignore[arg-type]
