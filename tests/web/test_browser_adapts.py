"""The page as people need it: zoomed in, in the system's colours, without motion, as an app."""

from collections.abc import Callable
from typing import Any

import axe
import pytest
from chatting import PHONE, box, finished, from_menu
from looks import CALM, RICH, WIDE, close_list, open_list, say
from playwright.sync_api import Page, expect
from served import Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


@pytest.mark.parametrize(("width", "height"), [(640, 400), (320, 256)], ids=["200 %", "400 %"])
def test_zoomed_in(server: Server, open_page: OpenPage, width: int, height: int) -> None:
    server.backend.reply = RICH
    page = open_page(server.url, viewport={"width": width, "height": height})
    fits = "() => document.documentElement.scrollWidth <= innerWidth"
    expect(box(page)).to_be_in_viewport(ratio=1)
    assert page.evaluate(fits)
    say(page, "Show me everything")
    finished(page)
    assert page.evaluate(fits)
    expect(box(page)).to_be_in_viewport(ratio=1)
    open_list(page)
    expect(page.get_by_role("button", name="Options for “Show me everything”")).to_be_visible()
    close_list(page)
    for keys, last in (("Control+Shift+Comma", "Save"), ("Control+/", "Close"), ("Control+k", "Close")):
        page.keyboard.press(keys)
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name=last).scroll_into_view_if_needed()
        expect(dialog.get_by_role("button", name=last)).to_be_in_viewport(ratio=1)
        assert page.evaluate(fits)
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)


def test_colours_of_the_system(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url, forced_colors="active")
    say(page, "Hello")
    finished(page)
    outline = "(element) => getComputedStyle(element).outlineStyle"
    assert page.locator("#conversations li.current").evaluate(outline) == "solid"
    page.get_by_role("button", name="Model: tiny").click()
    assert page.get_by_role("menuitemradio").evaluate(outline) == "solid"
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    assert page.get_by_role("option").first.evaluate(outline) == "solid"
    assert axe.violations(page) == []


def test_nothing_moves_for_those_who_want_it_so(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url, **CALM)
    say(page, "Hello")
    finished(page)
    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog")).to_be_visible()
    moving = """() => document.getAnimations()
        .filter((animation) => animation.effect.getComputedTiming().duration > 1).length"""
    assert page.evaluate(moving) == 0


def test_it_can_be_installed(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    expect(box(page)).to_be_visible()
    session = page.context.new_cdp_session(page)
    manifest = session.send("Page.getAppManifest")
    assert manifest["url"] == f"{server.url}/manifest.webmanifest"
    assert manifest["errors"] == []
    problems = {
        error["errorId"] for error in session.send("Page.getInstallabilityErrors")["installabilityErrors"]
    }
    # Windows without a profile cannot install anything; nothing else may be wrong.
    assert problems <= {"in-incognito"}


GROUND = "() => getComputedStyle(document.documentElement).backgroundColor"
BARS = """() => [...document.querySelectorAll('meta[name=theme-color]')]
    .filter((meta) => matchMedia(meta.media).matches).map((meta) => meta.content)"""
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(23, 29, 31)"


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_light_and_dark_can_be_chosen(server: Server, open_page: OpenPage, size: dict[str, Any]) -> None:
    page = open_page(server.url, color_scheme="light", **size)
    assert (page.evaluate(GROUND), page.evaluate(BARS)) == (LIGHT, ["#f4f5f2"])
    open_list(page)
    from_menu(page, "Dark colours", "menuitemradio")
    expect(page.locator("html")).to_have_css("background-color", DARK)
    assert page.evaluate(BARS) == ["#14191b"]
    assert axe.violations(page) == []
    other = page.context.new_page()
    other.goto(server.url)
    expect(other.locator("html")).to_have_css("background-color", DARK)
    expect(box(other)).to_be_visible()
    open_list(other)
    from_menu(other, "Colours of the system", "menuitemradio")
    expect(page.locator("html")).to_have_css("background-color", LIGHT)
    page.emulate_media(color_scheme="dark")
    expect(page.locator("html")).to_have_css("background-color", DARK)
    page.get_by_role("button", name="Menu", exact=True).click()
    expect(page.get_by_role("menuitemradio", checked=True)).to_have_text("Colours of the system")
    page.get_by_role("menuitemradio", name="Light colours").click()
    expect(page.locator("html")).to_have_css("background-color", LIGHT)
    assert page.evaluate(BARS) == ["#f4f5f2"]


def test_the_chosen_colours_are_there_before_anything_is_drawn(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url, color_scheme="light")
    from_menu(page, "Dark colours", "menuitemradio")
    page.route("**/app.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    page.reload()
    assert page.evaluate(GROUND) == DARK
    page.evaluate("() => localStorage.setItem('ridgeline.appearance', 'nonsense')")
    page.unroute("**/app.js")
    page.reload()
    expect(box(page)).to_be_visible()
    assert page.evaluate(GROUND) == LIGHT
