"""An answer as it grows in Chromium: what is rendered again, what is loaded when, what is heard."""

from collections.abc import Callable
from typing import Any

import pytest
from chatting import PHONE, answers, ask, box, finished, last_answer, say, words
from looks import WIDE
from looks import say as send
from playwright.sync_api import Page, Route, expect
from scripted import words as tokens
from served import Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


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
    page.wait_for_function("() => [...document.fonts].some((font) => font.status === 'loaded')")
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


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_way_to_the_end_covers_nothing(server: Server, open_page: OpenPage, size: dict[str, Any]) -> None:
    server.backend.reply = "\n\n".join(f"Paragraph {n}. {words(30)}" for n in range(30))
    page = open_page(server.url, **size)
    send(page, "Tell me more")
    finished(page)
    scroller, jump = page.locator(".scroller"), page.get_by_role("button", name="Jump to latest")
    expect(jump).to_have_count(0)
    scroller.evaluate("(box) => box.scrollTo(0, 300)")
    expect(jump).to_be_in_viewport(ratio=1)
    assert scroller.evaluate("(box) => box.scrollTop") == 300, "nothing that is read moves"
    text, button = scroller.bounding_box(), jump.bounding_box()
    assert text and button and text["y"] + text["height"] <= button["y"]
    composer = page.locator(".composer").bounding_box()
    assert composer and button["y"] + button["height"] <= composer["y"]
    jump.click()
    expect(jump).to_have_count(0)
    expect(answers(page).locator("footer")).to_be_in_viewport()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_an_example_leaves_a_draft_alone(server: Server, open_page: OpenPage, size: dict[str, Any]) -> None:
    page = open_page(server.url, **size)
    box(page).fill("Dear Anna,")
    page.get_by_role("button", name="Advise").click()
    finished(page)
    expect(page.locator("article.question")).to_contain_text("three tips")
    expect(box(page)).to_have_value("Dear Anna,")
    page.reload()
    expect(box(page)).to_have_value("Dear Anna,")
    page.goto(server.url)
    expect(box(page)).to_have_value("")
    page.get_by_role("button", name="Explain").click()
    finished(page)
    expect(box(page)).to_have_value("")


def test_what_was_sent_is_no_draft_wherever_one_is_by_then(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    ask(page, "First")
    page.get_by_role("button", name="New chat").click()
    waiting: list[Route] = []
    page.route("**/web/messages", lambda route: waiting.append(route))
    box(page).press_sequentially("Second")
    box(page).press("Enter")
    page.get_by_role("link", name="First").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("First")
    waiting[0].continue_()
    expect(page.get_by_role("link", name="Second")).to_be_visible()
    page.get_by_role("button", name="New chat").click()
    expect(box(page)).to_have_value("")


ARABIC = "ما هي عاصمة فرنسا؟"
MIXED = "باريس هي العاصمة.\n\n- أولا\n- ثانيا\n\nIn English.\n\n> اقتباس\n\n```\nx = 1\n```"


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_text_runs_as_its_language_does(server: Server, open_page: OpenPage, size: dict[str, Any]) -> None:
    server.backend.reply = MIXED
    page = open_page(server.url, **size)
    box(page).fill(ARABIC)
    expect(box(page)).to_have_css("direction", "rtl")
    send(page, ARABIC)
    finished(page)
    expect(box(page)).to_have_css("direction", "ltr")
    expect(page.locator(".bubble")).to_have_css("direction", "rtl")
    for part, direction in (
        ("p >> nth=0", "rtl"),
        ("li >> nth=0", "rtl"),
        ("p >> nth=1", "ltr"),
        ("blockquote", "rtl"),
        ("figure.code", "ltr"),
    ):
        expect(last_answer(page).locator(part)).to_have_css("direction", direction)
    expect(last_answer(page).locator("ul")).to_have_css("padding-right", "24px")  # its dots have room
    expect(page.locator("#title span")).to_have_css("direction", "rtl")


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
