"""Takes the pictures of a new user's first ten minutes, for docs/guides/chat.md and to be looked at.

    python tests/web/walk.py [FOLDER] [--png]

A real server and a real page; the answers come from a script, so that every run looks the same. Writes
WebP files of about 40 KB to docs/images/walk, or PNG files with `--png`.
"""

import argparse
import base64
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from chatting import PHONE, answers, box, finished, say
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from screenshots import CHROMIUM, FLAGS
from scripted import ScriptedBackend
from served import Server

from ridgeline.protocol import ModelInfo, Refusal
from ridgeline.web.settings import WebSettings

FOLDER = Path(__file__).parents[2] / "docs" / "images" / "walk"
WEBP_QUALITY = 82
DAY_MS = 86_400_000
SECONDS_PER_TOKEN = 0.012

SKY = """Sunlight is a mixture of all colours, and air scatters short waves far more than long ones: \
this is **Rayleigh scattering**.

Blue light is therefore sent in every direction, and reaches you from the whole sky, while red light \
mostly goes straight on. At sunset the light has crossed so much air that little blue is left, and \
what arrives is orange and red."""
SKY_FOR_A_CHILD = """Sunlight looks white, but all the colours of the rainbow hide in it.

The air is full of tiny bits that bounce the **blue** part around like a ball in a pinball machine. \
So blue comes to your eyes from everywhere you look up, and the whole sky looks blue!"""
SEARCH_ANSWER = """Binary search halves the range with every step, so it needs about $\\log_2 n$ comparisons:

```python
def find(values: list[int], wanted: int) -> int | None:
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if low < len(values) and values[low] == wanted else None
```

| Values | Linear, on average | Binary, at most |
|-------:|-------:|-------:|
| 1,000 | 500 | 10 |
| 1,000,000 | 500,000 | 20 |

For $n$ values the range after $k$ steps holds $n / 2^k$ of them, and the search ends when

$$\\frac{n}{2^k} \\le 1 \\quad\\Longleftrightarrow\\quad k \\ge \\log_2 n.$$
"""
THOUGHTFUL = """<think>
Ten cents comes to mind first. But then the bat would cost $1.10, and both together $1.20.

Let the ball cost $x$. Then $x + (x + 1) = 1.10$, so $2x = 0.10$.
</think>

The ball costs **5 cents**, and the bat $1.05."""
POEM = "  \n".join(
    (
        "Above the pines the path grows thin,",
        "the valley folds its morning in;",
        "a hawk writes circles on the air,",
        "and all the noise is left down there.",
    )
)
EARLIER = {
    "Packing list for a hut tour": (0.1, "Pack a head torch: the huts turn their light off at ten."),
    "Names for a hiking club": (1, "The Switchbacks, Cairn Company, or Slow and Steady."),
    "SQL window functions": (1.2, "`row_number() over (order by day)` numbers the rows."),
    "Birthday toast for Anna": (3, "To Anna, who brings light into every room, and cake into most!"),
    "Sourdough hydration, explained": (5, "Hydration is the weight of water over that of flour."),
    "Which tent for two in October": (9, "A light one with a steep fly, for wet snow slides off it."),
    "Regular expression for ISO dates": (20, "`\\d{4}-\\d{2}-\\d{2}`"),
    "Learning the accordion at forty": (45, "Begin with the right hand alone."),
    "Train to Innsbruck with bicycles": (80, "Reserve a place for them a week before."),
}


class Walk:
    """The server, and where the pictures go."""

    def __init__(self, server: Server, browser: Browser, folder: Path, png: bool) -> None:
        self.server = server
        self.backend = server.backend
        self._browser = browser
        self._folder = folder
        self._png = png

    def open(self, path: str = "/", **options: Any) -> Page:
        """A page in a window of its own."""
        size = {"viewport": {"width": 1280, "height": 900}}
        context = self._browser.new_context(**(size | options))
        page = context.new_page()
        page.goto(self.server.url + path)
        expect(box(page)).to_be_visible()
        return page

    def shoot(self, page: Page, name: str, *shows: Locator | str) -> None:
        """One picture, once the page has come to rest, of what it is to show and of nothing else.

        Args:
            shows: elements that are wholly in it, or the name of the one dialog that is open.
        """
        dialogs = [dialog for dialog in shows if isinstance(dialog, str)]
        expect(page.get_by_role("dialog")).to_have_count(len(dialogs))
        for shown in shows:
            if isinstance(shown, str):
                expect(page.get_by_role("dialog")).to_have_accessible_name(shown)
                shown = page.get_by_role("dialog")
            expect(shown).to_be_in_viewport(ratio=0.99)
        page.wait_for_timeout(400)
        if self._png:
            page.screenshot(path=self._folder / f"{name}.png")
            return
        session = page.context.new_cdp_session(page)
        shot = session.send("Page.captureScreenshot", {"format": "webp", "quality": WEBP_QUALITY})
        path = self._folder / f"{name}.webp"
        path.write_bytes(base64.b64decode(shot["data"]))
        print(f"{path.name}  {path.stat().st_size // 1024} KB")


