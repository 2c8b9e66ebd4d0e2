"""The list of conversations, search, settings, temporary chats and files, in Chromium."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from chatting import ask, box, last_answer
from playwright.sync_api import Locator, Page, expect
from served import Server

from ridgeline.protocol import ModelInfo
from ridgeline.web.settings import WebSettings

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
DAY_MS = 86_400_000


def stored(
    server: Server, titles: dict[str, float], *, pinned: tuple[str, ...] = (), text: str = "An answer."
) -> None:
    """Put conversations of so many days ago into the store, by the import."""
    now_ms = int(time.time() * 1000)
    conversations = []
    for index, (title, days) in enumerate(titles.items()):
        at = now_ms - int(days * DAY_MS)
        question: dict[str, Any] = {"id": f"q{index}", "role": "user", "content": f"About {title}"}
        answer = {"id": f"a{index}", "parent_id": f"q{index}", "role": "assistant", "content": text}
        conversations.append(
            {
                "id": f"{index:032x}",
                "title": title,
                "pinned": title in pinned,
                "created_ms": at,
                "updated_ms": at,
                "messages": [question | {"created_ms": at}, answer | {"created_ms": at}],
            }
        )
    document = {"format": "ridgeline-conversations", "version": 1, "conversations": conversations}
    response = httpx.post(f"{server.url}/web/import", json=document, timeout=30)
    assert response.status_code == 200, response.text


def groups(page: Page) -> dict[str, list[str]]:
    """What the list shows: titles by heading."""
    found: dict[str, list[str]] = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('#conversations section')].map((section) =>
            [section.querySelector('h2').textContent,
             [...section.querySelectorAll('a')].map((link) => link.textContent.trim())]))"""
    )
    return found


def link(page: Page, title: str) -> Locator:
    return page.get_by_role("navigation").get_by_role("link", name=title, exact=True)


def choose(page: Page, title: str, action: str) -> None:
    """Choose from the menu of a conversation."""
    link(page, title).hover()
    page.get_by_role("button", name=f"Options for “{title}”").click()
    page.get_by_role("menuitem", name=action).click()


def search(page: Page, text: str) -> Locator:
    """Open the search, type, and return its results."""
    expect(box(page)).to_be_visible()
    page.keyboard.press("Control+k")
    page.get_by_role("combobox", name="Search conversations").fill(text)
    return page.get_by_role("option")


# --- The list -----------------------------------------------------------------------------------


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
            const app = document.querySelector('script').src;
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


# --- Search -------------------------------------------------------------------------------------


def test_search_finds_titles_and_texts_and_leads_there(server: Server, open_page: OpenPage) -> None:
    filler = "\n\n".join(["Some words to fill the page. " * 12] * 12)
    stored(server, {"Zebra crossing": 0, "Unrelated": 1}, text=f"{filler}\n\nThe ZEBRA runs.\n\n{filler}")
    page = open_page(server.url)
    options = search(page, "zebra")
    expect(options).to_have_count(2)
    expect(options.first).to_have_attribute("aria-selected", "true")
    expect(options.first.locator("mark")).to_have_text("Zebra")
    page.keyboard.press("ArrowDown")
    expect(options.last).to_have_attribute("aria-selected", "true")
    expect(options.last.locator("mark")).to_have_text("ZEBRA")
    expect(options.last).to_contain_text("Unrelated")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("heading", level=1)).to_have_text("Unrelated")
    found = page.locator("article.answer")
    expect(found).to_be_focused()
    expect(found).to_have_class(re.compile("found"))
    # The words themselves are marked, and in sight, however long the message is.
    words_found = """() => [...CSS.highlights.get('found')].map((range) => {
        const { top, bottom } = range.getBoundingClientRect();
        return [range.toString(), top >= 0 && bottom <= innerHeight];
    })"""
    assert page.evaluate(words_found) == [["ZEBRA", True]]
    expect(found).not_to_have_class(re.compile("found"))


def test_search_says_when_there_is_nothing_and_what_failed(server: Server, open_page: OpenPage) -> None:
    stored(server, {"Zebra": 0})
    page = open_page(server.url, allow=("status of 503",))
    options = search(page, "giraffe")
    expect(page.get_by_role("dialog")).to_contain_text("Nothing found for “giraffe”")
    expect(options).to_have_count(0)
    broken = {"error": {"code": "no_replica", "message": "None.", "param": None}}
    page.route("**/web/search?*", lambda route: route.fulfill(status=503, json=broken))
    page.get_by_role("combobox").fill("zebra")
    expect(page.get_by_role("dialog")).to_contain_text("No model is ready")
    page.unroute("**/web/search?*")
    page.get_by_role("dialog").get_by_role("button", name="Try again").click()
    expect(options).to_have_count(1)
    page.keyboard.press("Escape")
    expect(box(page)).to_be_focused()


