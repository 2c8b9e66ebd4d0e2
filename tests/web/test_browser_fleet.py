"""The fleet's page in Chromium: before a front door that runs, and before one that tells of everything."""

import json
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import axe
import fleet_told
import pytest
from chatting import PHONE
from fleet_processes import front_door, write_fleet
from looks import CALM, WIDE, open_list
from playwright.sync_api import Locator, Page, expect
from served import Server
from server_process import Served, serving, write_config

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
TOKEN = "the-fleets-token"


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server(front_door=True)


@pytest.fixture
def told() -> dict[str, Any]:
    """What `/fleet/status` answers; tests may change it."""
    return fleet_told.status()


@pytest.fixture
def open_fleet(server: Server, told: dict[str, Any], open_page: OpenPage) -> OpenPage:
    """Opens the page of a front door that tells what the test says."""

    def open_it(**options: Any) -> Page:
        page = open_page(f"{server.url}/explain", **options)
        page.route("**/fleet/status", lambda route: route.fulfill(json=told))
        page.goto(f"{server.url}/fleet")
        expect(page.locator("header .state")).to_have_text("Live")
        return page

    return open_it


def replica(page: Page, name: str) -> Locator:
    return page.locator("li.replica", has=page.get_by_text(name, exact=True))


def placements(page: Page) -> Locator:
    return page.get_by_role("region", name="Where the latest requests went, and why").locator("ol > li")


def test_a_fleet_that_runs(tmp_path: Path, open_page: OpenPage) -> None:
    """One after the other, for starting servers is what takes time."""
    simulated = ("--random-weights", str(write_config(tmp_path)), "--device", "simulated:h100")
    keys = ("--api-key", "ann=anns-key", "--fleet-token", TOKEN)
    links = [{"between": ["us", "eu"], "rtt_ms": 80}]
    with (
        serving(*simulated, data_dir=tmp_path / "us", seconds=100) as us,
        serving(*simulated, data_dir=tmp_path / "eu", seconds=100) as eu,
    ):
        file = write_fleet(tmp_path / "fleet.yaml", {"us": [us.url], "eu": [eu.url]}, links=links)
        with front_door(file, tmp_path / "door", *keys) as door:
            near, far = (f"{name}-a/{each.url.split('://')[1]}" for name, each in (("us", us), ("eu", eu)))
            page = asks_for_the_fleets_token(door, open_page)
            shows_both_regions(page, near, far)
            tells_where_a_request_went_and_why(page, door, near, far)
            shows_what_an_operator_does(page, door, far)
            eu.process.send_signal(signal.SIGKILL)
            expect(replica(page, far).locator(".tag")).to_have_text("does not answer")
            expect(replica(page, near).locator(".tag")).to_have_text("up")


