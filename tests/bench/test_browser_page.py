"""The page with plots in a browser: readable on a phone, light and dark, and nothing is fetched."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_openai import FakeServer, serving
from playwright.sync_api import Browser, sync_playwright

from ridgeline.bench.measure import Plan, measure
from ridgeline.bench.page import page
from ridgeline.bench.ramp import Ramp
from ridgeline.bench.report import Targets
from ridgeline.bench.runner import Load
from ridgeline.bench.workload import Shape

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium-headless-shell"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    async def made() -> str:
        async with serving(FakeServer(tokens=8, refuse=(30, 31))) as url:
            plan = Plan(
                url,
                Load(conversations=None, concurrency=None, rate_per_second=40.0),
                shape=Shape(turns=3, input_tokens=5),
                targets=Targets(ttft_seconds=1.0, itl_seconds=0.5),
                ramp=Ramp(factor=2, step_seconds=1.0, steps=2),
            )
            return page(plan, await measure(plan))

    file = tmp_path_factory.mktemp("page") / "report.html"
    with ThreadPoolExecutor(1) as own:  # Playwright has an event loop on this thread
        file.write_text(own.submit(lambda: asyncio.run(made())).result())
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable(browser: Browser, report: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    shown = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.on("console", lambda message: said.append(message.text))
    shown.goto(report.as_uri())
    assert asked == [report.as_uri()]
    assert not said
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    # Letters of the plots as the reader sees them, in CSS pixels.
    sizes = shown.eval_on_selector_all(
        "svg text",
        "texts => texts.map(t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)",
    )
    assert sizes
    assert min(sizes) >= 8.5
    dark = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(18, 18, 17)") == (scheme == "dark")
    context.close()
