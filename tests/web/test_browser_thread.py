"""The thread in Chromium: versions, editing, going on, the context in use, errors in words."""

import re
from collections.abc import Callable
from typing import Any

import axe
import pytest
from chatting import PHONE, answers, ask, box, finished, last_answer, say, words
from playwright.sync_api import Page, expect
from scripted import words as tokens
from served import Server

from ridgeline.protocol import ModelInfo, Refusal
from ridgeline.web.settings import WebSettings

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


def question(page: Page, number: int) -> Any:
    return page.locator("article.question").nth(number)


def edit(page: Page, number: int) -> Any:
    """Open the editor of a message, and return its box."""
    question(page, number).hover()
    question(page, number).get_by_role("button", name="Edit message").click()
    return page.get_by_role("textbox", name="Edit message")


def versions(page: Page) -> Any:
    return page.get_by_role("group", name="Versions")


# --- Versions -------------------------------------------------------------------------------------


def test_another_answer_stands_beside_the_first(server: Server, open_page: OpenPage) -> None:
    server.backend.script = ["The first.", "The second.", "The third."]
    page = open_page(server.url)
    ask(page, "Which?")
    expect(versions(page)).to_have_count(0)
    for number in (2, 3):
        page.get_by_role("button", name="Answer again").click()
        expect(versions(page)).to_contain_text(f"{number}/{number}")
        finished(page)
    expect(last_answer(page)).to_have_text("The third.")
    assert [m.content for m in server.backend.requests[2].messages or ()] == ["Which?"]

    page.get_by_role("button", name="Previous version").click()
    expect(last_answer(page)).to_have_text("The second.")
    expect(page.locator("p[role=status]")).to_have_text("Version 2 of 3")
    page.reload()
    expect(last_answer(page)).to_have_text("The second.")
    expect(versions(page)).to_contain_text("2/3")

    server.backend.reply = "After the second."
    ask(page, "And then?")
    said = [m.content for m in server.backend.requests[-1].messages or ()]
    assert said == ["Which?", "The second.", "And then?"]


def test_a_tree_is_shown_along_one_path(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    found = page.evaluate(
        """async () => {
            const base = document.querySelector('script[type=module]').src;
            const { newestLeaf, pathTo, versionsAlong } = await import(base.replace('app.js', 'branches.js'));
            const made = (rows) => rows.map(([id, parentId], createdMs) =>
                ({ id, parentId, createdMs, role: /q|r/i.test(id) ? 'user' : 'assistant' }));
            const tree = made(
                [['q', null], ['a', 'q'], ['b', 'q'], ['r', 'a'], ['c', 'r'], ['Q', null], ['d', 'Q']]);
            const circle = made([['x', 'y'], ['y', 'x']]);
            const ids = (messages) => messages.map((message) => message.id).join('');
            return {
                chosen: ids(pathTo(tree, 'c')),
                inner: ids(pathTo(tree, 'b')),
                newest: ids(pathTo(tree, null)),
                unknown: ids(pathTo(tree, 'gone')),
                none: ids(pathTo([], 'c')),
                circle: ids(pathTo(circle, 'x')),
                versions: versionsAlong(tree, pathTo(tree, 'c')).map(ids),
                leaves: ['q', 'a', 'b', 'Q', 'gone'].map((id) => newestLeaf(tree, id)),
            };
        }"""
    )
    assert found == {
        "chosen": "qarc",
        "inner": "qb",
        "newest": "Qd",
        "unknown": "Qd",
        "none": "",
        "circle": "yx",
        "versions": ["qQ", "ab", "r", "c"],
        "leaves": ["c", "c", "b", "d", "gone"],
    }


def test_versions_are_passed_through_by_keyboard(server: Server, open_page: OpenPage) -> None:
    server.backend.script = ["The first.", "The second."]
    page = open_page(server.url)
    ask(page, "Which?")
    page.get_by_role("button", name="Answer again").press("Enter")
    expect(versions(page)).to_contain_text("2/2")
    finished(page)
    back, on = (page.get_by_role("button", name=f"{name} version") for name in ("Previous", "Next"))
    back.focus()
    page.keyboard.press("Enter")
    expect(last_answer(page)).to_have_text("The first.")
    expect(back).to_be_focused()
    expect(back).to_have_attribute("aria-disabled", "true")
    page.keyboard.press("Enter")
    expect(last_answer(page)).to_have_text("The first.")
    on.focus()
    page.keyboard.press("Space")
    expect(last_answer(page)).to_have_text("The second.")
    expect(on).to_be_focused()


def test_an_edited_message_begins_a_branch(server: Server, open_page: OpenPage) -> None:
    server.backend.script = ["One.", "Two.", "Another one."]
    page = open_page(server.url)
    ask(page, "First")
    ask(page, "Second")
    field = edit(page, 0)
    expect(field).to_be_focused()
    expect(field).to_have_value("First")
    field.fill("First, but better")
    page.get_by_role("button", name="Save & send").click()
    expect(last_answer(page)).to_have_text("Another one.")
    finished(page)
    expect(page.locator("article.question .bubble")).to_have_text(["First, but better"])
    assert [m.content for m in server.backend.requests[-1].messages or ()] == ["First, but better"]

    page.get_by_role("button", name="Previous version").click()
    expect(page.locator("article.question .bubble")).to_have_text(["First", "Second"])
    expect(page.locator("article.answer .markdown")).to_have_text(["One.", "Two."])
    page.get_by_role("button", name="Next version").click()
    expect(page.locator("article .markdown")).to_have_text(["Another one."])
    page.reload()
    expect(page.locator("article.question .bubble")).to_have_text(["First, but better"])


def test_editing_can_be_given_up_and_begins_at_the_empty_box(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    ask(page, "First")
    ask(page, "Second")
    field = edit(page, 0)
    field.fill("Something else")
    page.keyboard.press("Escape")
    expect(field).to_have_count(0)
    expect(question(page, 0)).to_contain_text("First")
    expect(question(page, 0).get_by_role("button", name="Edit message")).to_be_focused()
    edit(page, 1)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("textbox", name="Edit message")).to_have_count(0)
    box(page).focus()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("textbox", name="Edit message")).to_have_value("Second")
    page.keyboard.type("!")
    page.keyboard.press("Enter")
    expect(question(page, 1).locator(".bubble")).to_have_text("Second!")
    finished(page)
    expect(box(page)).to_be_focused()
    assert len(server.backend.requests) == 3


