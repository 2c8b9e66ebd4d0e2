"""Models that think aloud: their thoughts are folded away, and are no part of the answer."""

from collections.abc import Callable
from typing import Any

import axe
import pytest
from chatting import PHONE, answers, finished, in_clipboard
from looks import CALM, WIDE, say
from playwright.sync_api import Page, expect
from served import Server
from test_browser_markdown import HOSTILE, assert_harmless

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
THOUGHTS = "First I count **one**,\n\n- then two\n- then three.\n\n```python\nprint(3)\n```"
ANSWER = "There are **three**."
COPYING: dict[str, Any] = {"permissions": ["clipboard-read", "clipboard-write"]}


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def size(request: pytest.FixtureRequest) -> dict[str, Any]:
    shape: dict[str, Any] = request.param
    return shape | CALM


def test_thoughts_are_folded_as_they_come(server: Server, open_page: OpenPage, size: dict[str, Any]) -> None:
    server.backend.reply = f"<think>\n{THOUGHTS}\n</think>\n\n{ANSWER}"
    server.backend.title = "Counting to three"
    server.backend.hold_after = 8
    page = open_page(server.url, **size, **COPYING)
    say(page, "How many?")
    fold, said = answers(page).locator("details"), answers(page).locator(".markdown").last
    expect(fold.locator("summary")).to_have_text("Thinking…")
    expect(fold.locator("strong")).to_have_text("one")  # it is there to be found
    expect(fold.locator("strong")).not_to_be_visible()
    expect(answers(page).locator(".waiting")).to_have_count(0)
    assert axe.violations(page) == []
    fold.locator("summary").click()
    expect(fold.locator("strong")).to_be_visible()
    server.backend.hold_after = 13
    expect(fold).to_contain_text("then three.")  # it stays open while it grows
    assert axe.violations(page) == []
    server.backend.hold_after = None
    finished(page)
    expect(fold.locator("summary")).to_have_text("Thoughts")
    expect(fold.locator("figure.code code")).to_have_text("print(3)")
    expect(fold.locator("li").first).to_be_visible()
    expect(said).to_have_text("There are three.")
    expect(answers(page)).not_to_contain_text("think>")
    page.get_by_role("button", name="Copy answer").click()
    in_clipboard(page, ANSWER)
    page.keyboard.press("Control+Shift+Semicolon")
    expect(page.locator("p[role=status]")).to_have_text("There is nothing to copy yet.")
    page.keyboard.press("Control+Shift+C")
    in_clipboard(page, ANSWER)
    expect(page).to_have_title("Counting to three · Ridgeline")
    page.reload()
    expect(said).to_have_text("There are three.")
    expect(fold.locator("summary")).to_have_text("Thoughts")
    expect(fold.locator("strong")).not_to_be_visible()


def test_thoughts_that_do_not_end(server: Server, open_page: OpenPage, size: dict[str, Any]) -> None:
    server.backend.reply, server.backend.hold_after = "<think>I wonder whether this ever ends", 3
    page = open_page(server.url, **size)
    say(page, "Hm?")
    expect(answers(page).locator("summary")).to_have_text("Thinking…")
    page.get_by_role("button", name="Stop").click()
    expect(answers(page)).to_contain_text("Stopped")
    for _ in range(2):
        expect(answers(page).locator("summary")).to_have_text("Thoughts")
        expect(answers(page).locator("details")).to_have_text("ThoughtsI wonder whether")
        expect(page.get_by_role("button", name="Copy answer")).to_have_count(0)
        page.reload()
    server.backend.hold_after, server.backend.script = None, ["it ends.</think>It does."]
    page.get_by_role("button", name="Continue").click()
    finished(page)
    expect(answers(page).locator(".markdown").last).to_have_text("It does.")
    expect(page.get_by_role("button", name="Copy answer")).to_be_attached()


def test_hostile_thoughts_are_harmless(server: Server, open_page: OpenPage) -> None:
    server.backend.reply = f"<think>{HOSTILE}</think>\n\nDone.\n\n<think>not a thought</think>"
    page = open_page(server.url)
    say(page, "Go")
    finished(page)
    page.locator("summary").click()
    assert_harmless(page)
    expect(page.locator("summary")).to_have_count(1)
    expect(page.locator("details")).to_contain_text("<script>window.hacked = 'script'</script>")
    expect(page.locator(".answer > .markdown")).to_contain_text("<think>not a thought</think>")
    page.reload()
    finished(page)
    assert_harmless(page)


def test_search_unfolds_what_it_has_found(server: Server, open_page: OpenPage) -> None:
    server.backend.reply = f"<think>{THOUGHTS} Quagga.</think>{ANSWER}"
    page = open_page(server.url)
    say(page, "How many?")
    finished(page)
    page.get_by_role("button", name="New chat").click()
    page.keyboard.press("Control+k")
    page.get_by_role("combobox").fill("quagga")
    expect(page.locator("mark")).to_have_text("Quagga")
    page.keyboard.press("Enter")
    expect(page.locator("details")).to_have_attribute("open", "")
    expect(page.get_by_text("Quagga.")).to_be_in_viewport()


def test_however_it_is_cut_the_parts_are_the_same(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    wrong = page.evaluate(
        """async (sources) => {
            const module = document.querySelector('script[type=module]').src.replace('app.js', 'thoughts.js');
            const { Reply, spoken } = await import(module);
            const flat = (document) => document.blocks.value.map((b) => String(b.html ?? b.text));
            const parts = (reply) => JSON.stringify([flat(reply.thoughts), flat(reply.said)]);
            const wrong = [];
            for (const source of sources) {
                const whole = parts(new Reply(source, true));
                for (const step of [1, 2, 3, 7, 50]) {
                    const reply = new Reply('', false);
                    for (let at = 0; at < source.length; at += step) {
                        reply.append(source.slice(at, at + step));
                    }
                    reply.finish(source);
                    if (parts(reply) !== whole) wrong.push([source, step, parts(reply), whole]);
                }
            }
            return wrong;
        }""",
        [
            f"<think>\n{THOUGHTS}\n</think>\n\n{ANSWER}",
            "<think></think>Hm.",
            "<think>",
            "<thi",
            "  \n<div> is </think>",
            "<think>a < b, </thin, </ </think> c",
            "<think>open </thi",
            "Plain.",
        ],
    )
    assert wrong == []
