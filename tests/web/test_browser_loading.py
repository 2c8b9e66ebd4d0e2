"""What somebody sees whose server goes or is slow while the page loads: words, and then the page."""

from collections.abc import Callable

import axe
import pytest
from chatting import box
from playwright.sync_api import Page, Request, Route, expect
from served import Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
GONE = ("ERR_FAILED", "ERR_CONNECTION_REFUSED")
TRIES_AFTER_MS = 2100


def tries(request: Request) -> bool:
    return request.method == "HEAD"


@pytest.mark.parametrize("file", ["message.js", "css/base.css"])
def test_a_server_that_goes_before_the_page_is_whole(server: Server, open_page: OpenPage, file: str) -> None:
    page = open_page(server.url, allow=GONE)
    page.clock.install()
    page.route(f"**/assets/*/{file}", lambda route: route.abort())
    page.route(f"{server.url}/", lambda route: route.abort() if tries(route.request) else route.continue_())
    page.reload()
    said = page.get_by_role("heading", name="The server does not answer")
    expect(said if file.endswith(".js") else box(page)).to_be_visible()
    if file.endswith(".js"):
        expect(page.get_by_text("This page tries again by itself.")).to_be_visible()
        assert axe.violations(page) == []
    with page.expect_event("requestfailed", tries):
        page.clock.fast_forward(TRIES_AFTER_MS)
    page.unroute_all()
    page.clock.fast_forward(TRIES_AFTER_MS)
    expect(box(page)).to_be_visible()
    expect(page.locator("header")).to_have_css("display", "flex")


def test_a_page_that_lives_is_loaded_again_but_once(server: Server, open_page: OpenPage) -> None:
    """Where a stylesheet is blocked for good, by whatever it is."""
    page = open_page(server.url, allow=GONE)
    page.clock.install()
    page.route("**/assets/*/css/base.css", lambda route: route.abort())
    loads: list[str] = []
    page.on("request", lambda request: loads.append(request.url) if request.is_navigation_request() else None)
    page.reload()
    expect(box(page)).to_be_visible()
    with page.expect_navigation():
        page.clock.fast_forward(TRIES_AFTER_MS)
    expect(box(page)).to_be_visible()
    page.clock.fast_forward(100_000)
    page.evaluate("() => fetch('/web/session').then((response) => response.text())")
    assert len(loads) == 2


def test_a_server_that_goes_before_the_first_requests(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url, allow=GONE)
    page.clock.install()
    for path in ("**/web/session", "**/web/conversations"):
        page.route(path, lambda route: route.abort())
        page.reload()
        expect(page.get_by_role("heading", name="The server does not answer")).to_be_visible()
        expect(page.get_by_text("This page tries again by itself.")).to_be_visible()
        page.unroute_all()
        page.clock.fast_forward(TRIES_AFTER_MS)
        expect(box(page)).to_be_visible()


def test_a_server_that_takes_its_time(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    held: list[Route] = []
    page.route("**/web/session", lambda route: held.append(route))
    page.reload()
    expect(page.get_by_role("heading", name="Waiting for the server")).to_be_visible()
    assert axe.violations(page) == []
    held.pop().continue_()
    expect(box(page)).to_be_visible()
    page.unroute_all()
    # A file of the page itself: what is said then stands in the page from the start.
    page.route("**/assets/*/app.js", lambda route: held.append(route))
    page.reload(wait_until="commit")
    expect(page.locator("main.gate")).to_have_css("display", "grid")  # nothing is drawn before
    expect(page.get_by_text("This page is still on its way.")).to_be_visible()
    assert axe.violations(page) == []
    held.pop().continue_()
    expect(box(page)).to_be_visible()
    expect(page.get_by_text("This page is still on its way.")).to_have_count(0)
