"""The page that explains a request, in Chromium."""

from collections.abc import Callable
from typing import Any

import axe
import pytest
import told
from chatting import PHONE
from looks import CALM, WIDE
from playwright.sync_api import Locator, Page, expect
from served import Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """A server that remembers three requests."""
    server = make_server()
    server.backend.timelines = [
        told.timeline(told.LONG),
        told.timeline(told.FULL, id="chatcmpl-full", name="full"),
        told.timeline(told.GOING, told.GOING, now=1001.0, id="chatcmpl-going", name="going"),
    ]
    return server


def phase(page: Page, name: str) -> Locator:
    return page.locator(".phases li", has=page.get_by_text(name, exact=True))


def test_it_draws_where_the_time_went_and_says_why(server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/explain?id=request-a")
    answer = page.get_by_role("article", name="Where 10 s went")
    expect(answer).to_be_visible()
    expect(page.get_by_role("heading", name="chatcmpl-a")).to_be_visible()
    expect(answer.locator(".tag")).to_have_text("Finished")
    expect(phase(page, "Writing").locator("b")).to_have_text("4.9 s 49%")
    expect(phase(page, "Writing").locator(".track i")).to_have_count(2)
    expect(phase(page, "Put aside").locator("b")).to_have_text("1 s 10%")
    boxes = {
        name: phase(page, name).locator(".track i").first.bounding_box() for name in ("Queue", "Writing")
    }
    assert boxes["Queue"] and boxes["Writing"]
    assert boxes["Queue"]["width"] == pytest.approx(boxes["Writing"]["width"], rel=0.02)  # 2 s each
    assert boxes["Queue"]["x"] < boxes["Writing"]["x"]
    expect(answer.locator(".events li")).to_have_count(len(told.LONG))
    expect(answer).to_contain_text("208 tokens had been evicted: 160 to make room for request chatcmpl-b")
    expect(answer).to_contain_text("another user's request")
    expect(answer.locator(".advice")).to_contain_text("With about 4,096 tokens more room")


def test_an_id_is_asked_for_by_keyboard_and_stands_in_the_address(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(f"{server.url}/explain")
    field = page.get_by_label("Id of a request")
    expect(field).to_be_focused()
    page.keyboard.type("full")
    page.keyboard.press("Enter")
    expect(page.locator(".tag")).to_have_text("Refused")
    expect(page.locator(".events")).to_contain_text("The wait was computed as 12 s.")
    assert page.url.endswith("/explain?id=full")
    field.fill("request-a")
    field.press("Enter")
    expect(page.locator(".tag")).to_have_text("Finished")
    page.go_back()
    expect(page.locator(".tag")).to_have_text("Refused")
    expect(field).to_have_value("full")


def test_a_request_that_goes_on_is_followed_to_its_end(server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/explain?id=going")
    expect(page.get_by_role("article")).to_have_count(2)
    expect(page.get_by_role("article", name="Answer 2: Where 1 s went so far")).to_be_visible()
    ended = [*told.GOING, told.Finished(1002.0, "length", 20, 1.5)]
    server.backend.timelines[2] = told.timeline(ended, ended, id="chatcmpl-going", name="going")
    expect(page.get_by_role("article", name="Answer 2: Where 2 s went")).to_be_visible()
    expect(page.locator(".tag").first).to_have_text("Finished")


def test_what_is_not_remembered_is_said(server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/explain?id=another", allow=("status of 404",))
    expect(page.get_by_role("status")).to_contain_text("No request 'another' of yours is remembered.")


def test_only_the_key_that_made_a_request_sees_it(
    make_server: Callable[..., Server], open_page: OpenPage
) -> None:
    server = make_server(api_keys={"ann": "key-of-ann", "bob": "key-of-bob"})
    server.backend.timelines = [told.timeline(told.LONG, tenant="bob")]
    page = open_page(f"{server.url}/explain?id=request-a", allow=("status of 401", "status of 404"))
    page.get_by_label("API key").fill("key-of-ann")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("status")).to_contain_text("No request 'request-a' of yours is remembered.")
    page.evaluate("sessionStorage.clear()")
    page.reload()
    page.get_by_label("API key").fill("key-of-bob")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".tag")).to_have_text("Finished")


def test_an_answer_of_the_chat_links_to_its_story(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    page.get_by_role("textbox", name="Message", exact=True).fill("Hello")
    page.keyboard.press("Enter")
    link = page.get_by_role("link", name="why?")
    expect(link).to_be_visible()
    (request,) = server.backend.requests
    server.backend.timelines.append(told.timeline(told.LONG, id=request.id, name=request.name))
    link.click()
    expect(page.get_by_role("heading", name=request.id)).to_be_visible()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(server: Server, open_page: OpenPage, size: dict[str, Any], scheme: str) -> None:
    page = open_page(f"{server.url}/explain?id=request-a", color_scheme=scheme, **size, **CALM)
    expect(page.locator(".events")).to_be_visible()
    assert axe.violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
