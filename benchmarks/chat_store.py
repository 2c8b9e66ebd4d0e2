"""Does the chat site stay quick with a large store?

A store of 5,000 conversations of 20 messages each is made, and each page is asked for over and over
through the server's own routes, in one process, without a network. Goal: every page under 200 ms.

    list     the newest conversations, and the page in the middle
    open     a conversation with its messages
    search   a common word, a rare one, two letters, nothing to be found, another tenant's words
    patch    rename a conversation
    export   one conversation

    python benchmarks/chat_store.py [--conversations 5000] [--messages 20] [--repetitions 30]
"""

import argparse
import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import httpx

from ridgeline.api.app import create_app
from ridgeline.api.settings import ApiSettings
from ridgeline.protocol import Delta, Message, ModelInfo, Request, Status
from ridgeline.store.records import Conversation, StoredMessage
from ridgeline.store.store import Store
from ridgeline.web.app import mount

GOAL_MS = 200
KEYS = {"ann": "key-of-ann", "bob": "key-of-bob"}
RARE = "zyxwvutsrq"
CONVERSATION_SECONDS = 60


class NoModel:
    """A backend that is never asked for anything."""

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Not reached."""
        raise AssertionError(request.id)
        yield

    def cancel(self, request_id: str) -> None:
        """Nothing runs."""

    def models(self) -> Sequence[ModelInfo]:
        """None."""
        return ()

    def status(self) -> Status:
        """Ready."""
        return Status("ready")

    async def tokenize(
        self, model: str, text: str | None = None, messages: Sequence[Message] | None = None
    ) -> list[int]:
        """Not reached."""
        raise AssertionError(model)

    async def detokenize(self, model: str, token_ids: Sequence[int]) -> str:
        """Not reached."""
        raise AssertionError(model)

    async def drain(self, timeout_seconds: float) -> None:
        """Nothing runs."""


def sentences(rng: random.Random) -> Callable[[int], str]:
    """Text whose words are as unevenly frequent as those of a language."""
    letters = "eeeettaaooiinnsshrrdlucmfwypvbg"
    words = ["".join(rng.choices(letters, k=rng.randint(1, 10))) for _ in range(20_000)]
    words[0] = "the"
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(words))))
    return lambda count: " ".join(rng.choices(words, cum_weights=weights, k=count))


async def fill(store: Store, conversations: int, messages: int) -> None:
    """The conversations of ann, one of which has a rare word in its middle; bob has one."""
    rng = random.Random(1)
    text = sentences(rng)
    for number in range(conversations):
        await store.add(*conversation("ann", number, messages, text))
    await store.add(*conversation("bob", conversations, 2, lambda _: "hello"))


def conversation(
    tenant: str, number: int, messages: int, text: Callable[[int], str]
) -> tuple[Conversation, list[StoredMessage]]:
    """One conversation: short questions and longer answers."""
    name, now = f"{number:032x}", 1_700_000_000_000 + number * CONVERSATION_SECONDS * 1000
    rows = [
        StoredMessage(
            id=f"{number * 1000 + place:032x}",
            conversation_id=name,
            parent_id=f"{number * 1000 + place - 1:032x}" if place else None,
            position=place,
            role="assistant" if place % 2 else "user",
            content=text(150 if place % 2 else 25) + (f" {RARE}" if number == 2 == place else ""),
            status="complete",
            created_ms=now + place,
        )
        for place in range(messages)
    ]
    return Conversation(name, tenant, text(5), "tiny", now, now + messages, title_by="user"), rows


async def measure(
    client: httpx.AsyncClient, conversations: int, repetitions: int
) -> dict[str, tuple[float, float]]:
    """Median and worst milliseconds of each page."""
    middle = 1_700_000_000_000 + conversations // 2 * CONVERSATION_SECONDS * 1000
    one = f"/web/conversations/{conversations // 2:032x}"

    def search(wanted: str, key: str = "ann") -> Callable[[int], Awaitable[httpx.Response]]:
        headers = {"authorization": f"Bearer {KEYS[key]}"}
        return lambda _: client.get("/web/search", params={"q": wanted}, headers=headers)

    pages: dict[str, Callable[[int], Awaitable[httpx.Response]]] = {
        "list": lambda _: client.get("/web/conversations"),
        "list, middle": lambda _: client.get("/web/conversations", params={"before_ms": middle}),
        "open": lambda _: client.get(one),
        "search, common word": search("the"),
        "search, rare word": search(RARE),
        "search, two letters": search("zq"),
        "search, two letters, none": search("69"),
        "search, nothing found": search("no such thing at all"),
        "search, parts found, not whole": search("the t the t the t the"),
        "search, another's words": search("the the", "bob"),
        "patch": lambda turn: client.patch(one, json={"title": f"Number {turn}"}),
        "export one": lambda _: client.get(f"{one}/export"),
    }
    figures = {}
    for name, page in pages.items():
        taken = []
        for turn in range(repetitions):
            started = time.perf_counter()
            response = await page(turn)
            taken.append((time.perf_counter() - started) * 1000)
            assert response.status_code == 200, response.text
        figures[name] = (statistics.median(taken), max(taken))
    return figures


def megabytes_in(folder: Path) -> float:
    """All files of a folder together."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


async def run(conversations: int, messages: int, repetitions: int, folder: Path) -> None:
    """Make the store, measure, print."""
    store = Store(folder / "conversations.db")
    await store.open()
    started = time.perf_counter()
    await fill(store, conversations, messages)
    fill_seconds = time.perf_counter() - started
    await store.close()
    app = create_app(NoModel(), ApiSettings(api_keys=KEYS))
    mount(app, backend=NoModel(), store=store)
    transport = httpx.ASGITransport(app)
    headers = {"authorization": f"Bearer {KEYS['ann']}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client,
    ):
        figures = await measure(client, conversations, repetitions)
    size_mb = megabytes_in(folder)
    print(f"{conversations * messages} messages, {size_mb:.0f} MB, filled in {fill_seconds:.0f} s\n")
    print(f"{'page':32}{'median ms':>10}{'worst ms':>10}")
    for name, (median, worst) in figures.items():
        print(f"{name:32}{median:10.1f}{worst:10.1f}{'' if worst < GOAL_MS else '  over the goal'}")
    print()
    rows = {name: {"median_ms": round(a, 2), "worst_ms": round(b, 2)} for name, (a, b) in figures.items()}
    print(json.dumps({"messages": conversations * messages, "size_mb": round(size_mb), "pages": rows}))


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description="Time the chat site's pages with a large store.")
    parser.add_argument("--conversations", type=int, default=5000)
    parser.add_argument("--messages", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(options.conversations, options.messages, options.repetitions, Path(folder)))


if __name__ == "__main__":
    main()
