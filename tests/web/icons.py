"""Draws the icons of the installed page from its SVG: `python tests/web/icons.py`.

Writes `static/icons/`: with rounded corners at 192 and 512 pixels; filling the square for systems
that cut icons to a shape of their own (`maskable`, and `touch` for iOS).
"""

from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium-headless-shell"
STATIC = Path(__file__).parents[2] / "src" / "ridgeline" / "web" / "static"
GROUND = "#1f6b5e"
# Name, pixels, whether the ground fills the square, and how much of it the drawing takes. Of a
# maskable icon only a circle of 80 % is sure to be seen.
SIZES = (
    ("icon-192", 192, False, 1.0),
    ("icon-512", 512, False, 1.0),
    ("maskable-192", 192, True, 0.8),
    ("maskable-512", 512, True, 0.8),
    ("touch-180", 180, True, 0.9),
)


def main() -> None:
    """Draw them all."""
    svg = (STATIC / "icon.svg").read_text(encoding="utf-8")
    folder = STATIC / "icons"
    folder.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        page = browser.new_page()
        for name, pixels, fills, share in SIZES:
            page.set_viewport_size({"width": pixels, "height": pixels})
            ground = GROUND if fills else "transparent"
            page.set_content(
                f"<style>body{{margin:0;display:grid;place-items:center;height:100vh;background:{ground}}}"
                f"svg{{width:{share:.0%};height:{share:.0%}}}</style>{svg}"
            )
            page.screenshot(path=folder / f"{name}.png", omit_background=True)
        browser.close()


if __name__ == "__main__":
    main()
