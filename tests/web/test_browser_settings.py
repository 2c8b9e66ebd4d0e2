"""Settings, models, temporary chats and files of conversations, in Chromium."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chatting import PHONE, ask, from_menu, last_answer
from listing import choose, link, search, stored
from looks import WIDE, open_list, say
from playwright.sync_api import Locator, Page, expect
from served import Server

from ridgeline.protocol import ModelInfo
from ridgeline.web.settings import WebSettings

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


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
    expect(page).to_have_url(f"{server.url}/?temporary")
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
    found = search(page, "secret")
    expect(page.get_by_role("dialog")).to_contain_text("Nothing found")
    expect(found).to_have_count(0)


def open_data(page: Page) -> Locator:
    from_menu(page, "Your data")
    return page.get_by_role("dialog", name="Your data")


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


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_all_conversations_are_deleted_after_a_question(
    server: Server, open_page: OpenPage, size: dict[str, Any]
) -> None:
    stored(server, {"One": 0, "Two": 1, "Three": 40}, pinned=("Two",))
    page = open_page(server.url, **size)
    server.backend.hold_after = 1
    say(page, "A fourth")
    expect(last_answer(page)).to_have_text("Yes,")
    open_list(page)
    dialog = open_data(page)
    dialog.get_by_role("button", name="Delete all…").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Delete all 4 conversations? 1 of them is pinned.")
    expect(dialog.get_by_role("alert")).to_contain_text("This cannot be undone.")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog.get_by_role("button", name="Delete all…")).to_be_focused()
    dialog.get_by_role("button", name="Delete all…").click()
    dialog.get_by_role("button", name="Delete all 4").click()
    expect(dialog.get_by_role("status")).to_have_text("4 conversations were deleted.")
    expect(dialog.get_by_role("button", name="Delete all…")).to_be_focused()
    dialog.get_by_role("button", name="Delete all…").click()
    expect(dialog.get_by_role("status")).to_have_text("There are no conversations to delete.")
    page.keyboard.press("Escape")
    expect(page).to_have_url(f"{server.url}/")
    expect(page.get_by_text("Your conversations will be listed here.")).to_be_attached()
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    assert server.backend.running == set()
