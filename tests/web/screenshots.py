"""Takes pictures of a running chat site, in Chromium: for the documentation, and to be looked at.

    python tests/web/screenshots.py http://127.0.0.1:8000 docs/images [--key KEY]

Writes chat-desktop-light.png, chat-desktop-dark.png, chat-phone-light.png, chat-phone-dark.png of a
short conversation with the model that is served, and the same for the empty page (`empty-...`). The
answers are always the same where it runs with `--site temperature=0`.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium-headless-shell"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
QUESTIONS = (
    "Write a Python function that reverses a string.",
    "Give me three tips for a good night's sleep.",
)
SIZES = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
ANSWER_TIMEOUT_MS = 300_000


def contexts(browser: Browser, key: str | None) -> Iterator[tuple[str, BrowserContext]]:
    """One context per size and colour scheme, named by both."""
    for size, options in SIZES.items():
        for scheme in ("light", "dark"):
            context = browser.new_context(color_scheme=scheme, **options)  # type: ignore[arg-type]
            if key:
                context.add_init_script(f"sessionStorage.setItem('ridgeline.key', {key!r})")
            yield f"{size}-{scheme}", context
            context.close()


def talk(page: Page, url: str) -> str:
    """Hold the conversation, and return its address."""
    page.goto(url)
    for count, question in enumerate(QUESTIONS, start=1):
        page.get_by_role("textbox", name="Message").fill(question)
        page.get_by_role("button", name="Send", exact=True).click()
        footers = page.locator("article.answer footer")
        footers.nth(count - 1).wait_for(timeout=ANSWER_TIMEOUT_MS)
    page.wait_for_url(re.compile(r"/c/[0-9a-f]{32}$"))
    return page.url


def shoot(page: Page, url: str, path: Path) -> None:
    """One picture of an address, once it has come to rest."""
    page.goto(url)
    page.locator("article.answer footer, section.empty").last.wait_for()
    page.wait_for_timeout(300)
    page.screenshot(path=path)
    print(f"{path}  {path.stat().st_size // 1024} KB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="address of the running server")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--key", help="API key, if the server needs one")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    conversation = None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, context in contexts(browser, options.key):
            page = context.new_page()
            conversation = conversation or talk(page, options.url)
            shoot(page, conversation, options.folder / f"chat-{name}.png")
            shoot(page, options.url, options.folder / f"empty-{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
