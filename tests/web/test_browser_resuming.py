"""An answer whose server is lost in the middle goes on by itself, in Chromium."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import axe
import httpx
import pytest
from chatting import PHONE, answers, box, finished, last_answer, say, with_clock, words
from door import Door, Way, make_server
from playwright.sync_api import Page, Route, expect
from served import Server

from ridgeline.protocol import Refusal

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]
LOST = (
    "ERR_CONNECTION_REFUSED",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",
    "ERR_CONNECTION_RESET",
    "ERR_EMPTY_RESPONSE",
    "ERR_SOCKET_NOT_CONNECTED",
    "ERR_CONNECTION_CLOSED",
    "status of 503",
    "status of 502",
)
WORD_SECONDS = 0.04
WORDS = 60
HELD = 15
TEXT = words(WORDS)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path / "c.db", TEXT, WORD_SECONDS)
    yield door
    door.kill()


@pytest.fixture
def make_teller(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    """Sites that share a database; each holds its first answer in the middle."""
    with contextlib.ExitStack() as stack:

        def make() -> Server:
            server = make_server(tmp_path / "c.db", TEXT, delay_seconds=0.0)
            server.backend.hold_after = HELD
            server.start()
            stack.callback(server.stop)
            stack.callback(setattr, server.backend, "hold_after", None)
            return server

        yield make


@pytest.fixture
def teller(make_teller: Callable[[], Server]) -> Server:
    return make_teller()


@pytest.fixture
def way(teller: Server) -> Iterator[Way]:
    way = Way(teller.port)
    yield way
    way.close()


def begun(page: Page, word: int = 10) -> None:
    """Ask, and wait until the answer has come to a word."""
    say(page, "Tell me")
    expect(last_answer(page)).to_contain_text(f"word{word} ")


def whole(page: Page, url: str, *released: Server) -> None:
    """Let servers go on, and see that all of the answer comes, and is kept once."""
    for server in released:
        server.backend.hold_after = None
    expect(last_answer(page)).to_have_text(TEXT)
    finished(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    found = httpx.get(f"{url}/web/conversations/{page.url.rsplit('/', 1)[1]}").json()["messages"]
    assert [row["role"] for row in found] == ["user", "assistant"]
    answer = found[-1]
    assert (answer["status"], answer["finish"], answer["content"]) == ("complete", "stop", TEXT)
    assert answer["usage"]["completion_tokens"] == WORDS


def lost(page: Page) -> None:
    expect(answers(page).last).to_contain_text("The connection is lost")


def test_a_killed_server_that_comes_back(door: Door, open_page: OpenPage) -> None:
    page = open_page(door.url, allow=LOST)
    begun(page)
    door.kill()
    lost(page)
    page.wait_for_timeout(200)  # until all that has arrived is shown
    before = last_answer(page).inner_text()
    assert before.startswith(words(10))
    page.wait_for_timeout(1000)
    assert last_answer(page).inner_text() == before, "what is there stays"
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    door.start()
    whole(page, door.url)
    page.reload()
    expect(last_answer(page)).to_have_text(TEXT)


def test_a_cut_connection_takes_up_the_same_run(teller: Server, way: Way, open_page: OpenPage) -> None:
    page = open_page(way.url, allow=LOST)
    begun(page)
    way.cut()
    lost(page)
    way.mend()
    expect(answers(page).last).not_to_contain_text("The connection is lost")
    whole(page, teller.url, teller)
    assert len(teller.backend.requests) == 1


def test_a_stalled_connection_is_a_lost_one(teller: Server, way: Way, open_page: OpenPage) -> None:
    page = open_page(way.url, allow=LOST)
    begun(page)
    way.stall()
    lost(page)
    way.cut()
    way.mend()
    whole(page, teller.url, teller)


def test_the_next_connection_reaches_another_door(
    make_teller: Callable[[], Server], open_page: OpenPage
) -> None:
    first, second = make_teller(), make_teller()
    way = Way(first.port)
    page = open_page(way.url, allow=LOST)
    begun(page)
    way.cut()
    way.mend(second.port)
    whole(page, second.url, second)
    # The first one is alive: it finds out that the answer is not its own any more, and leaves it alone.
    first.backend.hold_after = None
    while first.backend.running:
        page.wait_for_timeout(20)
    page.wait_for_timeout(300)
    whole(page, first.url)
    assert len(first.backend.requests) == len(second.backend.requests) == 1
    way.close()


def test_a_killed_door_and_another_one_beside_it(door: Door, teller: Server, open_page: OpenPage) -> None:
    way = Way(door.port)
    page = open_page(way.url, allow=LOST)
    begun(page)
    door.kill()
    way.mend(teller.port)
    whole(page, teller.url, teller)
    assert len(teller.backend.requests) == 1
    assert teller.backend.requests[0].continue_final_message
    way.close()


def test_a_draining_server_leaves_the_answer_to_the_next(
    make_teller: Callable[[], Server], open_page: OpenPage
) -> None:
    first, second = make_teller(), make_teller()
    way = Way(first.port)
    page = open_page(way.url, allow=LOST)
    begun(page)
    first.backend.draining = True
    first.backend.cancel(first.backend.requests[0].id)
    lost(page)
    way.mend(second.port)
    whole(page, second.url, second)
    first.backend.requests.clear()
    way.mend(first.port)
    way.cut()
    way.mend()
    with page.expect_response(lambda response: response.status == 503) as refused:
        say(page, "And now?")
    assert refused.value.headers["connection"] == "close"
    way.mend(second.port)
    expect(answers(page)).to_have_count(2)
    expect(box(page)).to_have_value("")
    assert first.backend.requests == []
    way.close()


def test_stopped_while_the_server_is_away(teller: Server, way: Way, open_page: OpenPage) -> None:
    page = open_page(way.url, allow=LOST)
    begun(page)
    way.cut()
    lost(page)
    teller.stop()
    page.get_by_role("button", name="Stop").click()
    expect(answers(page).last).to_contain_text("Stopped")
    expect(answers(page).last).not_to_contain_text("The connection is lost")
    text = last_answer(page).inner_text()
    teller.start()
    with page.expect_response(lambda response: response.url.endswith("/stop") and response.ok):
        way.mend()
    page.wait_for_timeout(500)
    assert last_answer(page).inner_text() == text
    page.reload()
    expect(answers(page).last).to_contain_text("Stopped")
    expect(last_answer(page)).to_have_text(text)
    assert len(teller.backend.requests) == 1
    teller.backend.hold_after = None
    page.get_by_role("button", name="Continue").click()
    whole_text(page)


def whole_text(page: Page) -> None:
    expect(last_answer(page)).to_have_text(TEXT)
    finished(page)


def test_at_capacity_is_told_with_its_wait(teller: Server, way: Way, open_page: OpenPage) -> None:
    page = open_page(way.url, allow=LOST)
    begun(page)
    teller.backend.script = [Refusal("at_capacity", "All full.", retry_after_seconds=60.0)]
    teller.stop()
    teller.start()
    expect(page.get_by_role("alert")).to_contain_text("We are at capacity")
    expect(page.get_by_role("alert")).to_contain_text("Trying again in")
    assert len(teller.backend.requests) == 2
    page.get_by_role("button", name="Try now").click()
    whole(page, teller.url, teller)


def test_what_does_not_pass_is_tried_some_times_and_told(
    teller: Server, way: Way, open_page: OpenPage
) -> None:
    page = open_page(way.url, allow=LOST)
    with_clock(page)
    tried: list[str] = []

    def bad_gateway(route: Route) -> None:
        tried.append(route.request.url)
        route.fulfill(status=502, body="<h1>Bad gateway</h1>")

    page.route("**/continue", bad_gateway)
    begun(page)
    way.cut()
    lost(page)
    way.mend()
    while page.get_by_role("alert").count() == 0:
        assert len(tried) < 20
        page.clock.fast_forward(7000)
    expect(page.get_by_role("alert")).to_contain_text("Something went wrong at the server")
    tries = len(tried)
    assert 13 <= tries <= 16, "one whose answer is awaited while the clock is moved on does not count"
    page.clock.fast_forward(60_000)
    assert len(tried) == tries
    page.unroute("**/continue")
    teller.backend.hold_after = None
    page.get_by_role("button", name="Continue").click()
    whole_text(page)


@pytest.mark.parametrize("then", ["goes on", "is stopped"])
def test_a_temporary_chat_is_put_back(teller: Server, way: Way, open_page: OpenPage, then: str) -> None:
    page = open_page(f"{way.url}/?temporary", allow=(*LOST, "status of 404"))
    begun(page)
    way.cut()
    lost(page)
    teller.stop()
    if then == "is stopped":
        page.get_by_role("button", name="Stop").click()
        expect(answers(page).last).to_contain_text("Stopped")
    else:
        teller.backend.hold_after = None
    teller.start()
    way.mend(teller.port)
    if then == "is stopped":
        page.wait_for_event("response", lambda response: response.url.endswith("/stop") and response.ok)
        teller.backend.hold_after = None
        page.get_by_role("button", name="Continue").click()
    whole_text(page)
    teller.backend.text = "Something more."
    say(page, "And then?")
    expect(last_answer(page)).to_have_text("Something more.")
    texts = [message.content for message in teller.backend.requests[-1].messages or ()]
    assert texts == ["Tell me", TEXT, "And then?"]
    assert httpx.get(f"{teller.url}/web/conversations").json()["conversations"] == []


def test_three_tabs_at_two_doors_go_on_once(make_teller: Callable[[], Server], open_page: OpenPage) -> None:
    first, second, third = make_teller(), make_teller(), make_teller()
    ways = [Way(first.port), Way(first.port)]
    here = open_page(ways[0].url, allow=LOST)
    begun(here)
    elsewhere = here.url.replace(ways[0].url, ways[1].url)
    tabs = [here, open_page(here.url, allow=LOST), open_page(elsewhere, allow=LOST)]
    for page in tabs:
        expect(last_answer(page)).to_contain_text("word10 ")
    for way, door_behind in zip(ways, (second, third), strict=True):
        way.cut()
        way.mend(door_behind.port)
    for page in tabs:
        whole(page, third.url, second, third)
    assert len(second.backend.requests) + len(third.backend.requests) == 1
    for way in ways:
        way.close()


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_the_lost_connection_is_shown_quietly(way: Way, open_page: OpenPage, colours: str) -> None:
    page = open_page(way.url, allow=LOST, **PHONE, color_scheme=colours)
    box(page).fill("Tell me")
    page.get_by_role("button", name="Send", exact=True).tap()
    expect(last_answer(page)).to_contain_text("word10 ")
    way.cut()
    lost(page)
    expect(page.locator("p[role=status]")).to_have_text("The connection is lost; trying again")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert axe.violations(page) == []
