"""The dashboard in Chromium: what it says, whom it lets in, and what it does when nobody answers."""

import re
import time
from collections.abc import Callable
from typing import Any

import axe
import measured
import pytest
from chatting import PHONE
from looks import CALM, WIDE, open_list
from playwright.sync_api import Locator, Page, expect
from served import Server

from ridgeline.telemetry.metrics import Metrics

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]


@pytest.fixture
def clock() -> measured.Clock:
    return measured.Clock()


@pytest.fixture
def metrics(clock: measured.Clock) -> Metrics:
    return Metrics(clock)


@pytest.fixture
def server(make_server: Callable[..., Server], metrics: Metrics, clock: measured.Clock) -> Server:
    """A server with one engine that looks busy and is not full."""
    measured.busy(metrics.engine("tiny", block_size_tokens=16, blocks_total=100), clock)
    return make_server(metrics=metrics)


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def points(page: Page, kind: str) -> Locator:
    return card(page, "Roofline").locator(f".plot .points.{kind}")


def state(page: Page) -> Locator:
    return page.locator("header .state")


def test_it_says_what_binds_and_how_much_fits(server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/dashboard")
    expect(state(page)).to_have_text("Live")
    verdict = card(page, "What binds now")
    expect(verdict).to_contain_text("Reading the KV cache binds")
    expect(verdict).to_contain_text("busy does not mean full")
    expect(verdict).to_contain_text("A narrower KV cache or shorter contexts")
    batch = card(page, "Batch")
    expect(batch).to_contain_text("12 answers in the last step")
    expect(batch.locator("li.first")).to_contain_text("the KV cache is full")
    expect(batch.locator("li.first")).to_contain_text("3 more")
    expect(batch).to_contain_text("tokens come slower than 50 ms")
    expect(batch).to_contain_text("The ridge is out of reach")
    expect(card(page, "KV memory").locator(".legend")).to_have_text("running 70%idle 20%free 10%")
    prompts = card(page, "Prompts found again")
    expect(prompts.locator(".legend li")).to_have_count(4)
    expect(prompts).to_contain_text("Reading again what had been lost took 2.5 s")
    expect(prompts).to_contain_text("1 running answer was put back")
    expect(card(page, "Busy is not full")).to_contain_text("The device looks used up")
    expect(card(page, "Speed").get_by_role("row", name="First token")).to_contain_text("ms")
    expect(card(page, "Requests").locator(".refused")).to_have_text("4 no room")


def test_a_model_that_predicts_badly_is_seen_at_once(server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/dashboard")
    foreseen = card(page, "What was foreseen")
    step = foreseen.locator(".kind", has_text="Length of a step")
    expect(step.locator(".tag")).to_have_text("Predicts badly")
    expect(step).to_contain_text("Mostly 50% too high")
    expect(step.get_by_role("img")).to_have_accessible_name(
        "The latest 80 predictions, foreseen against what came; on the line is right."
    )
    expect(foreseen.locator(".kind", has_text="first token").locator(".tag")).to_have_text("Predicts well")


def test_steps_are_chosen_workload_by_workload(server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/dashboard")
    roofline = card(page, "Roofline")
    for kind in ("reading", "writing", "both"):
        expect(points(page, kind)).to_have_attribute("d", re.compile("^M"))
    rows = roofline.locator("tbody tr")
    expect(rows).to_have_count(3)
    roofline.get_by_role("button", name="Reading prompts").click()
    expect(roofline.get_by_role("button", name="Reading prompts")).to_have_attribute("aria-pressed", "false")
    expect(points(page, "reading")).to_have_attribute("d", "")
    expect(points(page, "writing")).to_have_attribute("d", re.compile("^M"))
    expect(rows).to_have_count(2)
    expect(roofline.locator(".plot svg")).to_have_accessible_name(
        re.compile("Steps of .*Writing answers: 40 steps")
    )


def test_models_are_chosen_by_name(
    server: Server, metrics: Metrics, clock: measured.Clock, open_page: OpenPage
) -> None:
    measured.full(metrics.engine("large", blocks_total=100), clock)
    page = open_page(f"{server.url}/dashboard")
    expect(card(page, "Batch")).to_contain_text("12 answers in the last step")
    page.get_by_role("group", name="Models").get_by_role("button", name="large").click()
    expect(card(page, "What binds now")).to_contain_text("The KV cache is full")
    expect(card(page, "What was foreseen")).to_contain_text("Too few to judge")


def test_what_changes_is_seen_without_loading_again(
    server: Server, metrics: Metrics, clock: measured.Clock, open_page: OpenPage
) -> None:
    page = open_page(f"{server.url}/dashboard")
    card(page, "Batch").get_by_text("What do these words mean?").click()
    meaning = card(page, "Batch").get_by_text("The answers that share one step")
    expect(meaning).to_be_visible()
    measured.busy(metrics.engine("tiny"), clock, bound="compute")
    expect(card(page, "What binds now")).to_contain_text("Arithmetic binds")
    expect(meaning).to_be_visible()  # what somebody has opened stays open


def test_before_anything_ran_there_is_a_page(make_server: Callable[..., Server], open_page: OpenPage) -> None:
    metrics = Metrics()
    server = make_server(metrics=metrics)
    page = open_page(f"{server.url}/dashboard")
    expect(page.get_by_text("No model is served yet.")).to_be_visible()
    metrics.engine("tiny", blocks_total=10)
    expect(card(page, "What binds now")).to_contain_text("Nothing to do")
    expect(card(page, "Prompts found again")).to_contain_text("No prompt came")
    expect(card(page, "Roofline")).to_contain_text("No steps in the last minute.")
    expect(card(page, "What was foreseen")).to_contain_text("Nothing was foreseen yet.")


def test_a_server_that_goes_and_comes_back(server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/dashboard", allow=("ERR_CONNECTION", "ERR_FAILED", "ERR_EMPTY"))
    expect(state(page)).to_have_text("Live")
    server.stop()
    expect(state(page)).to_contain_text("The server does not answer since")
    expect(card(page, "Batch")).to_be_visible()  # the last figures stay
    server.start()
    expect(state(page)).to_have_text("Live")


def test_a_hidden_tab_asks_for_nothing(server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/dashboard")
    expect(state(page)).to_have_text("Live")
    hide = """(hidden) => {
        Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.evaluate(hide, True)
    expect(state(page)).to_have_text("Paused while hidden")
    asked: list[float] = []
    page.on("request", lambda request: asked.append(time.monotonic()))
    page.wait_for_timeout(2500)
    assert asked == []
    with page.expect_request("**/dashboard/live"):
        page.evaluate(hide, False)
    expect(state(page)).to_have_text("Live")


def test_without_the_key_it_shows_nothing(make_server: Callable[..., Server], open_page: OpenPage) -> None:
    metrics = Metrics()
    metrics.engine("secret-model")
    server = make_server(api_keys={"ann": "right-key"}, metrics=metrics)
    page = open_page(f"{server.url}/dashboard", allow=("status of 401",))
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("not one of this server’s keys")
    assert "secret-model" not in page.content()
    page.get_by_label("API key").fill("right-key")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("secret-model")).to_be_visible()


def test_a_server_without_metrics_says_so(make_server: Callable[..., Server], open_page: OpenPage) -> None:
    page = open_page(f"{make_server().url}/dashboard", allow=("status of 404",))
    expect(state(page)).to_have_text("This server tells no figures.")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_from_the_chat_and_back(server: Server, open_page: OpenPage, size: dict[str, Any]) -> None:
    page = open_page(server.url, **size)
    expect(page.get_by_role("textbox", name="Message", exact=True)).to_be_visible()
    open_list(page)
    page.get_by_role("button", name="Menu", exact=True).click()
    page.get_by_role("menuitem", name="Dashboard").click()
    expect(card(page, "Batch")).to_be_visible()
    page.get_by_role("link", name="Back to the chat").click()
    expect(page.get_by_role("textbox", name="Message", exact=True)).to_be_visible()


def test_the_words_are_explained_by_keyboard(server: Server, open_page: OpenPage) -> None:
    page = open_page(f"{server.url}/dashboard")
    expect(card(page, "Batch")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the figures")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("A language model writes an answer in steps.")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("What takes longest in a step")).to_be_visible()


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(
    server: Server, metrics: Metrics, open_page: OpenPage, size: dict[str, Any], scheme: str
) -> None:
    metrics.engine("another")
    page = open_page(f"{server.url}/dashboard", color_scheme=scheme, **size, **CALM)
    expect(card(page, "Batch")).to_be_visible()
    assert axe.violations(page) == []
    for words in page.get_by_text("What do these words mean?").all():
        words.click()
    page.get_by_text("What is this page?").click()
    assert axe.violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