def test_what_was_edited_stays_in_its_box_when_it_is_refused(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url, allow=("status of 400",))
    ask(page, "Short")
    field = edit(page, 0)
    field.fill("word " * 3000)
    page.get_by_role("button", name="Save & send").click()
    expect(page.get_by_role("alert")).to_contain_text("too long for this model")
    expect(field).to_have_value("word " * 3000)


def test_a_version_of_an_earlier_message_stays_under_the_eye(server: Server, open_page: OpenPage) -> None:
    server.backend.reply = "\n\n".join(words(40) for _ in range(12))
    page = open_page(server.url)
    for text in ("First", "Second"):
        ask(page, text)
    edit(page, 0).fill("Otherwise")
    page.get_by_role("button", name="Save & send").click()
    finished(page)
    back = page.get_by_role("button", name="Previous version")
    page.locator(".scroller").evaluate("(box) => (box.scrollTop = 0)")
    before = back.bounding_box()
    back.click()
    expect(page.locator("article.question")).to_have_count(2)
    after = page.get_by_role("button", name="Next version").bounding_box()
    assert before and after and abs(before["y"] - after["y"]) < 3


def test_an_answer_that_was_cut_off_goes_on(make_server: Callable[..., Server], open_page: OpenPage) -> None:
    server = make_server(WebSettings(max_answer_tokens=3))
    server.backend.reply = words(3)
    server.backend.script = [words(9)]
    page = open_page(server.url)
    ask(page, "Count")
    expect(answers(page)).to_contain_text("reached its length limit")
    server.backend.script = ["and done."]
    page.get_by_role("button", name="Continue").click()
    expect(last_answer(page)).to_have_text(f"{words(3)} and done.")
    finished(page)
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)


# --- What the model is shown ----------------------------------------------------------------------


def test_the_meter_tells_the_context_in_use(server: Server, open_page: OpenPage) -> None:
    server.backend.infos = [ModelInfo("tiny", 1, 200, 100, 1000)]
    server.backend.script = [words(20), words(6)]
    page = open_page(server.url)
    meter = page.get_by_role("meter", name="Context in use")
    expect(meter).to_have_count(0)
    ask(page, words(10))
    expect(meter).to_have_attribute("aria-valuenow", "30")
    expect(meter).to_have_attribute("aria-valuemax", "200")
    expect(meter).to_have_attribute(
        "aria-valuetext", re.compile("^30 of the 200 tokens.*5 of them came from")
    )
    expect(meter).to_contain_text("30 of 200 tokens")
    part = meter.evaluate("(e) => e.querySelector('i').clientWidth / e.querySelector('.bar').clientWidth")
    assert 0.1 < part < 0.2
    page.get_by_role("button", name="Answer again").click()
    expect(meter).to_have_attribute("aria-valuenow", "16")
    page.get_by_role("button", name="Previous version").click()
    expect(meter).to_have_attribute("aria-valuenow", "30")


