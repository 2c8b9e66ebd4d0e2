"""The page in Chromium, against a backend that says what it is told to."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from chatting import in_clipboard, with_clock
from playwright.sync_api import Page, expect
from served import Server

from ridgeline.protocol import ModelInfo, Refusal
from ridgeline.web.settings import WebSettings

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LOST = (
    "ERR_CONNECTION_REFUSED",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",
    "ERR_CONNECTION_RESET",
    "ERR_EMPTY_RESPONSE",
)


def box(page: Page) -> Any:
    return page.get_by_role("textbox", name="Message")


def say(page: Page, text: str) -> None:
    box(page).fill(text)
    box(page).press("Enter")


def answers(page: Page) -> Any:
    return page.locator("article.answer")


def last_answer(page: Page) -> Any:
    return answers(page).last.locator(".markdown")


def finished(page: Page) -> None:
    expect(answers(page).last.locator("footer")).to_be_visible()
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def words(count: int) -> str:
    return " ".join(f"word{n}" for n in range(count))


def paragraphs(count: int) -> str:
    return "\n\n".join(f"Paragraph {n}. " + "Some words to fill it. " * 6 for n in range(count))


def test_two_turns_and_reload(server: Server, open_page: OpenPage) -> None:
    server.backend.script = ["It is **42**.", "Because I counted."]
    page = open_page(server.url)
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    say(page, "How many?")
    expect(last_answer(page)).to_have_text("It is 42.")
    expect(last_answer(page).locator("strong")).to_have_text("42")
    expect(page.locator("article.answer footer")).to_contain_text("3 tokens")
    expect(page.locator("article.answer footer")).to_contain_text("prompt tokens from cache")
    expect(box(page)).to_have_value("")
    say(page, "Why?")
    expect(last_answer(page)).to_have_text("Because I counted.")
    assert [m.content for m in server.backend.requests[1].messages or ()] == [
        "How many?",
        "It is **42**.",
        "Why?",
    ]
    assert re.search(r"/c/[0-9a-f]{32}$", page.url)
    expect(page).to_have_title("How many? · Ridgeline")
    page.reload()
    expect(page.locator("article")).to_have_text(
        [re.compile(part) for part in ("How many", "42", "Why", "Because")]
    )
    expect(page.get_by_role("link", name="How many?")).to_have_attribute("aria-current", "page")


def test_text_streams_in_and_stop_keeps_it(server: Server, open_page: OpenPage) -> None:
    server.backend.reply, server.backend.hold_after = "one two three four", 2
    page = open_page(server.url)
    say(page, "Count")
    expect(last_answer(page)).to_have_text("one two")
    expect(page.get_by_role("status").filter(has_text="Answering")).to_be_attached()
    page.get_by_role("button", name="Stop").click()
    finished(page)
    assert server.backend.running == set()
    expect(answers(page)).to_contain_text("one two")
    expect(answers(page)).to_contain_text("Stopped")
    expect(box(page)).to_be_focused()
    page.reload()
    expect(answers(page)).to_contain_text("one two")
    server.backend.hold_after, server.backend.reply = None, "and more."
    page.get_by_role("button", name="Continue").click()
    expect(last_answer(page)).to_have_text("one two and more.")
    finished(page)


def test_reload_in_the_middle_goes_on(server: Server, open_page: OpenPage) -> None:
    server.backend.reply, server.backend.hold_after = words(6), 3
    page = open_page(server.url)
    say(page, "Count")
    expect(last_answer(page)).to_have_text("word0 word1 word2")
    page.reload()
    expect(last_answer(page)).to_have_text("word0 word1 word2")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    server.backend.hold_after = None
    expect(last_answer(page)).to_have_text(words(6))
    finished(page)
    assert len(server.backend.requests) == 1


def test_a_second_tab_sees_the_same_answer(server: Server, open_page: OpenPage) -> None:
    server.backend.reply, server.backend.hold_after = words(6), 3
    first = open_page(server.url)
    say(first, "Count")
    expect(last_answer(first)).to_have_text("word0 word1 word2")
    second = open_page(first.url)
    expect(last_answer(second)).to_have_text("word0 word1 word2")
    server.backend.hold_after = None
    for page in (first, second):
        expect(last_answer(page)).to_have_text(words(6))


def test_an_answer_goes_on_while_another_conversation_is_read(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    say(page, "First")
    finished(page)
    server.backend.reply, server.backend.hold_after = words(6), 3
    page.get_by_role("button", name="New chat").click()
    say(page, "Second")
    expect(last_answer(page)).to_have_text("word0 word1 word2")
    page.get_by_role("link", name="First").click()
    expect(last_answer(page)).to_have_text("Yes, of course.")
    expect(page.get_by_role("link", name="Second An answer is being written")).to_be_visible()
    server.backend.hold_after = None
    expect(page.get_by_role("link", name="Second", exact=True)).to_be_visible()
    page.go_back()
    expect(last_answer(page)).to_have_text(words(6))


def test_a_server_that_goes_away_and_comes_back(server: Server, open_page: OpenPage) -> None:
    server.backend.reply, server.backend.hold_after = words(6), 3
    page = open_page(server.url, allow=LOST)
    say(page, "Count")
    expect(last_answer(page)).to_have_text("word0 word1 word2")
    server.stop()
    expect(answers(page)).to_contain_text("The connection is lost")
    expect(last_answer(page)).to_have_text("word0 word1 word2")
    server.backend.hold_after, server.backend.reply = None, "and the rest."
    server.start()
    expect(last_answer(page)).to_have_text("word0 word1 word2 and the rest.")
    finished(page)


def test_what_cannot_be_sent_stays_in_the_box(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url, allow=LOST)
    expect(box(page)).to_be_visible()  # what the page itself needs has arrived
    server.stop()
    say(page, "Are you there?")
    expect(page.get_by_role("alert").filter(has_text="The server does not answer")).to_be_visible()
    expect(box(page)).to_have_value("Are you there?")
    server.start()
    box(page).press("Enter")
    expect(last_answer(page)).to_have_text("Yes, of course.")
    expect(box(page)).to_have_value("")


def test_at_capacity_is_said_with_the_wait_and_tried_again(server: Server, open_page: OpenPage) -> None:
    full = Refusal("at_capacity", "All full.", retry_after_seconds=30.0)
    server.backend.script = [full, "Now it is your turn."]
    page = open_page(server.url)
    with_clock(page)
    say(page, "Please")
    card = page.get_by_role("alert")
    expect(card).to_contain_text("We are at capacity")
    expect(card).to_contain_text(re.compile(r"Trying again in [23]\d s"))
    expect(page.locator("article.question")).to_have_text("Please")
    page.clock.fast_forward(40_000)
    expect(last_answer(page)).to_have_text("Now it is your turn.")
    expect(page.locator("article.question")).to_have_count(1)


def test_the_wait_can_be_declined_and_taken_up_by_hand(server: Server, open_page: OpenPage) -> None:
    server.backend.script = [Refusal("at_capacity", "All full.", retry_after_seconds=60.0)]
    page = open_page(server.url)
    say(page, "Please")
    page.get_by_role("button", name="Don’t wait").click()
    expect(page.get_by_text("Trying again in")).to_have_count(0)
    page.get_by_role("button", name="Try again").click()
    expect(last_answer(page)).to_have_text("Yes, of course.")


@pytest.mark.parametrize(
    ("settings", "message", "says"),
    [
        (WebSettings(), "word " * 3000, "too long for this model"),
        (WebSettings(max_conversations=0), "Hello", "There is no room for more"),
    ],
    ids=["too long for the context", "limit"],
)
def test_what_was_refused_stays_in_the_box(
    make_server: Callable[..., Server], open_page: OpenPage, settings: WebSettings, message: str, says: str
) -> None:
    server = make_server(settings)
    page = open_page(server.url, allow=("status of 400", "status of 409"))
    say(page, message)
    expect(page.get_by_role("alert")).to_contain_text(says)
    expect(page.get_by_role("button", name="Try again")).to_have_count(0 if "model" in says else 1)
    expect(box(page)).to_have_value(message)
    page.reload()
    expect(box(page)).to_have_value(message)


def test_too_many_characters_are_counted_before_sending(
    make_server: Callable[..., Server], open_page: OpenPage
) -> None:
    page = open_page(make_server(WebSettings(max_message_characters=20)).url)
    box(page).fill("x" * 21)
    expect(page.get_by_text("21 of at most 20 characters")).to_be_visible()
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()


def test_a_failure_keeps_what_was_written(server: Server, open_page: OpenPage) -> None:
    server.backend.script = [RuntimeError("broken"), "and now it works."]
    page = open_page(server.url)
    say(page, "Try")
    expect(page.get_by_role("alert")).to_contain_text("Something went wrong at the server")
    expect(last_answer(page)).to_have_text("Well,")
    page.get_by_role("button", name="Continue").click()
    expect(last_answer(page)).to_have_text("Well, and now it works.")


def test_keyboard_only(server: Server, open_page: OpenPage) -> None:
    server.backend.reply, server.backend.hold_after = words(6), 2
    page = open_page(server.url)
    expect(box(page)).to_be_focused()
    page.keyboard.type("line one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("line two")
    expect(box(page)).to_have_value("line one\nline two")
    page.keyboard.press("Enter")
    expect(page.locator("article.question")).to_have_text("line one\nline two")
    expect(last_answer(page)).to_have_text("word0 word1")
    page.keyboard.press("Escape")
    finished(page)
    expect(box(page)).to_be_focused()
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => document.activeElement.ariaLabel
                    || [...document.activeElement.childNodes]
                        .filter((node) => !node.ariaHidden).map((node) => node.textContent).join('').trim()"""
            )
        )
        if page.evaluate("() => document.activeElement.matches(':focus-visible')"):
            outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid" or page.evaluate("() => document.activeElement.id") == "message"
    for name in (
        "Skip to the message box",
        "New chat",
        "line one line two",
        "Options for “line one line two”",
    ):
        assert name in reached, reached
    page.get_by_role("link", name="line one line two").focus()
    for key in ("Tab", "Enter", "End", "Enter"):
        page.keyboard.press(key)
    expect(page.get_by_role("link", name="line one line two")).to_have_count(0)


