"""Measures what a long answer costs the page: the renderer's share of one core, in Chromium.

    python benchmarks/chat_page.py [--tokens 10000] [--rate 100] [--what mixed] [--json FILE]

A chat site with a scripted model streams an answer into the page, token by token. The renderer's
CPU time is read from /proc (all threads of its process) and, for what it was spent on, from the
DevTools protocol (`Performance.getMetrics`); both are given for each tenth of the answer. If the
time per token grew with the answer, the last tenth would cost more than the first. The goal is
less than 30 % of one core at 100 tokens per second. Needs the `dev` extra and Chromium.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "web"))

from chatting import box
from playwright.sync_api import Page, sync_playwright
from scripted import ScriptedBackend, words
from served import Server

from conftest import CHROMIUM, CHROMIUM_FLAGS
from ridgeline.protocol import ModelInfo, Request
from ridgeline.web.settings import WebSettings

GOAL_SHARE = 0.30
_METRICS = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
_SENTENCE = "The ridge line runs from the north face to the col and carries **snow** until `June`. "
_SECTION = (
    "## Section {n}\n\n"
    + _SENTENCE * 3
    + "\n\n- one item of a list\n- another item, with a [link](https://example.org/)\n- a last one\n\n"
    + "```python\ndef area_{n}(radius: float) -> float:\n    # The area of a circle.\n"
    + "    return 3.14159 * radius**2\n\n\nprint(area_{n}(2.0))\n```\n\n"
    + "| peak | height | first ascent |\n|------|-------:|--------------|\n"
    + "| Mönch | 4110 | 1857 |\n| Eiger | 3967 | 1858 |\n\n"
    + "The sum is $\\sum_{{k=1}}^{n} k = \\frac{{{n}({n}+1)}}{{2}}$, and in general\n\n"
    + "$$\n\\int_0^{n} x^2\\,dx = \\frac{{{n}^3}}{{3}}\n$$\n\n"
    + _SENTENCE * 2
    + "\n\n"
)
_ENDLESS = {
    "mixed": ("", _SECTION),
    "paragraph": ("", _SENTENCE),
    "list": ("", "- item {n} of a list that does not end, with **bold** words\n"),
    "table": ("| number | square |\n|---|---|\n", "| row {n} | has some cells |\n"),
    "code": ("```python\n", "value_{n} = compute({n}, scale=2.0)  # line {n}\n"),
}


@dataclass(frozen=True, slots=True)
class Tenth:
    """What a part of the answer cost; shares are of one core."""

    first_token: int
    seconds: float
    process_share: float
    task_share: float
    script_share: float
    layout_share: float
    style_share: float


class PacedBackend(ScriptedBackend):
    """Says token n at n / `rate` seconds, however late the one before it was; `sent` counts."""

    rate = 100.0
    sent = 0
    _began = 0.0

    async def _wait(self, request: Request, count: int) -> None:
        if count == 0:
            self._began = time.perf_counter()
        self.sent = count
        await asyncio.sleep(max(0.0, self._began + count / self.rate - time.perf_counter()))


def answer(what: str, tokens: int) -> str:
    """So many tokens of the scripted backend, of one kind of Markdown."""
    head, unit = _ENDLESS[what]
    text, number = head, 0
    while len(words(text)) < tokens:
        number += 1
        text += "".join(unit.format(n=number + k) for k in range(20))
        number += 19
    return "".join(words(text)[:tokens])


class Renderer:
    """The process that draws the page."""

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable")
        self._pid = self._find(page)

    @staticmethod
    def _find(page: Page) -> int:
        """The renderer that burns CPU when this page does."""
        browser = page.context.browser
        assert browser is not None
        session = browser.new_browser_cdp_session()

        def used() -> dict[int, float]:
            listed = session.send("SystemInfo.getProcessInfo")["processInfo"]
            return {entry["id"]: entry["cpuTime"] for entry in listed if entry["type"] == "renderer"}

        before = used()
        page.evaluate("() => { const end = performance.now() + 400; while (performance.now() < end); }")
        return max(used().items(), key=lambda entry: entry[1] - before.get(entry[0], 0.0))[0]

    def cpu_seconds(self) -> float:
        """User and system time of all of its threads."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def reading(self) -> dict[str, float]:
        """Seconds so far, by what they were spent on, and the time of the clock."""
        told: list[dict[str, Any]] = self._session.send("Performance.getMetrics")["metrics"]
        values = {entry["name"]: float(entry["value"]) for entry in told}
        return {name: values[name] for name in _METRICS} | {
            "process": self.cpu_seconds(),
            "clock": time.perf_counter(),
        }


