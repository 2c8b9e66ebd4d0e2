"""Everything by keyboard: shortcuts, dialogs, the drawer, and where the focus goes."""

from collections.abc import Callable

import pytest
from chatting import PHONE, answers, ask, box, finished, from_menu, in_clipboard, last_answer, say, words
from playwright.sync_api import Page, expect
from served import Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
CODE = "First:\n\n```python\nprint('one')\n```\n\nThen:\n\n```python\nprint('two')\n```\n\nDone."


def test_shortcuts_of_the_page(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    ask(page, "Hello")
    dialog = page.get_by_role("dialog")
    for keys, name in (
        ("Control+k", "Search conversations"),
        ("Control+Shift+Comma", "Settings of this chat"),
        ("Control+/", "Keyboard shortcuts"),
    ):
        page.keyboard.press(keys)
        expect(dialog).to_have_accessible_name(name)
        page.keyboard.press(keys)  # the same again closes it
        expect(dialog).to_have_count(0)
        expect(box(page)).to_be_focused()
    page.keyboard.press("Control+Shift+S")
    expect(page.get_by_role("navigation")).to_have_count(0)
    page.keyboard.press("Control+Shift+S")
    expect(page.get_by_role("navigation")).to_be_visible()
    expect(box(page)).not_to_be_focused()
    page.keyboard.press("Shift+Escape")
    expect(box(page)).to_be_focused()
    page.keyboard.press("Control+Shift+O")
    expect(page.get_by_role("heading", level=1)).to_have_text("New chat")
    expect(box(page)).to_be_focused()


def test_one_dialog_takes_the_place_of_another(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    expect(box(page)).to_be_focused()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog", name="Search conversations")).to_be_visible()
    page.keyboard.press("Control+/")
    expect(page.get_by_role("dialog")).to_have_accessible_name("Keyboard shortcuts")
    page.keyboard.press("Control+Shift+O")  # nothing happens behind a dialog
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(box(page)).to_be_focused()


def test_copying_by_keyboard(server: Server, open_page: OpenPage) -> None:
    server.backend.script = [CODE, "No code here."]
    page = open_page(server.url, permissions=["clipboard-read", "clipboard-write"])
    expect(box(page)).to_be_focused()
    page.keyboard.press("Control+Shift+C")
    expect(page.locator("p[role=status]")).to_have_text("There is nothing to copy yet.")
    ask(page, "Code")
    page.keyboard.press("Control+Shift+Semicolon")
    expect(page.locator("p[role=status]")).to_have_text("The last code is copied.")
    in_clipboard(page, "print('two')")
    ask(page, "More")
    page.keyboard.press("Control+Shift+C")
    expect(page.locator("p[role=status]")).to_have_text("The last answer is copied.")
    in_clipboard(page, "No code here.")
    page.keyboard.press("Control+Shift+Semicolon")
    expect(page.locator("p[role=status]")).to_have_text("The last code is copied.")
    in_clipboard(page, "print('two')")


def test_the_list_of_shortcuts_names_them_all(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    from_menu(page, "Keyboard shortcuts")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    listed = dict(zip(dialog.locator("dt").all_text_contents(), dialog.locator("dd").all(), strict=True))
    keys = {name: " ".join(line.locator("kbd").all_text_contents()) for name, line in listed.items()}
    assert keys == {
        "New chat": "Ctrl Shift O",
        "Search conversations": "Ctrl K",
        "Show or hide the list": "Ctrl Shift S",
        "Go to the message box": "Shift Esc",
        "Send the message": "Enter",
        "Begin a new line": "Shift Enter",
        "Stop the answer": "Esc",
        "Edit the last message, from the empty box": "↑",
        "Copy the last answer": "Ctrl Shift C",
        "Copy the last code": "Ctrl Shift ;",
        "Settings of this chat": "Ctrl Shift ,",
        "This list": "Ctrl /",
    }


@pytest.mark.parametrize(
    ("platform", "event", "taken"),
    [
        ("Linux x86_64", {"key": "k", "ctrlKey": True}, True),
        ("Linux x86_64", {"key": "k", "metaKey": True}, False),
        ("MacIntel", {"key": "k", "metaKey": True}, True),
        ("MacIntel", {"key": "k", "ctrlKey": True}, False),  # deletes to the end of the line there
        ("Linux x86_64", {"key": "л", "code": "KeyK", "ctrlKey": True}, True),  # a Russian layout
        ("Linux x86_64", {"key": "t", "code": "KeyK", "ctrlKey": True}, False),  # Dvorak: a new tab
        ("Linux x86_64", {"key": "k", "ctrlKey": True, "altKey": True}, False),  # AltGr
        ("Linux x86_64", {"key": "k", "ctrlKey": True, "shiftKey": True}, False),
        ("Linux x86_64", {"key": "k"}, False),
        ("Linux x86_64", {"key": "/", "code": "Digit7", "ctrlKey": True, "shiftKey": True}, True),
        ("Linux x86_64", {"key": "r", "code": "KeyR", "ctrlKey": True}, False),
        ("Linux x86_64", {"key": "R", "code": "KeyR", "ctrlKey": True, "shiftKey": True}, False),
    ],
)
def test_which_keys_are_taken(
    server: Server, open_page: OpenPage, platform: str, event: dict[str, object], taken: bool
) -> None:
    page = open_page(server.url)
    page.add_init_script(f"Object.defineProperty(navigator, 'platform', {{ get: () => {platform!r} }})")
    page.reload()
    expect(box(page)).to_be_focused()
    stopped = page.evaluate(
        """(event) => !document.activeElement.dispatchEvent(
            new KeyboardEvent('keydown', { bubbles: true, cancelable: true, ...event }))""",
        event,
    )
    assert stopped is taken
    expect(page.get_by_role("dialog")).to_have_count(1 if taken else 0)


def test_escape_closes_what_is_on_top_before_it_stops_an_answer(server: Server, open_page: OpenPage) -> None:
    server.backend.reply, server.backend.hold_after = words(6), 3
    page = open_page(server.url)
    say(page, "Count")
    expect(last_answer(page)).to_have_text("word0 word1 word2")
    page.keyboard.press("Control+k")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Model: tiny").click()
    page.keyboard.press("Escape")
    page.get_by_role("heading", level=1).get_by_role("button").click()
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Escape")
    expect(box(page)).to_be_focused()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    assert server.backend.running
    page.keyboard.press("Escape")
    finished(page)
    assert not server.backend.running


def test_up_in_the_empty_box_edits_the_last_message(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    ask(page, "Hello wrold")
    box(page).press("ArrowUp")
    expect(page.locator("textarea:focus")).to_have_value("Hello wrold")
    page.keyboard.press("Escape")
    expect(answers(page)).to_have_count(1)


def test_the_focus_stays_inside_a_dialog(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    page.get_by_role("button", name="Settings of this chat").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    inside = []
    for _ in range(10):
        page.keyboard.press("Tab")
        inside.append(
            page.evaluate(
                "() => document.activeElement === document.body || !!document.activeElement.closest('dialog')"
            )
        )
    assert all(inside)
    page.mouse.click(5, 5)  # beside it
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Settings of this chat")).to_be_focused()


def test_the_drawer_of_a_phone(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url, **PHONE)
    box(page).fill("Hello")
    page.get_by_role("button", name="Send", exact=True).tap()
    finished(page)
    page.get_by_role("button", name="Show conversations").tap()
    inside = []
    for _ in range(8):
        page.keyboard.press("Tab")
        inside.append(page.evaluate("() => !document.activeElement.closest('.pane')"))
    assert all(inside)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Show conversations")).to_be_focused()
    page.get_by_role("button", name="Show conversations").tap()
    page.touchscreen.tap(380, 400)  # beside it
    expect(page.get_by_role("navigation")).to_have_count(0)
    page.get_by_role("button", name="Show conversations").tap()
    page.get_by_role("navigation").get_by_role("button", name="Search", exact=True).tap()
    page.get_by_role("option", name="Hello").tap()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("navigation")).to_have_count(0)
    assert page.evaluate("() => document.activeElement !== document.body")


def test_the_skip_link_comes_first(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    expect(box(page)).to_be_focused()
    page.evaluate("() => { document.body.tabIndex = -1; document.body.focus(); }")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the message box")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(box(page)).to_be_focused()
