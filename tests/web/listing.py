"""What tests of the list of conversations do again and again."""

import time
from typing import Any

import httpx
from chatting import box
from playwright.sync_api import Locator, Page, expect
from served import Server

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
    """A conversation of the list."""
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