def test_messages_outside_the_window_are_told_from_the_others(server: Server, open_page: OpenPage) -> None:
    server.backend.infos = [ModelInfo("tiny", 1, 60, 100, 1000)]
    server.backend.reply = words(12)
    page = open_page(server.url)
    for turn in range(4):
        ask(page, f"Turn {turn}: {words(4)}")
    divider = page.get_by_role("note")
    number = int((divider.text_content() or "").split()[0])
    above = page.evaluate(
        """() => [...document.querySelectorAll('article')].map((row) => [
            row.classList.contains('outside'),
            Boolean(row.compareDocumentPosition(document.querySelector('[role=note]')) & 4)])"""
    )
    assert [outside for outside, _ in above] == [is_above for _, is_above in above]
    assert sum(outside for outside, _ in above) == number


# --- Streaming ------------------------------------------------------------------------------------

WATCH = """() => {
    window.touched = [];
    let before = 0; // blocks that were there before this update
    new MutationObserver((records) => {
        const body = document.querySelector('.markdown');
        for (const { target } of records) {
            const block = body ? [...body.children].findIndex((child) => child.contains(target)) : -1;
            if (block >= 0) touched.push([block, before]);
        }
        before = body?.children.length ?? 0;
    }).observe(document.querySelector('[role=log]'), { subtree: true, childList: true, characterData: true });
}"""


def test_settled_blocks_are_not_touched_again(server: Server, open_page: OpenPage) -> None:
    """Counted, not timed: however long the answer, only its last two blocks change."""
    parts = ["A $x$ in text", "- one\n- two", "```\nx = 1\ny = 2\n```", "| a | b |\n|---|---|\n| 1 | 2 |"] * 5
    server.backend.reply = "\n\n".join(parts)
    server.backend.hold_after = 0
    page = open_page(server.url)
    expect(page.get_by_role("log")).to_be_visible()
    page.evaluate(WATCH)
    say(page, "Write")
    for count in range(2, len(parts), 2):
        server.backend.hold_after = len(tokens("\n\n".join(parts[:count])))
        expect(page.locator(".markdown > *")).to_have_count(count)
        expect(page.locator(".formula .katex").first).to_be_visible()  # KaTeX comes but once
    server.backend.hold_after = None
    finished(page)
    touched = page.evaluate("() => touched")
    assert page.locator(".markdown > *").count() == len(parts)
    assert len({before for _, before in touched}) >= len(parts) // 2 - 1
    assert [entry for entry in touched if entry[0] < entry[1] - 2] == []


def test_code_is_coloured_once_when_its_fence_closes(server: Server, open_page: OpenPage) -> None:
    server.backend.hold_after = 5
    server.backend.reply = "Look:\n\n```python\ndef f(): pass\n```\n\n" + words(60)
    page = open_page(server.url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.partition("/vendor/")[2]))
    say(page, "Code")
    expect(page.locator("figure.code code")).to_contain_text("def f():")
    assert [path for path in asked if "highlight" in path] == []
    page.evaluate(
        """() => {
            window.builds = 0;
            new MutationObserver((records) => records.forEach(({ addedNodes }) =>
                addedNodes.forEach((node) => (builds += node.className === 'hljs-keyword'))))
                .observe(document.querySelector('figure.code code'), { subtree: true, childList: true });
        }"""
    )
    server.backend.delay_seconds = 0.005
    server.backend.hold_after = None
    expect(last_answer(page)).to_contain_text("word59")
    finished(page)
    expect(page.locator("figure.code .hljs-keyword").first).to_have_text("def")
    expect(page.locator("figure.code code")).to_have_text("def f(): pass")
    assert page.evaluate("() => builds") == page.locator("figure.code .hljs-keyword").count()
    assert sorted(path for path in asked if "highlight" in path) == [
        "highlight/core.js",
        "highlight/python.js",
    ]