def first_answer(walk: Walk) -> Page:
    """Open the page, ask by an example, stop, go on, edit, and look at both versions."""
    page = walk.open()
    walk.shoot(page, "01-open", box(page), *page.locator(".examples button").all())
    walk.backend.script, walk.backend.hold_after = [SKY], 34
    page.get_by_role("button", name="Explain").click()
    expect(answers(page)).to_contain_text("Blue light")
    page.mouse.move(640, 640)
    walk.shoot(page, "02-streaming", answers(page), page.get_by_role("button", name="Stop"))
    page.get_by_role("button", name="Stop").click()
    expect(answers(page)).to_contain_text("Stopped")
    walk.shoot(page, "03-stopped", answers(page), page.get_by_role("button", name="Continue"))
    walk.backend.hold_after = None
    walk.backend.script = [SKY.partition("reaches you from the ")[2]]
    page.get_by_role("button", name="Continue").click()
    finished(page)
    page.locator(".question").hover()
    page.get_by_role("button", name="Edit").click()
    editor = page.locator("article.question textarea")
    editor.fill("Why is the sky blue? Answer for a child of five.")
    expect(page.get_by_role("heading", level=1)).to_have_text("Why the sky is blue")
    walk.shoot(page, "04-edit", editor, page.get_by_role("button", name="Save & send"))
    walk.backend.script = [SKY_FOR_A_CHILD]
    editor.press("Enter")
    expect(answers(page)).to_contain_text("pinball")
    finished(page)
    page.locator(".question").hover()
    versions = page.get_by_role("group", name="Versions")
    expect(versions).to_contain_text("2/2")
    walk.shoot(page, "05-versions", versions, answers(page))
    return page


def second_conversation(walk: Walk, page: Page) -> None:
    """Code, a table and formulas; then a list to find one's way in."""
    walk.backend.script, walk.backend.title = [SEARCH_ANSWER], "Binary search and its cost"
    page.get_by_role("button", name="New chat").click()
    say(page, "Show me binary search in Python, and why it is fast.")
    finished(page)
    expect(answers(page).locator(".katex").first).to_be_attached()
    expect(page.get_by_role("link", name="Binary search and its cost")).to_be_visible()
    page.mouse.move(1200, 640)
    shown = [answers(page).locator(part) for part in ("table", ".katex-display", "footer")]
    walk.shoot(page, "06-code-and-maths", *shown, page.get_by_role("meter"))
    earlier(walk)
    page.reload()
    row = page.get_by_role("link", name="Packing list for a hut tour")
    row.hover()
    page.get_by_role("button", name="Options for “Packing list for a hut tour”").click()
    walk.shoot(page, "07-menu", *page.get_by_role("menuitem").all())
    page.get_by_role("menuitem", name="Pin").click()
    expect(page.get_by_role("heading", name="Pinned")).to_be_visible()
    page.get_by_role("button", name="Options for “Names for a hiking club”").click()
    page.get_by_role("menuitem", name="Rename").click()
    field = page.get_by_role("textbox", name="New title")
    field.fill("The Ridge Ramblers")
    page.mouse.move(1200, 640)
    walk.shoot(page, "08-rename", field)
    page.keyboard.press("Enter")
    page.keyboard.press("Control+k")
    page.get_by_role("combobox").fill("light")
    expect(page.locator("mark").first).to_be_visible()
    walk.shoot(page, "09-search", "Search conversations", page.locator("mark").first)
    page.keyboard.press("Enter")
    walk.shoot(page, "10-found", page.locator(".found"))
    page.get_by_role("link", name="Binary search and its cost").click()
    expect(answers(page).locator(".katex").first).to_be_attached()


def finer_points(walk: Walk, page: Page) -> None:
    """Settings, shortcuts, files, a temporary chat, and a full server."""
    page.get_by_role("button", name="Model:").click()
    walk.shoot(page, "11-models", *page.get_by_role("menuitemradio").all())
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings of this chat").click()
    page.get_by_label("System prompt").fill("You help with Python 3.12. Show types, and keep it short.")
    page.get_by_label("Temperature").fill("0.2")
    walk.shoot(page, "12-settings", "Settings of this chat", page.get_by_role("button", name="Save"))
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Control+/")
    walk.shoot(page, "13-shortcuts", "Keyboard shortcuts", *page.locator("dialog kbd").all())
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Menu", exact=True).click()
    walk.shoot(page, "14-menu-of-the-page", *page.get_by_role("menu").get_by_role("menuitem").all())
    page.get_by_role("menuitem", name="Your data").click()
    walk.shoot(page, "15-your-data", "Your data", page.get_by_role("button", name="Delete all…"))
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("button", name="Temporary chat").click()
    walk.backend.script = [POEM]
    say(page, "Four lines about a walk along a ridge, please.")
    finished(page)
    page.mouse.move(1200, 640)
    walk.shoot(page, "16-temporary", page.get_by_role("note"), answers(page))
    page.get_by_role("button", name="New chat").click()
    full = Refusal("at_capacity", "All replicas are full.", retry_after_seconds=20.0)
    walk.backend.script = [full]
    say(page, "Plan a weekend in the mountains for four people.")
    expect(page.get_by_role("alert")).to_contain_text("We are at capacity")
    page.mouse.move(1200, 640)
    walk.shoot(page, "17-at-capacity", page.get_by_role("alert"))
    page.get_by_role("button", name="Don’t wait").click()


