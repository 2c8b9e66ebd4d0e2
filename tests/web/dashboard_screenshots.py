"""Takes pictures of the dashboard of a running server that is under load: for the guide, and to be looked at.

    ridgeline serve --device simulated:h100 --random-weights config.json --kv-memory 6GiB &
    ridgeline bench --conversations 500 --concurrency 24 &
    python tests/web/dashboard_screenshots.py http://127.0.0.1:8000 docs/images [--seconds 60] [--page fleet]

Writes dashboard-desktop-light.png and three more (on a desktop the whole page), once its lines are so many
seconds long; with `--page fleet` those of a front door.
"""

import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright
from screenshots import CHROMIUM, FLAGS, contexts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="address of the running server")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--key", help="API key, if the server needs one")
    parser.add_argument("--page", choices=("dashboard", "fleet"), default="dashboard")
    parser.add_argument("--seconds", type=float, default=60, help="how long each page stays open before")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, context in contexts(browser, options.key):
            page = context.new_page()
            page.goto(f"{options.url}/{options.page}")
            page.locator("section.card").first.wait_for()
            page.wait_for_timeout(options.seconds * 1000)
            path = options.folder / f"{options.page}-{name}.png"
            page.screenshot(path=path, full_page=name.startswith("desktop"))
            print(f"{path}  {path.stat().st_size // 1024} KB")
        browser.close()


if __name__ == "__main__":
    main()
