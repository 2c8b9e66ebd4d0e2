"""What a front door costs: ours, sglang-router and LiteLLM's proxy before the same fake replicas.

    python benchmarks/fleet/doors.py --peers FOLDER [--repetitions 3] [--json FILE]
    python benchmarks/fleet/doors.py --install FOLDER

Each door has one core to itself, replicas and client have another, and the doors are measured in turn, in
each repetition, between runs with no door at all: so it can be seen that client and replicas are not the
limit, and what a door adds. Requests are chats of about 500 or 50,000 tokens, each beginning otherwise.

    requests/s     32 users who ask again as soon as they are answered, answers of 64 tokens, not streamed
    added latency  not streamed, at Poisson times, less what there is without a door
    words/s        streamed answers, a word each 20 ms: from its sending to its arrival, less the same
                   without a door

FOLDER has an environment for each peer. The last line is JSON.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from parts import RIDGELINE, free_port
from wire import Client, Seen

PACKAGES = {"sglang-router": "sglang-router==0.3.2", "litellm": "litellm[proxy]==1.108.7"}
REPLICAS = 8
DOOR_CORE, OTHER_CORE = 0, 1
USERS = 32
READY_SECONDS = 90.0
GAP_MS = 20
WORDS_AN_ANSWER = 250

GOALS = {
    "requests_per_second": 500.0,
    "added_p50_ms": 2.0,
    "added_p99_ms": 10.0,
    "words_per_second": 10_000.0,
    "words_added_p99_ms": 10.0,
    "long_requests_per_second": 50.0,
}


@dataclass(frozen=True, slots=True)
class Contender:
    """A door: how it is started, given the replicas' ports, its own and a folder."""

    name: str
    command: Callable[[Sequence[int], int, Path], tuple[list[str], dict[str, str]]]


def ours(
    replicas: Sequence[int], port: int, folder: Path, slots: int = 4096, **capacity: float
) -> tuple[list[str], dict[str, str]]:
    """`ridgeline fleet serve`."""
    cluster = {
        "name": "fakes",
        "model": "m",
        "endpoints": [f"http://127.0.0.1:{each}" for each in replicas],
        "slots": slots,
    }
    regions = [{"name": "here", "clusters": [cluster]}]
    fleet = {"models": [{"name": "m"}], "regions": regions, "capacity": capacity}
    file = folder / "fleet.yaml"
    file.write_text(json.dumps(fleet))  # JSON is YAML
    program = [*RIDGELINE, "fleet", "serve", str(file)]
    return [*program, "--port", str(port), "--data-dir", str(folder / "data"), "--log-level", "warning"], {}


def sglang_router(peers: Path, policy: str = "cache_aware") -> Contender:
    """The router of SGLang; by its own policy, unless told otherwise."""

    def command(replicas: Sequence[int], port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
        urls = [f"http://127.0.0.1:{each}" for each in replicas]
        program = [str(peers / "sglang-router" / "bin" / "sglang-router"), "launch", "--host", "127.0.0.1"]
        program += ["--port", str(port), "--policy", policy, "--worker-urls", *urls]
        return [*program, "--prometheus-port", str(free_port()), "--log-level", "error"], {}

    return Contender("sglang-router " + policy, command)


def litellm(peers: Path) -> Contender:
    """LiteLLM's proxy, with one worker."""

    def command(replicas: Sequence[int], port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
        models = [
            {
                "model_name": "m",
                "litellm_params": {
                    "model": "openai/m",
                    "api_base": f"http://127.0.0.1:{each}/v1",
                    "api_key": "none",
                },
            }
            for each in replicas
        ]
        file = folder / "litellm.yaml"
        file.write_text(json.dumps({"model_list": models, "litellm_settings": {"telemetry": False}}))
        program = [str(peers / "litellm" / "bin" / "litellm"), "--config", str(file), "--host", "127.0.0.1"]
        environment = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # nobody here has a key
        }
        return [*program, "--port", str(port), "--num_workers", "1"], environment

    return Contender("LiteLLM", command)


def install(folder: Path) -> None:
    """An environment for each peer; what is there is left alone."""
    for name, package in PACKAGES.items():
        place = folder / name
        if not (place / ".installed").exists():
            venv.create(place, with_pip=True, clear=True)
            subprocess.run([str(place / "bin" / "pip"), "install", "-q", package], check=True)
            (place / ".installed").touch()


def messages(tokens: int, count: int, *, stream: bool, answer: int, seed: int) -> list[bytes]:
    """HTTP requests for chats of about so many tokens, no two of which begin alike."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        # Six characters a word, with its space: about 1.5 tokens.
        text = " ".join(f"{rng.randrange(16**5):05x}" for _ in range(int(tokens * 4 / 6)))
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": answer,
            "temperature": 0,
            "stream": stream,
        } | ({"seed": GAP_MS} if stream else {})
        content = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        found.append(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return found


def end_tidily() -> None:
    """When told to end, by the way that ends the processes that were started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@contextmanager
def pinned(command: Sequence[str], core: int | str, log: Path, extra: Mapping[str, str]) -> Iterator[None]:
    """A process on these cores, killed in the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **extra},
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def fake_replicas(count: int, *more: str) -> Iterator[list[int]]:
    """Their ports."""
    script = str(Path(__file__).parent / "fake_replicas.py")
    command = [sys.executable, script, "--count", str(count), "--core", str(OTHER_CORE), *more]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as fakes:
        assert fakes.stdout is not None
        try:
            yield [int(fakes.stdout.readline()) for _ in range(count)]
        finally:
            fakes.terminate()


def until_ready(port: int, log: Path) -> None:
    """Ask until it answers a chat; ends the program if it never does."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2})
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            data=body.encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(asked, timeout=5) as response:
                json.load(response)
                return
        except (OSError, ValueError, urllib.error.URLError):
            time.sleep(0.3)
    sys.exit(f"the door does not answer; its log ends with\n{log.read_text()[-3000:]}")


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of each door."""

    name: str
    tokens: int
    stream: bool = False
    rate: float | None = None
    streams: int = 0
    seconds: float = 6.0

    def messages(self) -> list[bytes]:
        """HTTP requests; few of the long ones, which are big."""
        count = 2000 if self.tokens < 10_000 else 100
        answer = WORDS_AN_ANSWER if self.stream else 64
        return messages(self.tokens, count, stream=self.stream, answer=answer, seed=len(self.name))

    async def put(self, ports: Sequence[int], asked: list[bytes], seed: int) -> Seen:
        """To a door, or to the replicas themselves."""
        client = Client(ports, asked, stream=self.stream)
        if self.stream:
            return await client.closed(self.streams, 3.0, self.seconds)
        if self.rate is not None:
            return await client.open(self.rate, 1.0, self.seconds, seed)
        return await client.closed(USERS if self.tokens < 10_000 else 8, 2.0, self.seconds)


def works(options: argparse.Namespace) -> list[Work]:
    """All of them."""
    found = [
        Work("requests/s, 500 tokens", 500),
        Work("latency at 100/s", 500, rate=100.0),
        Work("latency at 250/s", 500, rate=250.0),
        Work("requests/s, 50,000 tokens", 50_000),
        Work("latency at 25/s, 50,000 tokens", 50_000, rate=25.0),
    ]
    found += [
        Work(f"{streams * 1000 // GAP_MS} words/s", 500, stream=True, streams=streams)
        for streams in (100, 200, 400)
    ]
    return [each for each in found if options.only is None or options.only in each.name]


def figures(seen: Seen) -> dict[str, float]:
    """Of one run."""
    return {
        "requests_per_second": seen.requests / seen.seconds,
        "words_per_second": seen.words / seen.seconds,
        "p50_ms": 1000 * seen.percentile(0.5),
        "p99_ms": 1000 * seen.percentile(0.99),
        "failed": seen.failed,
    }


def measure(options: argparse.Namespace) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Figures by work and door, of each repetition."""
    contenders = [Contender("Ridgeline", ours)]
    if options.peers is not None:
        contenders += [sglang_router(options.peers), litellm(options.peers)]
    contenders = [each for each in contenders if options.door in (None, each.name)]
    asked = {work.name: (work, work.messages()) for work in works(options)}
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {} for name in asked}
    with fake_replicas(REPLICAS) as ports:
        for repetition in range(options.repetitions):
            for contender in [None, *contenders]:
                name = "no door" if contender is None else contender.name
                with tempfile.TemporaryDirectory(prefix="doors-") as folder:
                    run_one(name, contender, ports, Path(folder), asked, found, repetition)
    return found


