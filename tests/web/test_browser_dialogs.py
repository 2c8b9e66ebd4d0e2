"""A dialog that waits for the server, while the reader has gone on to another."""

from collections.abc import Callable
from typing import Any

import pytest
from chatting import ask
from playwright.sync_api import Page, expect
from served import Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


class Held:
    """Holds the page's changes of conversations until they are let go."""

    def __init__(self, page: Page) -> None:
        self.routes: list[Any] = []
        page.route("**/web/conversations/*", lambda route: self.routes.append(route))

    def arrive(self, page: Page) -> None:
        """Wait until one is held."""
        for _ in range(1000):
            if self.routes:
                return
            page.wait_for_timeout(5)
        raise AssertionError("nothing was sent")


def save_and_leave(page: Page) -> Held:
    ask(page, "Hello")
    page.keyboard.press("Control+Shift+,")
    page.get_by_label("Temperature").fill("0.5")
    held = Held(page)
    page.get_by_role("button", name="Save").click()
    held.arrive(page)
    page.keyboard.press("Control+/")
    expect(page.get_by_role("dialog")).to_have_accessible_name("Keyboard shortcuts")
    return held


def test_saved_settings_close_their_own_dialog_only(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    held = save_and_leave(page)
    held.routes[0].continue_()
    expect(page.locator("p[role=status]")).to_have_text("Settings saved")
    expect(page.get_by_role("dialog")).to_have_accessible_name("Keyboard shortcuts")


def test_settings_that_are_refused_after_their_dialog_are_told(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url, allow=("status of 400",))
    held = save_and_leave(page)
    refusal = {"error": {"code": "invalid_request", "message": "Not today."}}
    held.routes[0].fulfill(status=400, json=refusal)
    expect(page.locator(".toast")).to_contain_text("Not today.")
    expect(page.get_by_role("dialog")).to_have_accessible_name("Keyboard shortcuts")
