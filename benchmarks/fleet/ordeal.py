"""Load on a fleet while its parts die: is anything lost, answered wrongly, or refused without need?

    python benchmarks/fleet/ordeal.py [--minutes 10] [--real 2] [--simulated 6] [--json FILE]

Three regions, each behind a way that takes its time and can be cut; real replicas compute the default
model in float32, simulated ones an 8B model on an H100; two front doors. Clients ask one question after
another, half of them as streams, and know what the whole answer is: an undisturbed replica was asked before.
Meanwhile replicas are killed (-9) and come again, a region is cut off and its replicas killed, and a front
door is killed and comes again. A client whose connection breaks tries once more, at the other front door.

Ends with 0 if no accepted request was lost, none was answered wrongly, and nothing but `at_capacity` was
refused. The last line is JSON.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from parts import RIDGELINE, SIM, Part, Replica, Way, free_port

TOKEN = "the-fleets-token"
REGIONS = {"us": 0.0, "eu": 0.08, "asia": 0.16}
"""Seconds there and back, from the front doors, which are in the first."""

READY_SECONDS = 120.0
SUBJECTS = "rivers mountains bridges clocks bread maps letters ships roofs gardens wells lamps".split()


@dataclass(frozen=True)
class Question:
    """What is asked, and the whole answer."""

    model: str
    text: str
    max_tokens: int
    answer: str = ""

    def body(self, *, stream: bool) -> dict[str, Any]:
        """A chat completion, greedy and of exactly this length."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self.text}],
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": stream,
        }


@dataclass
class Found:
    """What clients saw."""

    outcomes: Counter[str] = field(default_factory=Counter)
    troubles: list[str] = field(default_factory=list)
    first_token_seconds: list[float] = field(default_factory=list)
    retried: int = 0
    on_their_retry: set[int] = field(default_factory=set)
    """Clients that have no other attempt left for the question now open."""