def thinking(walk: Walk, page: Page) -> None:
    """A model that thinks aloud, and what it thought."""
    page.get_by_role("button", name="New chat").first.click()
    page.get_by_role("button", name="Model:").click()
    page.get_by_role("menuitemradio", name="qwen3").click()
    walk.backend.script, walk.backend.title = [THOUGHTFUL], "Bat and ball"
    say(page, "A bat and a ball cost $1.10. The bat costs one dollar more than the ball. And the ball?")
    finished(page)
    expect(page.get_by_role("link", name="Bat and ball")).to_be_visible()
    page.get_by_text("Thoughts").click()
    page.mouse.move(1200, 640)
    walk.shoot(page, "18-thoughts", page.locator("details"), answers(page))


def other_screens(walk: Walk, page: Page) -> None:
    """The same in the dark, on a phone, and before one is signed in."""
    page.get_by_role("link", name="Binary search and its cost").click()
    expect(answers(page).locator(".katex").first).to_be_attached()
    address = page.url.removeprefix(walk.server.url)
    page.context.close()
    dark = walk.open(address, color_scheme="dark")
    at_the_end(walk, dark, "19-dark")
    phone = walk.open(address, device_scale_factor=2, **PHONE)
    at_the_end(walk, phone, "20-phone-answer")
    phone = walk.open(address, color_scheme="dark", device_scale_factor=2, **PHONE)
    phone.get_by_role("button", name="Show conversations").tap()
    walk.shoot(phone, "21-phone-list", phone.get_by_role("navigation"))
    phone.context.close()


def at_the_end(walk: Walk, page: Page, name: str) -> None:
    """The end of an answer with a formula."""
    walk.shoot(page, name, answers(page).locator(".katex-display"), answers(page).locator("footer"))
    page.context.close()


def signing_in(walk: Walk) -> None:
    """What those see whom the server asks for a key."""
    page = walk.open()
    answer = {"error": {"code": "invalid_api_key", "message": "No."}}
    page.route("**/web/session", lambda route: route.fulfill(status=401, json=answer))
    page.reload()
    page.get_by_label("API key").fill("a key of forty characters, more or less.")
    page.get_by_label("Stay signed in").check()
    walk.shoot(page, "22-sign-in", page.get_by_role("button", name="Continue"))
    page.context.close()


def earlier(walk: Walk) -> None:
    """Conversations of the days before."""
    now_ms = int(time.time() * 1000)
    conversations = []
    for index, (title, (days, text)) in enumerate(EARLIER.items()):
        at = now_ms - int(days * DAY_MS)
        question = {"id": f"q{index}", "role": "user", "content": title, "created_ms": at}
        answer = {"id": f"a{index}", "parent_id": f"q{index}", "role": "assistant", "content": text}
        conversations.append(
            {
                "id": f"{index:032x}",
                "title": title,
                "created_ms": at,
                "updated_ms": at,
                "messages": [question, answer | {"created_ms": at}],
            }
        )
    document = {"format": "ridgeline-conversations", "version": 1, "conversations": conversations}
    httpx.post(f"{walk.server.url}/web/import", json=document).raise_for_status()


def take(browser: Browser, folder: Path, *, png: bool = False) -> None:
    """All pictures, from a server that begins anew."""
    backend = ScriptedBackend()
    backend.delay_seconds = SECONDS_PER_TOKEN
    backend.title = "Why the sky is blue"
    backend.infos = [
        ModelInfo("smollm2-1.7b", 1, 8192, 100, 1_711_000_000),
        ModelInfo("qwen3-8b", 1, 32_768, 100, 8_190_000_000),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(backend, Path(scratch) / "walk.db", WebSettings())
        server.start()
        try:
            walk = Walk(server, browser, folder, png)
            page = first_answer(walk)
            second_conversation(walk, page)
            finer_points(walk, page)
            thinking(walk, page)
            other_screens(walk, page)
            signing_in(walk)
        finally:
            server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="where the pictures go")
    parser.add_argument("--png", action="store_true", help="PNG instead of WebP")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        take(browser, options.folder, png=options.png)
        browser.close()


if __name__ == "__main__":
    main()