def asks_for_the_fleets_token(door: Served, open_page: OpenPage) -> Page:
    page = open_page(f"{door.url}/dashboard", allow=("status of 403",))
    expect(page).to_have_url(f"{door.url}/fleet")
    expect(page.get_by_text("It asks for the fleet’s token, not for an API key.")).to_be_visible()
    for wrong in ("anns-key", "nonsense"):
        page.get_by_label("Fleet token").fill(wrong)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not this fleet’s token")
    assert "us-a" not in page.content()
    page.get_by_label("Fleet token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="This front door, in us")).to_be_visible()
    page.reload()  # this tab knows it still
    expect(page.get_by_role("heading", name="This front door, in us")).to_be_visible()
    kept = page.evaluate("[{...localStorage}, {...sessionStorage}]")
    assert TOKEN not in str(kept[0]) and kept[1]["ridgeline.fleet"] == TOKEN
    assert "ridgeline.key" not in kept[1]  # the chat in this tab still has its own, or none
    return page


def shows_both_regions(page: Page, near: str, far: str) -> None:
    for name in (near, far):
        expect(replica(page, name)).to_contain_text("Batch")
        expect(replica(page, name)).to_contain_text("s ago")
    expect(page.get_by_role("region", name="eu")).to_contain_text("80 ms from here and back")
    expect(placements(page)).to_have_count(0)


def tells_where_a_request_went_and_why(page: Page, door: Served, near: str, far: str) -> None:
    for _ in range(2):
        ask(door, "/v1/chat/completions", "anns-key", messages("All about rivers. " * 60))
    expect(placements(page)).to_have_count(2)
    again, first = placements(page).first, placements(page).last
    expect(first).to_contain_text("tokens cached anywhere")
    expect(first).to_contain_text("expected")
    expect(again).to_contain_text(" tokens cached there; ")
    expect(again.locator(".tag")).to_have_text("answered")
    expect(again).to_contain_text("found cached")
    assert any(name in again.inner_text() for name in (near, far))
    expect(page.locator(".shares small")).to_contain_text(["prompt tokens"] * 2)


def shows_what_an_operator_does(page: Page, door: Served, far: str) -> None:
    for action, says in (("cordon", "cordoned"), ("drain", "draining"), ("uncordon", "up")):
        ask(door, "/fleet/replicas", TOKEN, {"action": action, "replicas": [far]})
        expect(replica(page, far).locator(".tag")).to_have_text(says)


def messages(content: str) -> dict[str, Any]:
    return {"model": "sim", "messages": [{"role": "user", "content": content}], "max_tokens": 4}


def ask(door: Served, path: str, key: str, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(door.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.status == 200


def test_every_state_is_told_in_words(open_fleet: OpenPage) -> None:
    page = open_fleet()
    states = {
        "us-a/10.0.0.4:8000": "up",
        "us-a/10.0.0.5:8000": "cordoned",
        "us-a/10.0.0.6:8000": "draining",
        "us-a/10.0.0.7:8000": "new, starting slowly",
        "eu-a/10.1.0.4:8000": "left alone",
        "eu-a/10.1.0.5:8000": "full",
        "eu-a/10.1.0.9:8000": "does not answer",
    }
    for name, says in states.items():
        expect(replica(page, name).locator(".tag")).to_have_text(says)
    well = replica(page, "us-a/10.0.0.4:8000")
    for says in (
        "5 of 16",
        "37%",
        "of 262K tokens",
        "0.4 s ago",
        "1,204",
        "3 back: full",
        "9,877 tokens/s",
    ):
        expect(well).to_contain_text(says)
    expect(replica(page, "us-a/10.0.0.7:8000")).to_contain_text("Given 3 places so far")
    expect(replica(page, "us-a/10.0.0.7:8000")).to_contain_text("known by what was sent")
    expect(replica(page, "eu-a/10.1.0.4:8000")).to_contain_text("nothing is sent there for 4 s")
    blind = replica(page, "eu-a/10.1.0.6:8000")
    expect(blind).to_contain_text("it does not tell")
    expect(blind.locator("p.bad")).to_contain_text("does not tell vllm:kv_cache")
    door = page.get_by_role("region", name="This front door, in us")
    expect(door).to_contain_text("12 all replicas full")
    expect(door.locator(".facts")).to_contain_text("25")
    cached = page.get_by_role("region", name="Cached, as believed and as found")
    expect(cached).to_contain_text("12,345 tokens fewer than was believed")
    expect(page.get_by_role("region", name="asia")).to_contain_text("No cluster is in this region.")


def test_names_are_text(open_fleet: OpenPage) -> None:
    page = open_fleet()
    expect(placements(page).first.locator("code")).to_have_text(fleet_told.HOSTILE)
    assert page.locator("img").count() == 0
    assert placements(page).locator("a").count() == 0  # its owner's key is needed to see more


def test_a_large_cluster_is_drawn_when_it_is_opened(open_fleet: OpenPage, told: dict[str, Any]) -> None:
    told["replicas"] = [fleet_told.replica(f"10.0.0.{i}:8000", "us") for i in range(200)]
    told["replicas"][7]["state"] = "cordoned"
    page = open_fleet()
    summary = page.locator("summary", has=page.get_by_role("heading", name="us-a"))
    expect(summary).to_contain_text("200 replicas, Ray is to keep 4 · batch 1,000 of 3,200")
    expect(summary.locator(".tag")).to_have_text("1 cordoned")
    expect(page.locator("li.replica")).to_have_count(1)  # the one in eu that does not answer
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.locator("li.replica")).to_have_count(201)


def test_all_of_it_is_reached_by_keyboard(open_fleet: OpenPage) -> None:
    page = open_fleet()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the figures")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("A front door holds no model.")).to_be_visible()
    reached = []
    for _ in range(7):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText.split(' ')[0]"))
    assert reached == ["What", "What", "us-a", "eu-a", "What", "what", "What"]


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(open_fleet: OpenPage, size: dict[str, Any], scheme: str) -> None:
    page = open_fleet(color_scheme=scheme, **size, **CALM)
    expect(page.locator("li.replica")).to_have_count(8)
    for words in page.get_by_text("What do these words mean?").all():
        words.click()
    page.get_by_text("What is this page?").click()
    assert axe.violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground = page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(31, 39, 41)"}[scheme]


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_from_the_chat_and_back(server: Server, open_page: OpenPage, size: dict[str, Any]) -> None:
    told = json.dumps(fleet_told.status())
    page = open_page(server.url, **size)
    page.route("**/fleet/status", lambda route: route.fulfill(body=told, content_type="application/json"))
    open_list(page)
    page.get_by_role("button", name="Menu", exact=True).click()
    page.get_by_role("menuitem", name="Dashboard").click()
    expect(page.get_by_role("heading", name="Replicas")).to_be_visible()
    page.get_by_role("link", name="Back to the chat").click()
    expect(page.get_by_role("textbox", name="Message", exact=True)).to_be_visible()


def test_a_hidden_tab_asks_for_nothing(open_fleet: OpenPage) -> None:
    page = open_fleet()
    page.evaluate(
        """() => {
            Object.defineProperty(document, 'hidden', { configurable: true, get: () => true });
            document.dispatchEvent(new Event('visibilitychange'));
        }"""
    )
    expect(page.locator("header .state")).to_have_text("Paused while hidden")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)
    assert asked == []