def test_search_asks_once_for_what_was_typed(server: Server, open_page: OpenPage) -> None:
    stored(server, {"Zebra": 0})
    page = open_page(server.url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/web/search" in request.url else None)
    expect(box(page)).to_be_visible()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("option")).to_have_count(1)  # the conversations of late
    page.evaluate(
        """() => {
            const box = document.querySelector('[role=combobox]');
            for (const typed of ['z', 'ze', 'zeb', 'zebr', 'zebra']) {
                box.value = typed;
                box.dispatchEvent(new Event('input'));
            }
        }"""
    )
    page.keyboard.press("Enter")  # before there is any result
    expect(page.get_by_role("heading", level=1)).to_have_text("Zebra")
    assert [url.split("q=")[1] for url in asked] == ["zebra&limit=30"]


def test_what_is_found_in_another_branch_is_shown(server: Server, open_page: OpenPage) -> None:
    server.backend.script = ["The old answer speaks of xylophones.", "The new one does not."]
    page = open_page(server.url)
    ask(page, "Speak")
    httpx.post(
        f"{server.url}/web/messages",
        json={"content": "Speak again", "conversation_id": page.url[-32:], "parent_id": None},
    )
    page.reload()
    expect(last_answer(page)).to_have_text("The new one does not.")
    options = search(page, "xylophone")
    expect(options).to_have_count(1)
    options.first.click()
    expect(last_answer(page)).to_have_text("The old answer speaks of xylophones.")


# --- Settings, models, temporary chats ----------------------------------------------------------


def test_settings_are_checked_saved_and_reset(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    ask(page, "Hello")
    page.get_by_role("button", name="Settings of this chat").click()
    dialog = page.get_by_role("dialog", name="Settings of this chat")
    prompt, temperature = dialog.get_by_label("System prompt"), dialog.get_by_label("Temperature")
    expect(prompt).to_be_focused()
    prompt.fill("Answer in French.")
    temperature.fill("7")
    dialog.get_by_label("Top-p").fill("zero")
    dialog.get_by_label("Longest answer").fill("5000")
    dialog.get_by_role("button", name="Save").click()
    expect(temperature).to_be_focused()
    expect(temperature).to_have_attribute("aria-invalid", "true")
    expect(dialog).to_contain_text("Give a number from 0 to 2")
    expect(dialog).to_contain_text("Give a number above 0 and up to 1")
    expect(dialog).to_contain_text("Give a whole number from 1 to 4,096")
    temperature.fill("0,5")
    dialog.get_by_label("Top-p").fill("")
    dialog.get_by_label("Longest answer").fill("2")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_role("button", name="Settings of this chat (changed)")).to_be_focused()
    ask(page, "Again")
    request = server.backend.requests[-1]
    assert request.messages is not None and request.messages[0].role == "system"
    assert request.messages[0].content == "Answer in French."
    assert (request.sampling.temperature, request.stopping.max_tokens) == (0.5, 2)
    page.reload()
    page.get_by_role("button", name="Settings of this chat (changed)").click()
    expect(prompt).to_have_value("Answer in French.")
    expect(temperature).to_have_value("0.5")
    dialog.get_by_role("button", name="Reset to defaults").click()
    expect(temperature).to_have_value("")
    expect(temperature).to_have_attribute("placeholder", "Default: 0.3")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_role("button", name="Settings of this chat", exact=True)).to_be_focused()


def test_what_the_server_says_against_settings_is_shown(
    make_server: Callable[..., Server], open_page: OpenPage
) -> None:
    server = make_server(WebSettings(max_system_prompt_characters=10))
    page = open_page(server.url, allow=("status of 400",))
    ask(page, "Hello")
    page.keyboard.press("Control+Shift+,")
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("System prompt").fill("x" * 11)
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_contain_text("11 of at most 10 characters")
    dialog.get_by_label("System prompt").fill("x" * 10)
    refusal = {"error": {"code": "invalid_request", "message": "Not today.", "param": "settings.top_p"}}
    page.route("**/web/conversations/*", lambda route: route.fulfill(status=400, json=refusal))
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_label("Top-p")).to_be_focused()
    expect(dialog).to_contain_text("Not today.")


