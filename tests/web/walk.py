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
from playwright.sync_api import Browser, Page, expect, sync_playwright
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
        size = {"viewport": {"width": 1280, "height": 800}}
        context = self._browser.new_context(**(size | options))
        page = context.new_page()
        page.goto(self.server.url + path)
        expect(box(page)).to_be_visible()
        return page

    def shoot(self, page: Page, name: str, *, dialog: str | None = None) -> None:
        """One picture, once the page has come to rest; with the dialog of that name, or with none."""
        expect(page.get_by_role("dialog")).to_have_count(0 if dialog is None else 1)
        if dialog is not None:
            expect(page.get_by_role("dialog")).to_have_accessible_name(dialog)
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
    walk.shoot(page, "01-open")
    walk.backend.script, walk.backend.hold_after = [SKY], 34
    page.get_by_role("button", name="Explain").click()
    expect(answers(page)).to_contain_text("Blue light")
    page.mouse.move(640, 640)
    walk.shoot(page, "02-streaming")
    page.get_by_role("button", name="Stop").click()
    expect(answers(page)).to_contain_text("Stopped")
    walk.shoot(page, "03-stopped")
    walk.backend.hold_after = None
    walk.backend.script = [SKY.partition("reaches you from the ")[2]]
    page.get_by_role("button", name="Continue").click()
    finished(page)
    page.locator(".question").hover()
    page.get_by_role("button", name="Edit").click()
    editor = page.locator("article.question textarea")
    editor.fill("Why is the sky blue? Answer for a child of five.")
    walk.shoot(page, "04-edit")
    walk.backend.script = [SKY_FOR_A_CHILD]
    editor.press("Enter")
    expect(answers(page)).to_contain_text("pinball")
    finished(page)
    page.locator(".question").hover()
    walk.shoot(page, "05-versions")
    return page


def second_conversation(walk: Walk, page: Page) -> None:
    """Code, a table and formulas; then a list to find one's way in."""
    walk.backend.script, walk.backend.title = [SEARCH_ANSWER], "Binary search and its cost"
    page.get_by_role("button", name="New chat").click()
    say(page, "Show me binary search in Python, and why it is fast.")
    finished(page)
    expect(answers(page).locator(".katex").first).to_be_attached()
    expect(page.get_by_role("link", name="Binary search and its cost")).to_be_visible()
    page.locator(".scroller").evaluate("(box) => box.scrollTo(0, 0)")
    page.mouse.move(1200, 640)
    walk.shoot(page, "06-code-and-maths")
    earlier(walk)
    page.reload()
    row = page.get_by_role("link", name="Packing list for a hut tour")
    row.hover()
    page.get_by_role("button", name="Options for “Packing list for a hut tour”").click()
    walk.shoot(page, "07-menu")
    page.get_by_role("menuitem", name="Pin").click()
    expect(page.get_by_role("heading", name="Pinned")).to_be_visible()
    page.get_by_role("button", name="Options for “Names for a hiking club”").click()
    page.get_by_role("menuitem", name="Rename").click()
    page.get_by_role("textbox", name="New title").fill("The Ridge Ramblers")
    walk.shoot(page, "08-rename")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+k")
    page.get_by_role("combobox").fill("light")
    expect(page.locator("mark").first).to_be_visible()
    walk.shoot(page, "09-search", dialog="Search conversations")
    page.keyboard.press("Enter")
    expect(page.locator(".found")).to_be_visible()
    walk.shoot(page, "10-found")
    page.get_by_role("link", name="Binary search and its cost").click()
    expect(answers(page).locator(".katex").first).to_be_attached()


def finer_points(walk: Walk, page: Page) -> None:
    """Settings, shortcuts, files, a temporary chat, and a full server."""
    page.get_by_role("button", name="Model:").click()
    walk.shoot(page, "11-models")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings of this chat").click()
    page.get_by_label("System prompt").fill("You help with Python 3.12. Show types, and keep it short.")
    page.get_by_label("Temperature").fill("0.2")
    walk.shoot(page, "12-settings", dialog="Settings of this chat")
    page.get_by_role("button", name="Save").click()
    page.keyboard.press("Control+/")
    walk.shoot(page, "13-shortcuts", dialog="Keyboard shortcuts")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Import and export").click()
    walk.shoot(page, "14-import-and-export", dialog="Import and export")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("button", name="Temporary chat").click()
    walk.backend.script = [POEM]
    say(page, "Four lines about a walk along a ridge, please.")
    finished(page)
    page.mouse.move(1200, 640)
    walk.shoot(page, "15-temporary")
    page.get_by_role("button", name="New chat").click()
    full = Refusal("at_capacity", "All replicas are full.", retry_after_seconds=20.0)
    walk.backend.script = [full]
    say(page, "Plan a weekend in the mountains for four people.")
    expect(page.get_by_role("alert")).to_contain_text("We are at capacity")
    page.mouse.move(1200, 640)
    walk.shoot(page, "16-at-capacity")
    page.get_by_role("button", name="Don’t wait").click()


def other_screens(walk: Walk, page: Page) -> None:
    """The same on a phone and in the dark."""
    page.get_by_role("link", name="Binary search and its cost").click()
    expect(answers(page).locator(".katex").first).to_be_attached()
    address = page.url.removeprefix(walk.server.url)
    page.context.close()
    dark = walk.open(address, color_scheme="dark")
    expect(answers(dark).locator(".katex").first).to_be_attached()
    dark.locator(".scroller").evaluate("(box) => box.scrollTo(0, 0)")
    walk.shoot(dark, "17-dark")
    dark.context.close()
    for number, scheme in (("18", "light"), ("19", "dark")):
        phone = walk.open(address, color_scheme=scheme, device_scale_factor=2, **PHONE)
        if scheme == "light":
            expect(answers(phone).locator(".katex").first).to_be_attached()
            phone.locator(".scroller").evaluate("(box) => box.scrollTo(0, 0)")
        else:
            phone.get_by_role("button", name="Show conversations").tap()
        walk.shoot(phone, f"{number}-phone-{'list' if scheme == 'dark' else 'answer'}")
        phone.context.close()


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="where the pictures go")
    parser.add_argument("--png", action="store_true", help="PNG instead of WebP")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    backend = ScriptedBackend()
    backend.delay_seconds = SECONDS_PER_TOKEN
    backend.title = "Why the sky is blue"
    backend.infos = [
        ModelInfo("smollm2-1.7b", 1, 8192, 100, 1_711_000_000),
        ModelInfo("qwen3-8b", 1, 32_768, 100, 8_190_000_000),
    ]
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        server = Server(backend, Path(scratch) / "walk.db", WebSettings())
        server.start()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            walk = Walk(server, browser, options.folder, options.png)
            page = first_answer(walk)
            second_conversation(walk, page)
            finer_points(walk, page)
            other_screens(walk, page)
        finally:
            browser.close()
            server.stop()


if __name__ == "__main__":
    main()