def test_formulas_are_typeset_when_the_first_one_is_there(server: Server, open_page: OpenPage) -> None:
    server.backend.script = [
        "No formula: $5 and $6, $HOME/$PATH, US$5 or US$6, `$x$`.",
        "Here $\\pmb{x}^2$, \\(a_1\\) and $\\left( \\frac{1}{2} \\right)$:\n\n"
        "\\[ \\fcolorbox{red}{aqua}{$x$} \\]\n\n"
        "$$\n\\left\\{ \\begin{array}{l} 1 \\\\ 2 \\\\ 3 \\\\ 4 \\\\ 5 \\end{array} \\right.\n- 1\n$$\n\n"
        "Wrong: $\\frac{1$ and $\\nothing$, forbidden: $\\href{javascript:alert(1)}{x}$, $\\def\\x{y}\\x$.",
    ]
    page = open_page(server.url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ask(page, "Prices")
    expect(last_answer(page)).to_have_text("No formula: $5 and $6, $HOME/$PATH, US$5 or US$6, $x$.")
    assert not any("katex" in url for url in asked)
    ask(page, "Formulas")
    shown = last_answer(page)
    expect(shown.locator(".formula .katex-html")).to_have_count(6)
    expect(shown.locator(".formula math")).to_have_count(6)
    assert any(url.endswith(".woff2") for url in asked)
    expect(shown.locator(".unreadable")).to_have_text(["$\\frac{1$", "$\\nothing$", "$\\def\\x{y}\\x$"])
    assert shown.locator("[data-css], a").count() == 0
    # Some styles come as attributes, which the page's policy forbids: they must be there all the same.
    assert "solid" in (shown.locator("math [style*=border]").first.get_attribute("style") or "")


def test_every_language_of_the_wrapper_is_there(server: Server, open_page: OpenPage) -> None:
    from ridgeline.web import vendor

    page = open_page(server.url)
    missing = page.evaluate(
        """async (names) => {
            const base = document.querySelector('script[type=module]').src;
            const { highlighted } = await import(base.replace('app.js', 'highlight.js'));
            const missing = [];
            for (const name of names) if (!(await highlighted(name, 'x = 1'))) missing.push(name);
            return missing;
        }""",
        [*vendor.LANGUAGES, "py", "C++", "html", "tsx"],
    )
    assert missing == []


def test_screen_readers_get_a_short_note_now_and_then(server: Server, open_page: OpenPage) -> None:
    server.backend.reply, server.backend.hold_after = words(6), 3
    page = open_page(server.url)
    page.clock.install()
    page.reload()
    line = page.locator("p[role=status]")
    say(page, "Count")
    expect(last_answer(page)).to_have_text("word0 word1 word2")
    expect(line).to_have_text("Answering")
    page.clock.fast_forward(7100)
    expect(line).to_have_text("Still answering, 3 words so far")
    server.backend.hold_after = None
    expect(line).to_have_text("Answer complete")


def test_drafts_are_kept_per_conversation(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    ask(page, "First")
    box(page).fill("more on the first")
    page.get_by_role("button", name="New chat").click()
    expect(box(page)).to_have_value("")
    box(page).fill("something new")
    page.get_by_role("link", name="First").click()
    expect(box(page)).to_have_value("more on the first")
    page.reload()
    expect(box(page)).to_have_value("more on the first")
    page.get_by_role("button", name="New chat").click()
    expect(box(page)).to_have_value("something new")


# --- Errors ---------------------------------------------------------------------------------------


def test_waiting_for_capacity_goes_on_elsewhere_and_after_loading_again(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(server.url)
    ask(page, "First")
    server.backend.script = [Refusal("at_capacity", "All full.", retry_after_seconds=1.0), "Your turn."]
    page.get_by_role("button", name="New chat").click()
    say(page, "Second")
    expect(page.get_by_role("alert")).to_contain_text("We are at capacity")
    page.get_by_role("link", name="First").click()
    expect(last_answer(page)).to_have_text("Yes, of course.")
    page.get_by_role("link", name="Second").click()
    expect(last_answer(page)).to_have_text("Your turn.")

    server.backend.script = [Refusal("at_capacity", "All full.", retry_after_seconds=60.0), "And again."]
    say(page, "Third")
    expect(page.get_by_role("alert")).to_contain_text("Trying again in")
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("Trying again in")
    expect(last_answer(page)).to_have_text("And again.", timeout=9000)


REFUSALS = {
    "at_capacity": ("We are at capacity", "Your message is kept", "Try now"),
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


# --- Sizes, colours, aids -------------------------------------------------------------------------

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