def test_enter_of_a_composition_does_not_send(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    box(page).fill("にほん")
    page.evaluate(
        """() => document.getElementById('message').dispatchEvent(
            new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))"""
    )
    expect(box(page)).to_have_value("にほん")
    assert server.backend.requests == []
    box(page).press("Enter")
    expect(last_answer(page)).to_have_text("Yes, of course.")


def test_delete_and_undo(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    say(page, "Remember me")
    finished(page)
    page.get_by_role("link", name="Remember me").hover()
    page.get_by_role("button", name="Options for “Remember me”").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(page.get_by_role("link", name="Remember me")).to_have_count(0)
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("link", name="Remember me").click()
    expect(last_answer(page)).to_have_text("Yes, of course.")


def test_an_address_without_conversation(server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/c/{'0' * 32}", allow=("status of 404",))
    expect(page.get_by_role("heading", name="This conversation is not here")).to_be_visible()


# Where the thread is scrolled to, once it no longer moves.
AT_REST = """async () => {
    const box = document.querySelector('.scroller');
    for (let before = null, still = 0; still < 5; before = box.scrollTop) {
        await new Promise((drawn) => requestAnimationFrame(drawn));
        still = box.scrollTop === before ? still + 1 : 0;
    }
    return box.scrollTop;
}"""


def test_scrolling_sticks_to_the_end_until_the_reader_scrolls_up(server: Server, open_page: OpenPage) -> None:
    server.backend.reply, server.backend.hold_after = paragraphs(60), 800
    page = open_page(server.url)
    say(page, "Tell me more")
    expect(last_answer(page)).to_contain_text("Paragraph 20")
    at_end = """() => {
        const box = document.querySelector('.scroller');
        return box.scrollHeight - box.clientHeight - box.scrollTop < 5;
    }"""
    page.wait_for_function(at_end)
    page.mouse.move(700, 300)
    page.mouse.wheel(0, -600)
    jump = page.get_by_role("button", name="Jump to latest")
    expect(jump).to_be_visible()
    top = page.evaluate(AT_REST)
    server.backend.hold_after = None
    expect(last_answer(page)).to_contain_text("Paragraph 59")
    finished(page)
    assert abs(page.evaluate("() => document.querySelector('.scroller').scrollTop") - top) < 5
    jump.click()
    page.wait_for_function(at_end)
    expect(jump).to_have_count(0)


def test_earlier_messages_leave_the_memory_visibly(
    make_server: Callable[..., Server], open_page: OpenPage
) -> None:
    server = make_server()
    server.backend.infos = [ModelInfo("tiny", 1, 60, 100, 1000)]
    server.backend.reply = words(12)
    page = open_page(server.url)
    for turn in range(4):
        say(page, f"Turn {turn}: {words(4)}")
        expect(answers(page)).to_have_count(turn + 1)
        finished(page)
    expect(page.get_by_role("note")).to_have_text(
        re.compile(r"^\d earlier messages are outside the model’s memory$")
    )
    shown = [m.content for m in server.backend.requests[-1].messages or ()]
    assert not any("Turn 0" in content for content in shown) and "Turn 3" in shown[-1]


def test_a_model_can_be_picked(server: Server, open_page: OpenPage) -> None:
    server.backend.infos.append(ModelInfo("large", 1, 4000, 100, 10**9))
    page = open_page(server.url)
    page.get_by_role("button", name="Model: tiny").click()
    expect(page.get_by_role("menuitemradio", name="tiny")).to_be_focused()
    expect(page.get_by_role("menuitemradio", name="large")).to_contain_text(
        "1B parameters · 4,000 tokens of context"
    )
    page.get_by_role("menuitemradio", name="large").click()
    say(page, "Hello")
    finished(page)
    assert server.backend.requests[0].model == "large"
    page.reload()
    expect(page.get_by_role("button", name="Model: large")).to_be_visible()


def test_signing_in_with_a_key(make_server: Callable[..., Server], open_page: OpenPage) -> None:
    server = make_server(api_keys={"ann": "right-key"})
    page = open_page(server.url, allow=("status of 401",))
    field = page.get_by_label("API key")
    field.fill("wrong-key")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not one of this server’s keys")
    expect(field).to_have_value("wrong-key")
    field.fill("right-key")
    field.press("Enter")
    say(page, "Hello")
    expect(last_answer(page)).to_have_text("Yes, of course.")
    page.reload()
    expect(last_answer(page)).to_have_text("Yes, of course.")


def test_on_a_phone(server: Server, open_page: OpenPage) -> None:
    server.backend.reply = (
        "A wide line of code:\n\n```\n" + "x = 1; " * 40 + "\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    )
    page = open_page(server.url, **PHONE)
    wide = "() => document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(wide)
    box(page).fill("Hello")
    page.get_by_role("button", name="Send", exact=True).tap()
    expect(last_answer(page).locator("table")).to_be_visible()
    assert page.evaluate(wide)
    link = page.get_by_role("link", name="Hello")
    expect(link).not_to_be_in_viewport()
    page.get_by_role("button", name="Show conversations").tap()
    expect(link).to_be_in_viewport()
    expect(page.get_by_role("navigation").get_by_role("button").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(link).not_to_be_in_viewport()
    page.get_by_role("button", name="Show conversations").tap()
    page.get_by_role("button", name="New chat").tap()
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    expect(link).not_to_be_in_viewport()
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, a:not(.skip)')]
            .filter((e) => e.checkVisibility() && !e.closest('[inert]'))
            .map((e) => e.getBoundingClientRect())
            .filter((r) => r.width < 24 || r.height < 24)"""
    )
    assert small == []


def test_dark_and_light_follow_the_system(server: Server, open_page: OpenPage) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        page = open_page(server.url, color_scheme=scheme)
        style = "getComputedStyle(document.documentElement)"
        ground, ink = page.evaluate(f"() => [{style}.backgroundColor, {style}.color]")
        shades[scheme] = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink)]
    assert shades["light"][0] > 700 > shades["light"][1]
    assert shades["dark"][0] < 150 < shades["dark"][1]


def test_screen_readers_hear_one_line_and_not_every_token(server: Server, open_page: OpenPage) -> None:
    server.backend.reply, server.backend.hold_after = words(6), 3
    page = open_page(server.url)
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")
    line = page.locator("p[role=status]")
    say(page, "Count")
    expect(line).to_have_text("Answering")
    server.backend.hold_after = None
    expect(line).to_have_text("Answer complete")
    for role in ("main", "navigation", "banner"):
        expect(page.get_by_role(role)).to_have_count(1)
    expect(page.locator("h1")).to_have_count(1)


def test_copying(server: Server, open_page: OpenPage) -> None:
    server.backend.reply = "Here:\n\n```python\nprint('hi')\nprint('ho')\n```\n\n**Done**."
    page = open_page(server.url, permissions=["clipboard-read", "clipboard-write"])
    say(page, "Code")
    finished(page)
    page.get_by_role("button", name="Copy code").click()
    in_clipboard(page, "print('hi')\nprint('ho')")
    page.get_by_role("button", name="Copy answer").click()
    in_clipboard(page, server.backend.reply)
