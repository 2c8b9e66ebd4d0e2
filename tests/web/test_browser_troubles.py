"""Errors in words, and the thread at every size and colour, in Chromium."""

from collections.abc import Callable
from typing import Any

import axe
import pytest
from chatting import PHONE, ask, box, edit, finished, last_answer, question, say, with_clock
from playwright.sync_api import Page, expect
from served import Server

from ridgeline.protocol import Refusal

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


def test_waiting_for_capacity_goes_on_elsewhere_and_after_loading_again(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(server.url)
    with_clock(page)
    ask(page, "First")
    server.backend.script = [Refusal("at_capacity", "All full.", retry_after_seconds=30.0), "Your turn."]
    page.get_by_role("button", name="New chat").click()
    say(page, "Second")
    expect(page.get_by_role("alert")).to_contain_text("We are at capacity")
    page.get_by_role("link", name="First").click()
    expect(last_answer(page)).to_have_text("Yes, of course.")
    page.clock.fast_forward(40_000)
    page.get_by_role("link", name="Second").click()
    expect(last_answer(page)).to_have_text("Your turn.")
    finished(page)

    server.backend.script = [Refusal("at_capacity", "All full.", retry_after_seconds=60.0), "And again."]
    say(page, "Third")
    expect(page.get_by_role("alert")).to_contain_text("Trying again in")
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("Trying again in")
    page.clock.fast_forward(10_000)  # what the server had said is not known any more
    expect(last_answer(page)).to_have_text("And again.")


REFUSALS = {
    "at_capacity": ("We are at capacity", "Your message is kept", "Try now"),
    "limit_reached": ("There is no room for more", "as it was said", "Try again"),
    "rate_limited": ("One thing at a time", "as it was said", "Try again"),
    "context_length_exceeded": ("too long for this model", "as it was said", "Try again"),
    "no_replica": ("No model is ready", "Your message is kept", "Try again"),
    "shutting_down": ("The server is restarting", "Try again in a moment", "Try again"),
    "internal_error": ("Something went wrong at the server", "tell whoever runs this server", "Try again"),
    "model_not_found": ("This model is no longer served", "Pick another model", "Try again"),
}


@pytest.mark.parametrize("code", REFUSALS)
def test_each_refusal_has_its_own_words(server: Server, open_page: OpenPage, code: Any) -> None:
    title, advice, button = REFUSALS[code]
    server.backend.script = [Refusal(code, "This is as it was said.", retry_after_seconds=30.0)]
    page = open_page(server.url)
    say(page, "Please")
    card = page.get_by_role("alert")
    expect(card.locator("strong")).to_contain_text(title)
    expect(card).to_contain_text(advice)
    card.get_by_role("button", name=button).click()
    expect(last_answer(page)).to_have_text("Yes, of course.")
    assert len({title for title, _, _ in REFUSALS.values()}) == len(REFUSALS)


def test_without_a_model_the_page_says_so(server: Server, open_page: OpenPage) -> None:
    server.backend.infos = []
    page = open_page(server.url)
    box(page).fill("Hello?")
    expect(page.locator("#below-box")).to_contain_text("no model to chat with")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    box(page).press("Enter")
    expect(box(page)).to_have_value("Hello?")


RICH = """The **area** is $x^2$, see [there](https://example.org/).

```python
def f(x: int) -> str:
    # A comment.
    return "text" + str(42)
```

| a | b |
|---|--:|
| 1 | 2 |

> quoted

$$\\int_0^1 x\\,dx$$
"""
LOOKS = {
    "desktop light": {},
    "desktop dark": {"color_scheme": "dark"},
    "phone light": PHONE,
    "phone dark": PHONE | {"color_scheme": "dark"},
    "zoom 200 %": {"viewport": {"width": 640, "height": 400}, "device_scale_factor": 2},
    "reduced motion": {"reduced_motion": "reduce"},
}


@pytest.mark.parametrize("look", LOOKS)
def test_nothing_stands_in_the_way(server: Server, open_page: OpenPage, look: str) -> None:
    server.backend.script = [RICH, RICH, Refusal("no_replica", "Nobody.")]
    page = open_page(server.url, **LOOKS[look])
    for number in range(2):
        box(page).fill("A longer question that asks for a formula, some code and a table")
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.locator(".formula .katex")).to_have_count(2 * number + 2)
        finished(page)
    expect(page.locator(".hljs-keyword").last).to_be_visible()
    page.get_by_role("button", name="Answer again").last.click()
    expect(page.get_by_role("alert")).to_be_visible()
    edit(page, 0)
    assert axe.violations(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_on_a_phone_enter_is_a_new_line_and_sending_shows_the_answer(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(server.url, **PHONE)
    box(page).tap()
    page.keyboard.type("one")
    page.keyboard.press("Enter")
    page.keyboard.type("two")
    expect(box(page)).to_have_value("one\ntwo")
    page.get_by_role("button", name="Send", exact=True).tap()
    expect(last_answer(page)).to_have_text("Yes, of course.")
    expect(box(page)).not_to_be_focused()
    # What waits for the pointer elsewhere is always there for a finger.
    expect(question(page, 0).get_by_role("button", name="Edit message")).to_have_css("opacity", "1")
    assert question(page, 0).locator(".tools").evaluate("(e) => getComputedStyle(e).opacity") == "1"