def tenth(first_token: int, before: dict[str, float], after: dict[str, float]) -> Tenth:
    """What was spent between two readings, as shares of the time between them."""
    seconds = after["clock"] - before["clock"]
    share = {name: (after[name] - before[name]) / seconds for name in before}
    return Tenth(
        first_token,
        seconds,
        share["process"],
        share["TaskDuration"],
        share["ScriptDuration"],
        share["LayoutDuration"],
        share["RecalcStyleDuration"],
    )


def measure(page: Page, backend: PacedBackend, text: str) -> list[Tenth]:
    """Stream `text`, and read the renderer at each tenth."""
    backend.reply = text
    total = len(words(text))
    renderer = Renderer(page)
    page.wait_for_timeout(1000)
    box(page).fill("Write")
    box(page).press("Enter")
    while backend.sent == 0:
        page.wait_for_timeout(5)
    found, before = [], renderer.reading()
    for number in range(1, 11):
        first, goal = total * (number - 1) // 10, min(total - 1, total * number // 10)
        while backend.sent < goal:
            page.wait_for_timeout(50)
        after = renderer.reading()
        found.append(tenth(first, before, after))
        before = after
    return found


def run(what: str, tokens: int, rate: float) -> list[Tenth]:
    """One answer in a fresh browser."""
    backend = PacedBackend()
    backend.rate = rate
    backend.infos = [ModelInfo("scripted", 1, 4 * tokens, 100, 1000)]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(backend, Path(folder) / "c.db", WebSettings(max_answer_tokens=2 * tokens))
        server.start()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(server.url)
            box(page).wait_for()
            found = measure(page, backend, answer(what, tokens))
            page.locator("article.answer .facts").wait_for(timeout=30_000)
        finally:
            browser.close()
            server.stop()
    return found


def table(what: str, found: list[Tenth]) -> str:
    """The shares as people read them."""
    lines = [f"{what}: share of one core", "  from token  process  tasks  script  layout  style"]
    for part in found:
        shares = (part.process_share, part.task_share, part.script_share)
        rest = (part.layout_share, part.style_share)
        first, second, third, fourth, fifth = (f"{share:.1%}" for share in shares + rest)
        lines.append(f"  {part.first_token:10}  {first:>7}  {second:>5}  {third:>6}  {fourth:>6}  {fifth:>5}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write what was found; fails where the goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=10_000, help="length of the answer")
    parser.add_argument("--rate", type=float, default=100.0, help="tokens per second")
    parser.add_argument("--what", nargs="+", choices=list(_ENDLESS), default=["mixed"], help="kinds of text")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    results = {}
    for what in options.what:
        found = run(what, options.tokens, options.rate)
        print(table(what, found), flush=True)
        results[what] = [asdict(part) for part in found]
    worst = max(part["process_share"] for parts in results.values() for part in parts)
    met = worst < GOAL_SHARE
    print(
        f"worst tenth: {worst:.1%} of one core; the goal of {GOAL_SHARE:.0%} is {'met' if met else 'missed'}"
    )
    if options.json:
        machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        settings = {"tokens": options.tokens, "tokens_per_second": options.rate}
        options.json.write_text(json.dumps(machine | settings | {"results": results}, indent=2) + "\n")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