def run_one(
    name: str,
    contender: Contender | None,
    replicas: Sequence[int],
    folder: Path,
    asked: Mapping[str, tuple[Work, list[bytes]]],
    found: dict[str, dict[str, list[dict[str, float]]]],
    repetition: int,
) -> None:
    """All work for one door."""

    def put(ports: Sequence[int]) -> None:
        for work, requests in asked.values():
            seen = uvloop.run(work.put(ports, requests, repetition))
            told = figures(seen)
            found[work.name].setdefault(name, []).append(told)
            short = ", ".join(f"{key} {value:.4g}" for key, value in told.items())
            print(f"{repetition} {name:14} {work.name:32} {short} {seen.first_failure[:300]}", flush=True)

    if contender is None:
        put(replicas)
        return
    port, log = free_port(), folder / "log"
    command, extra = contender.command(replicas, port, folder)
    with pinned(command, DOOR_CORE, log, extra):
        until_ready(port, log)
        put([port])


def middle(runs: Sequence[Mapping[str, float]], key: str) -> float:
    """Median over the repetitions."""
    return statistics.median(each[key] for each in runs)


def table(found: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> str:
    """For people: each work's figures, and what each door adds."""
    lines = []
    for work, doors in found.items():
        plain = doors["no door"]
        lines += ["", work]
        for name, runs in doors.items():
            rate = "words_per_second" if middle(runs, "words_per_second") else "requests_per_second"
            low, high = min(each[rate] for each in runs), max(each[rate] for each in runs)
            line = f"  {name:14} {middle(runs, rate):9.0f}/s ({low:.0f} to {high:.0f})"
            p50, p99 = (middle(runs, key) for key in ("p50_ms", "p99_ms"))
            line += f"  p50 {p50:8.2f} ms  p99 {p99:8.2f} ms"
            if runs is not plain:
                added = (p50 - middle(plain, "p50_ms"), p99 - middle(plain, "p99_ms"))
                line += f"  added {added[0]:8.2f} and {added[1]:8.2f} ms"
            failed = sum(int(each["failed"]) for each in runs)
            lines.append(line + (f"  {failed} failed" if failed else ""))
    return "\n".join(lines)


def main() -> None:
    """Install, or measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, help="folder with an environment for each peer")
    parser.add_argument("--install", type=Path, help="make that folder, and nothing else")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", help="works with this in their names")
    parser.add_argument("--door", help="this one only")
    parser.add_argument("--json", type=Path, help="where the result goes as well")
    options = parser.parse_args()
    if options.install is not None:
        install(options.install)
        return
    end_tidily()
    os.sched_setaffinity(0, {OTHER_CORE})
    found = measure(options)
    print(table(found))
    result: dict[str, Any] = {"benchmark": "doors", "replicas": REPLICAS, "goals": GOALS, "works": found}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