async def ask(
    session: aiohttp.ClientSession, url: str, question: Question, *, stream: bool, began: Callable[[], None]
) -> str:
    """The text of an answer; raises as aiohttp does, and RuntimeError with what a refusal says."""
    async with session.post(f"{url}/v1/chat/completions", json=question.body(stream=stream)) as response:
        if response.status != 200:
            error = json.loads(await response.read())["error"]
            raise RuntimeError(f"{response.status} {error['code']}: {error['message']}")
        if not stream:
            whole = json.loads(await response.read())
            return str(whole["choices"][0]["message"]["content"])
        text = []
        async for event in events_of(response):
            began()
            if "error" in event:
                raise RuntimeError(f"in the stream: {event['error']}")
            text += [choice["delta"].get("content") or "" for choice in event["choices"]]
        return "".join(text)


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Events of a stream; raises ConnectionError where it ends before its end mark."""
    async for line in response.content:
        if line.startswith(b"data: [DONE]"):
            return
        if line.startswith(b"data:"):
            yield json.loads(line[5:])
    raise ConnectionError("the stream ended before its end mark")


class Fleet:
    """All processes."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.ports = [free_port(), free_port()]
        self.doors = [self._door(number) for number in range(2)]
        self.replicas: list[Replica] = []

    @property
    def urls(self) -> list[str]:
        """Of the front doors."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def _door(self, number: int) -> Part:
        arguments = ["fleet", "serve", str(self.folder / "fleet.yaml"), "--region", "us"]
        arguments += ["--port", str(self.ports[number]), "--fleet-token", TOKEN]
        arguments += ["--data-dir", str(self.folder / f"door{number}")]
        return Part(f"door{number}", [*RIDGELINE, *arguments], self.folder / f"door{number}.log")

    async def start(self) -> None:
        """All of it, until both front doors see all replicas."""
        regions = list(REGIONS)
        clusters = {
            region: [{"name": f"{region}-{model}", "model": model} for model in ("real", "sim")]
            for region in regions
        }
        links = [{"between": ["us", region], "rtt_ms": 1000 * way} for region, way in REGIONS.items() if way]
        fleet = {
            "models": [{"name": "real"}, {"name": "sim"}],
            "regions": [{"name": region, "clusters": clusters[region]} for region in regions],
            "links": links,
            "capacity": {"max_wait_seconds": 60},
        }
        (self.folder / "fleet.yaml").write_text(json.dumps(fleet))  # JSON is YAML
        (self.folder / "sim.json").write_text(json.dumps(SIM))
        kinds = ["real"] * self.options.real + ["sim"] * self.options.simulated
        for number, kind in enumerate(kinds):
            # Real ones in the first two regions; simulated ones in all three.
            among = regions[:2] if kind == "real" else regions
            self.replicas.append(await self._replica(number, kind, among[number % len(among)]))
        for part in (*self.doors, *self.replicas):
            await part.start()
        await self.until_all_are_there()

    async def _replica(self, number: int, kind: str, region: str) -> Replica:
        way, port = Way(REGIONS[region]), free_port()
        await way.start()
        way.lead_to(port)
        arguments = ["serve", "--port", str(port), "--data-dir", str(self.folder / f"replica{number}")]
        if kind == "real":
            arguments += ["real=smollm2-135m", "--dtype", "float32", "--threads", "1", "--kv-memory", "200MB"]
        else:
            arguments += ["--random-weights", str(self.folder / "sim.json"), "--device", "simulated:h100"]
        arguments += ["--max-batch", "16", "--region", region, "--cluster", f"{region}-{kind}"]
        for url in self.urls:
            arguments += ["--register", url]
        arguments += ["--fleet-token", TOKEN, "--advertise", f"http://127.0.0.1:{way.port}"]
        log = self.folder / f"replica{number}.log"
        return Replica(f"{kind} {number}", [*RIDGELINE, *arguments], log, region=region, port=port, way=way)

    async def until_all_are_there(self) -> None:
        """Raises TimeoutError."""
        wanted = sum(not each.way.cut for each in self.replicas)
        async with aiohttp.ClientSession() as session, asyncio.timeout(READY_SECONDS):
            for url in self.urls:
                while await self._there(session, url) < wanted:  # noqa: ASYNC110  # another process
                    await asyncio.sleep(0.3)

    async def _there(self, session: aiohttp.ClientSession, url: str) -> int:
        try:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with session.get(f"{url}/fleet/status", headers=headers) as response:
                return len(json.loads(await response.read())["replicas"])
        except (aiohttp.ClientError, ValueError, KeyError):
            return 0

    async def close(self) -> None:
        """Everything is killed."""
        for part in (*self.doors, *self.replicas):
            await part.kill()


async def questions_of(fleet: Fleet) -> list[Question]:
    """With the answers of undisturbed replicas, each asked alone."""
    found = []
    rng = random.Random(5)
    async with aiohttp.ClientSession() as session:
        for kind in ("real", "sim"):
            replica = next((each for each in fleet.replicas if each.name.startswith(kind)), None)
            if replica is None:
                continue
            for subject in SUBJECTS[: 4 if kind == "real" else None]:
                text = f"Tell me about {subject}. " * (2 if kind == "real" else rng.randrange(5, 120))
                question = Question(kind, text, 24 if kind == "real" else rng.randrange(60, 400))
                url = f"http://127.0.0.1:{replica.port}"
                answer = await ask(session, url, question, stream=False, began=lambda: None)
                found.append(Question(kind, text, question.max_tokens, answer))
    return found


class Client:
    """Asks one question after the other."""

    def __init__(self, fleet: Fleet, questions: list[Question], found: Found, seed: int) -> None:
        self._fleet, self._questions, self._found = fleet, questions, found
        self._rng = random.Random(seed)

    async def run(self, until: float) -> None:
        """Until that time, and to the end of the question then open."""
        timeout = aiohttp.ClientTimeout(total=240)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while time.monotonic() < until:
                question = self._rng.choice(self._questions)
                outcome = await self._one(session, question)
                self._found.on_their_retry.discard(id(self))
                self._found.outcomes[outcome] += 1
                await asyncio.sleep(self._rng.expovariate(1 / 0.5) if outcome != "at_capacity" else 1.0)

    async def _one(self, session: aiohttp.ClientSession, question: Question) -> str:
        urls = list(self._fleet.urls)
        self._rng.shuffle(urls)
        stream, asked = self._rng.random() < 0.5, time.monotonic()
        first: list[float] = []

        def began() -> None:
            first[:] = first or [time.monotonic() - asked]

        for attempt, url in enumerate(urls):
            try:
                text = await ask(session, url, question, stream=stream, began=began)
            except RuntimeError as refusal:
                if "503 at_capacity" in str(refusal):
                    return "at_capacity"
                self._found.troubles.append(f"{question.model}: {refusal}")
                return "refused"
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                if attempt == 0:
                    self._found.retried += 1
                    self._found.on_their_retry.add(id(self))
                    continue
                self._found.troubles.append(f"{question.model}: {type(error).__name__}: {error}")
                return "lost"
            self._found.first_token_seconds += first
            if text != question.answer:
                pairs = enumerate(zip(text, question.answer, strict=False))
                same = next(
                    (place for place, (a, b) in pairs if a != b), min(len(text), len(question.answer))
                )
                lengths = f"{len(text)} characters, not {len(question.answer)}"
                self._found.troubles.append(f"{question.model}: {lengths}, other from {same} on")
                return "wrong"
            return "answered"
        raise AssertionError("both attempts end above")


async def troubles(fleet: Fleet, seconds: float, found: Found, say: Callable[[str], None]) -> None:
    """What happens to the fleet, in its order and by parts of the whole time.

    One retry of a client is promised to be enough for one front door that dies, so the second one waits for
    those whose question the first has cost an attempt already.
    """
    begun = time.monotonic()
    doors, regions = fleet.doors, [region for region in REGIONS if REGIONS[region]]
    real = [each for each in fleet.replicas if each.name.startswith("real")]
    simulated = [each for each in fleet.replicas if not each.name.startswith("real")]

    async def cut(region: str) -> None:
        for each in fleet.replicas:
            if each.region == region:
                each.way.sever()
                await each.kill()

    async def mend(region: str) -> None:
        for each in fleet.replicas:
            if each.region == region:
                each.way.cut = False
                await each.start()

    async def kill_second_door() -> None:
        while found.on_their_retry:  # noqa: ASYNC110  # a client says when it is through, and may begin anew
            await asyncio.sleep(0.02)
        await doors[1].kill()

    plan: list[tuple[float, str, Callable[[], Awaitable[None]]]] = []

    def during(start: float, end: float, name: str, down: Any, up: Any) -> None:
        plan.append((start, f"{name} dies", down))
        plan.append((end, f"{name} returns", up))

    for number, each in enumerate(simulated[:3]):
        during(0.05 + 0.06 * number, 0.15 + 0.06 * number, each.name, each.kill, each.start)
    if len(real) > 1:
        during(0.30, 0.42, real[0].name, real[0].kill, real[0].start)
    during(0.45, 0.62, f"region {regions[-1]}", lambda: cut(regions[-1]), lambda: mend(regions[-1]))
    during(0.66, 0.72, doors[0].name, doors[0].kill, doors[0].start)
    during(0.76, 0.80, doors[1].name, kill_second_door, doors[1].start)
    for number, each in enumerate(simulated[:4]):
        plan.append((0.83 + 0.04 * number, f"{each.name} is changed", each.change))
    for share, name, act in sorted(plan, key=lambda each: each[0]):
        await asyncio.sleep(max(0.0, begun + share * seconds - time.monotonic()))
        say(f"{time.monotonic() - begun:6.1f} s  {name}")
        await act()


def keep_logs(folder: Path, kept: Path) -> None:
    """Copy what the processes said."""
    for log in folder.glob("*.log"):
        (kept / log.name).write_bytes(log.read_bytes())


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """The whole; what was found."""
    with tempfile.TemporaryDirectory(prefix="ordeal-") as folder:
        fleet, found = Fleet(Path(folder), options), Found()
        seconds = options.minutes * 60
        try:
            await fleet.start()
            questions = await questions_of(fleet)
            print(f"{len(fleet.replicas)} replicas are there; {len(questions)} questions", flush=True)
            until = time.monotonic() + seconds
            clients = [
                Client(fleet, [each for each in questions if each.model == kind], found, 100 * number + count)
                for number, (kind, count_of) in enumerate((("real", options.real), ("sim", options.clients)))
                for count in range(count_of)
            ]
            await asyncio.gather(
                troubles(fleet, seconds, found, lambda text: print(text, flush=True)),
                *(client.run(until) for client in clients),
            )
            await fleet.until_all_are_there()
        finally:
            await fleet.close()
            if options.logs:
                await asyncio.to_thread(keep_logs, Path(folder), options.logs)
    waits = sorted(found.first_token_seconds)
    return {
        "benchmark": "fleet_ordeal",
        "minutes": options.minutes,
        "replicas": {"real": options.real, "simulated": options.simulated},
        "outcomes": dict(found.outcomes),
        "retried_by_clients": found.retried,
        "first_token_p50_seconds": statistics.median(waits) if waits else None,
        "first_token_p99_seconds": waits[int(len(waits) * 0.99)] if waits else None,
        "troubles": found.troubles[:50],
    }


def main() -> int:
    """Run, print, and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--real", type=int, default=2, help="replicas that compute")
    parser.add_argument("--simulated", type=int, default=6, help="replicas that do as if")
    parser.add_argument("--clients", type=int, default=24, help="that ask simulated ones")
    parser.add_argument("--logs", type=Path, help="folder for what the processes said")
    parser.add_argument("--json", type=Path, help="where the result goes as well")
    options = parser.parse_args()
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)
    result = asyncio.run(run(options))
    for trouble in result["troubles"]:
        print(f"  {trouble}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    good = {"answered", "at_capacity"}
    return 0 if set(result["outcomes"]) <= good and result["outcomes"].get("answered") else 1


if __name__ == "__main__":
    sys.exit(main())
