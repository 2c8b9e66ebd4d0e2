"""Who is signed in, for how long, in which tabs; and that the key stays where it belongs."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from chatting import PHONE, answers, ask, box, finished, from_menu
from looks import WIDE, open_list, say
from playwright.sync_api import Page, expect
from served import Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
KEY = "key-of-ann"
REFUSED = ("status of 401",)


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server(api_keys={"ann": KEY, "bob": "key-of-bob"})


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def size(request: pytest.FixtureRequest) -> dict[str, Any]:
    shape: dict[str, Any] = request.param
    return shape


def sign_in(page: Page, key: str = KEY, *, stay: bool = False) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_label("Stay signed in on this device").set_checked(stay)
    page.get_by_role("button", name="Continue").click()


def at_the_gate(page: Page) -> None:
    expect(page.get_by_label("API key")).to_be_visible()
    expect(box(page)).to_have_count(0)


def test_staying_signed_in_holds_for_all_tabs_until_signing_out(
    server: Server, open_page: OpenPage, size: dict[str, Any]
) -> None:
    page = open_page(server.url, allow=REFUSED, **size)
    waiting = page.context.new_page()
    waiting.goto(server.url)
    at_the_gate(waiting)
    sign_in(page, "wrong", stay=True)
    expect(page.get_by_role("alert")).to_contain_text("not one of this server’s keys")
    assert page.evaluate("() => localStorage.getItem('ridgeline.key')") is None
    sign_in(page, stay=True)
    say(page, "A secret")
    expect(answers(page)).to_have_count(1)
    finished(page)
    expect(box(waiting)).to_be_visible()  # it was at the gate, and need not ask any more
    later = page.context.new_page()
    later.goto(page.url)
    expect(later.locator(".bubble")).to_have_text("A secret")
    box(later).fill("A draft")
    open_list(page)
    page.get_by_role("button", name="Menu", exact=True).click()
    expect(page.get_by_role("menuitem", name="Sign out")).to_contain_text("Signed in as ann")
    page.get_by_role("menuitem", name="Sign out").click()
    for tab in (page, waiting, later):
        at_the_gate(tab)
        expect(tab).to_have_url(f"{server.url}/")
        expect(tab.get_by_text("A secret")).to_have_count(0)
        kept = tab.evaluate("() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }])")
        assert KEY not in kept and "draft" not in json.loads(kept)[1]
    page.go_back()
    expect(page.get_by_text("A secret")).to_have_count(0)


def test_without_that_the_key_is_the_tabs_own(
    server: Server, open_page: OpenPage, size: dict[str, Any]
) -> None:
    page = open_page(server.url, allow=REFUSED, **size)
    sign_in(page)
    expect(box(page)).to_be_visible()
    page.reload()
    expect(box(page)).to_be_visible()
    other = page.context.new_page()
    other.goto(server.url)
    at_the_gate(other)
    sign_in(other, "key-of-bob")
    expect(box(other)).to_be_visible()
    open_list(page)
    from_menu(page, "Sign out")
    at_the_gate(page)
    other.reload()
    expect(box(other)).to_be_visible()


def test_the_key_is_sent_in_its_header_alone(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url, allow=REFUSED)
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("request", lambda request: told.extend((request.url, request.post_data or "")))
    page.on("framenavigated", lambda frame: told.append(frame.url))
    sign_in(page, stay=True)
    ask(page, "Hello")
    page.reload()
    expect(box(page)).to_be_visible()
    assert len(told) > 5 and not any(KEY in line for line in told)
    assert KEY not in page.content() and KEY not in json.dumps(page.evaluate("() => history.state"))
    assert page.context.cookies() == []


def test_without_keys_there_is_nobody_to_sign_out(
    make_server: Callable[..., Server], open_page: OpenPage
) -> None:
    page = open_page(make_server().url)
    page.get_by_role("button", name="Menu", exact=True).click()
    expect(page.get_by_role("menuitem", name="Your data")).to_be_visible()
    expect(page.get_by_role("menuitem", name="Sign out")).to_have_count(0)
