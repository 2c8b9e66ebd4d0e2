"""The list of conversations in Chromium: its order, its menus, its titles."""

import re
from collections.abc import Callable

import pytest
from chatting import ask, last_answer
from listing import choose, groups, link, stored
from playwright.sync_api import Page, expect
from served import Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


def test_pinned_first_then_by_date(server: Server, open_page: OpenPage) -> None:
    stored(
        server,
        {"Now": 0, "Old but pinned": 50, "Four days": 4, "Two weeks": 14, "A year": 400, "Another": 400.001},
        pinned=("Old but pinned",),
    )
    page = open_page(server.url)
    expect(link(page, "A year")).to_be_attached()
    shown = groups(page)
    assert list(shown)[:4] == ["Pinned", "Today", "Previous 7 days", "Previous 30 days"]
    assert shown["Pinned"] == ["Old but pinned"] and shown["Today"] == ["Now"]
    (month,) = list(shown)[4:]
    assert re.fullmatch(r"[A-Z][a-z]+ \d{4}", month) and shown[month] == ["A year", "Another"]
    expect(page.get_by_role("navigation").get_by_role("heading", name="Pinned", level=2)).to_be_visible()


def test_groups_follow_the_calendar_not_24_hours(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    labels = page.evaluate(
        """async () => {
            const app = document.querySelector('script[type=module]').src;
            const { byDate } = await import(app.replace('app.js', 'list.js'));
            const today = new Date(2026, 2, 31).getTime();
            const at = (...when) => ({ updated_ms: new Date(...when).getTime() });
            return byDate([
                at(2026, 2, 31, 0, 0, 0), at(2026, 2, 30, 23, 59, 59), at(2026, 2, 30), at(2026, 2, 29, 23),
                at(2026, 2, 24), at(2026, 2, 23, 23), at(2026, 2, 1), at(2026, 1, 28), at(2025, 11, 31),
            ], today).map(({ label, rows }) => [label, rows.length]);
        }"""
    )
    assert labels == [
        ["Today", 1],
        ["Yesterday", 2],
        ["Previous 7 days", 2],
        ["Previous 30 days", 2],
        ["February 2026", 1],
        ["December 2025", 1],
    ]


def test_rename_in_place(server: Server, open_page: OpenPage) -> None:
    stored(server, {"First name": 0, "Other": 1})
    page = open_page(server.url)
    choose(page, "First name", "Rename")
    field = page.get_by_role("textbox", name="New title for “First name”")
    expect(field).to_be_focused()
    assert page.evaluate("() => getSelection().toString()") == "First name"
    field.fill("  Second name ")
    field.press("Enter")
    expect(link(page, "Second name")).to_be_focused()
    expect(page.locator("p[role=status]")).to_have_text("Renamed to “Second name”")
    choose(page, "Second name", "Rename")
    field = page.get_by_role("textbox", name="New title for “Second name”")
    field.fill("Never")
    field.press("Escape")
    expect(link(page, "Second name")).to_be_focused()
    choose(page, "Second name", "Rename")
    page.get_by_role("textbox", name="New title").fill("   ")
    page.keyboard.press("Enter")  # nothing is no title
    page.reload()
    expect(link(page, "Second name")).to_be_visible()


def test_the_open_conversation_is_renamed_by_its_heading(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    ask(page, "Hello")
    page.get_by_role("heading", level=1).get_by_role("button", name="Hello").click()
    page.get_by_role("textbox", name="New title for “Hello”").fill("Greetings")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Greetings")
    expect(page.get_by_role("heading", level=1).get_by_role("button")).to_be_focused()
    expect(link(page, "Greetings")).to_be_visible()
    expect(page).to_have_title("Greetings · Ridgeline")


def test_a_title_that_arrives_leaves_the_one_being_typed(server: Server, open_page: OpenPage) -> None:
    server.backend.title = "By the model"
    server.backend.hold_titles = True
    page = open_page(server.url)
    ask(page, "Hello")
    page.get_by_role("heading", level=1).get_by_role("button", name="Hello").click()
    page.get_by_role("textbox", name="New title").fill("Greetings")
    server.backend.hold_titles = False
    expect(link(page, "By the model")).to_be_visible()
    page.keyboard.press("Enter")
    expect(link(page, "Greetings")).to_be_visible()
    expect(page.locator("p[role=status]")).to_have_text("Renamed to “Greetings”")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Greetings")


def test_what_the_server_refuses_is_taken_back(server: Server, open_page: OpenPage) -> None:
    stored(server, {"Kept": 0})
    page = open_page(server.url, allow=("status of 500",))
    expect(link(page, "Kept")).to_be_visible()
    page.route("**/web/conversations/*", lambda route: route.fulfill(status=500, json={}))
    choose(page, "Kept", "Rename")
    page.get_by_role("textbox", name="New title").fill("Lost")
    page.keyboard.press("Enter")
    expect(page.locator(".toast")).to_contain_text("Something went wrong at the server")
    expect(link(page, "Kept")).to_be_visible()
    choose(page, "Kept", "Delete")
    expect(link(page, "Kept")).to_be_visible()


def test_pin_and_unpin(server: Server, open_page: OpenPage) -> None:
    stored(server, {"One": 0, "Two": 0.0001})
    page = open_page(server.url)
    choose(page, "Two", "Pin")
    expect(link(page, "Two")).to_be_focused()
    assert groups(page) == {"Pinned": ["Two"], "Today": ["One"]}
    expect(page.locator("p[role=status]")).to_have_text("Pinned “Two”")
    page.reload()
    expect(link(page, "Two")).to_be_visible()
    assert groups(page) == {"Pinned": ["Two"], "Today": ["One"]}
    choose(page, "Two", "Unpin")
    expect(page.get_by_role("heading", name="Pinned")).to_have_count(0)
    assert groups(page) == {"Today": ["One", "Two"]}


def test_delete_moves_the_focus_and_undo_brings_it_back(server: Server, open_page: OpenPage) -> None:
    stored(server, {"One": 0, "Two": 1, "Three": 2}, pinned=("Two",))
    page = open_page(server.url)
    choose(page, "Two", "Delete")
    expect(link(page, "One")).to_be_focused()
    page.get_by_role("button", name="Undo").click()
    expect(link(page, "Two")).to_be_focused()
    assert groups(page)["Pinned"] == ["Two"]
    for title in ("Two", "One", "Three"):
        choose(page, title, "Delete")
        expect(link(page, title)).to_have_count(0)
    expect(page.get_by_role("button", name="New chat")).to_be_focused()
    expect(page.get_by_text("Your conversations will be listed here.")).to_be_visible()


def test_a_menu_by_keyboard(server: Server, open_page: OpenPage) -> None:
    stored(server, {"One": 0})
    page = open_page(server.url)
    button = page.get_by_role("button", name="Options for “One”")
    expect(button).to_have_attribute("aria-haspopup", "menu")
    button.focus()
    page.keyboard.press("ArrowDown")
    expect(button).to_have_attribute("aria-expanded", "true")
    reached = []
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "Home", "e"):
        reached.append(page.evaluate("() => document.activeElement.textContent.trim()"))
        page.keyboard.press(key)
    assert reached == ["Rename", "Pin", "Export", "Delete", "Rename", "Delete", "Rename"]
    expect(page.get_by_role("menuitem", name="Export")).to_be_focused()
    for key in ("Escape", "Tab"):
        page.keyboard.press(key)
        expect(page.get_by_role("menu")).to_have_count(0)
        expect(button).to_be_focused()
        expect(button).to_have_attribute("aria-expanded", "false")
        page.keyboard.press("Enter")
        expect(page.get_by_role("menuitem", name="Rename")).to_be_focused()
    page.mouse.click(700, 300)
    expect(page.get_by_role("menu")).to_have_count(0)


def test_older_ones_come_when_the_list_is_scrolled(server: Server, open_page: OpenPage) -> None:
    stored(server, {f"Number {n}": n / 1000 for n in range(330)})
    page = open_page(server.url)
    rows = page.locator("#conversations li")
    expect(link(page, "Number 0")).to_be_visible()
    expect(rows).to_have_count(100)
    list_of = page.locator("#conversations .list")
    for count in (200, 300, 330):
        list_of.evaluate("(list) => list.scrollTo(0, list.scrollHeight)")
        expect(rows).to_have_count(count)
    expect(page.get_by_role("button", name="Show older")).to_have_count(0)
    assert len(set(rows.all_text_contents())) == 330


def test_only_rows_that_change_are_drawn_again(server: Server, open_page: OpenPage) -> None:
    stored(server, {f"Number {n}": n / 1000 for n in range(100)})
    page = open_page(server.url)
    expect(link(page, "Number 99")).to_be_attached()
    page.evaluate(
        """() => {
            window.changed = new Set();
            new MutationObserver((records) => {
                for (const { target } of records) changed.add(target.closest?.('li')?.textContent);
            }).observe(
                document.querySelector('#conversations .list'),
                { subtree: true, childList: true, attributes: true },
            );
        }"""
    )
    link(page, "Number 50").click()
    expect(link(page, "Number 50")).to_have_attribute("aria-current", "page")
    expect(last_answer(page)).to_have_text("An answer.")
    assert page.evaluate("() => [...changed]") == ["Number 50"]


def test_the_title_by_the_model_arrives(server: Server, open_page: OpenPage) -> None:
    server.backend.title = "A Greeting in Passing"
    server.backend.hold_titles = True
    page = open_page(server.url)
    ask(page, "Hello there, how are you today?")
    expect(link(page, "Hello there, how are you today?")).to_be_visible()
    server.backend.hold_titles = False
    expect(link(page, "A Greeting in Passing")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text("A Greeting in Passing")
    expect(page).to_have_title("A Greeting in Passing · Ridgeline")
    ask(page, "More")
    assert len(server.backend.titles) == 1


def test_the_list_can_be_hidden_and_stays_so(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    page.get_by_role("button", name="Hide conversations").click()
    expect(page.get_by_role("navigation")).to_have_count(0)
    expect(page.get_by_role("button", name="Show conversations")).to_be_focused()
    page.reload()
    expect(page.get_by_role("navigation")).to_have_count(0)
    page.get_by_role("button", name="Show conversations").click()
    expect(page.get_by_role("button", name="Hide conversations")).to_be_focused()
