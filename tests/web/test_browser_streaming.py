"""An answer as it grows in Chromium: what is rendered again, what is loaded when, what is heard."""

from collections.abc import Callable

import pytest
from chatting import ask, box, finished, last_answer, say, words
from playwright.sync_api import Page, expect
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