def test_settings_of_a_new_chat_go_with_its_first_message(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    page.get_by_role("button", name="Settings of this chat").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("button", name="Settings of this chat (changed)")).to_be_visible()
    ask(page, "Hello")
    assert [m.content for m in server.backend.requests[0].messages or ()] == ["Be brief.", "Hello"]
    expect(page.get_by_role("button", name="Settings of this chat (changed)")).to_be_visible()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("button", name="Settings of this chat", exact=True)).to_be_visible()
    ask(page, "Hello again")
    assert [m.content for m in server.backend.requests[1].messages or ()] == ["Hello again"]


def test_many_models_by_keyboard(server: Server, open_page: OpenPage) -> None:
    server.backend.infos += [ModelInfo(f"model-{n}", 1, 4000, 100, 10**9) for n in range(30)]
    page = open_page(server.url)
    page.get_by_role("button", name="Model: tiny").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitemradio", name="tiny")).to_have_attribute("aria-checked", "true")
    page.keyboard.type("model-2")
    expect(page.get_by_role("menuitemradio", name="model-2 ", exact=False).first).to_be_focused()
    page.keyboard.press("End")
    expect(page.get_by_role("menuitemradio", name="model-29")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Model: model-29")).to_be_focused()


def test_a_temporary_chat_leaves_nothing(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    page.get_by_role("button", name="Temporary chat").click()
    assert page.url.endswith("/?temporary")
    note = page.get_by_role("note").filter(has_text="Not saved, not listed, not found by search")
    expect(note).to_be_visible()
    ask(page, "A secret")
    expect(note).to_be_visible()
    expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(0)
    page.reload()
    expect(last_answer(page)).to_have_text("Yes, of course.")
    expect(note).to_be_visible()
    page.get_by_role("button", name="Delete now").click()
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    expect(note).to_have_count(0)
    expect(page.locator(".toast")).to_contain_text("The temporary chat is gone.")
    expect(page.get_by_role("button", name="Undo")).to_have_count(0)
    assert search(page, "secret").count() == 0
    expect(page.get_by_role("dialog")).to_contain_text("Nothing found")


# --- Files --------------------------------------------------------------------------------------


def open_data(page: Page) -> Locator:
    page.get_by_role("button", name="Import and export").click()
    return page.get_by_role("dialog", name="Import and export")


def test_export_and_import(
    server: Server, make_server: Callable[..., Server], open_page: OpenPage, tmp_path: Path
) -> None:
    stored(server, {"One": 0, "A/B: two?": 1})
    page = open_page(server.url)
    dialog = open_data(page)
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Export all").click()
    assert re.fullmatch(r"conversations-\d{4}-\d\d-\d\d\.json", download.value.suggested_filename)
    everything = tmp_path / "all.json"
    download.value.save_as(everything)
    assert len(json.loads(everything.read_text())["conversations"]) == 2
    page.keyboard.press("Escape")
    with page.expect_download() as download:
        choose(page, "A/B: two?", "Export")
    assert download.value.suggested_filename == "A B two.json"
    one = tmp_path / "one.json"
    download.value.save_as(one)
    for title in ("One", "A/B: two?"):
        choose(page, title, "Delete")
        expect(link(page, title)).to_have_count(0)
    dialog = open_data(page)
    picker = dialog.locator("input[type=file]")
    picker.set_input_files(one)
    expect(dialog.get_by_role("status")).to_contain_text("1 conversation was imported.")
    picker.set_input_files(everything)
    expect(dialog.get_by_role("status")).to_contain_text("1 conversation was imported. 1 was here already.")
    page.keyboard.press("Escape")
    link(page, "A/B: two?").click()
    expect(last_answer(page)).to_have_text("An answer.")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "JSON"),
        ('{"format": "other", "version": 1, "conversations": []}', "format"),
        ("x" * 2000, "too large"),
    ],
)
def test_what_cannot_be_imported_is_explained(
    make_server: Callable[..., Server], open_page: OpenPage, tmp_path: Path, content: str, says: str
) -> None:
    server = make_server(WebSettings(max_import_bytes=1000))
    page = open_page(server.url, allow=("status of 400",))
    file = tmp_path / "file.json"
    file.write_text(content)
    dialog = open_data(page)
    dialog.locator("input[type=file]").set_input_files(file)
    expect(dialog.get_by_role("status")).to_contain_text(says)
    expect(dialog.get_by_role("button", name="Choose a file")).to_be_enabled()
    expect(page.get_by_text("Your conversations will be listed here.")).to_be_attached()
