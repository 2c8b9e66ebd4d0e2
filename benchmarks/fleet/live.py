"""Goodput under KV pressure, live: our front door and sglang-router's policies before simulated replicas.

    python benchmarks/fleet/live.py --peers FOLDER [--rate 6] [--seconds 90] [--replicas 4] [--json FILE]

Replicas are `ridgeline serve` processes that take the time an 8B model takes on an L40S, with little KV
memory. Each door gets new ones, and the same conversations, which share system prompts. Good is an
answer whose first token came within a second and whose tokens came, on average, within 50 ms each; refused
requests are not good. Ours is told to keep nobody waiting for longer than 0.6 s. FOLDER is what
`doors.py --install` made. The last line is JSON.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from doors import Contender, end_tidily, ours, pinned, sglang_router, until_ready
from parts import RIDGELINE, SIM, free_port
from wire import percentile

SYSTEM_PROMPTS = 20
FIRST_SECONDS, GAP_SECONDS = 1.0, 0.05
WAIT_SECONDS = 0.6
"""For which ours lets anybody wait: then a prompt can be computed in time."""
ALL_CORES = "0,1"
LONGEST = 7000
"""Characters, of the model's 8,192 tokens of context."""


@dataclass(slots=True)
class Seen:
    """What clients saw, of questions asked after the warm-up."""

    good: int = 0
    late: int = 0
    refused: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """Shares of all that were asked."""
        asked = self.good + self.late + self.refused + sum(self.failed.values())
        return {
            "asked": asked,
            "good": self.good / max(1, asked),
            "refused": self.refused / max(1, asked),
            "cached": self.cached_tokens / max(1, self.prompt_tokens),
            "first_token_p50": percentile(self.firsts, 0.5),
            "first_token_p95": percentile(self.firsts, 0.95),
            "gap_p50_ms": 1000 * percentile(self.gaps, 0.5),
            "gap_p95_ms": 1000 * percentile(self.gaps, 0.95),
            "failed": dict(self.failed),
        }


@dataclass(slots=True)
class Told:
    """One answer."""

    status: int
    text: str = ""
    first: float = 0.0
    last: float = 0.0
    usage: dict[str, Any] = field(default_factory=dict)


async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Told:
    """Stream one."""
    async with session.post(url, json=body) as response:
        told = Told(response.status)
        if response.status != 200:
            return told
        parts, ended = [], False
        async for line in response.content:
            if line.startswith(b"data: [DONE]"):
                ended = True
            elif line.startswith(b"data:"):
                event = json.loads(line[5:])
                told.usage = event.get("usage") or told.usage
                said = "".join(each["delta"].get("content") or "" for each in event["choices"])
                if said:
                    told.last = time.monotonic()
                    told.first = told.first or told.last
                    parts.append(said)
        if not ended:
            raise ConnectionError("the stream broke")
        told.text = "".join(parts)
        return told


def text(rng: random.Random, tokens: int) -> str:
    """Of so many tokens: replicas with random weights have one for each character."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(tokens))


async def converse(
    session: aiohttp.ClientSession,
    url: str,
    number: int,
    options: argparse.Namespace,
    seen: Seen,
    until: float,
) -> None:
    """One conversation."""
    rng = random.Random(number)
    system = min(SYSTEM_PROMPTS - 1, int(rng.expovariate(1 / 6)))
    messages = [{"role": "system", "content": text(random.Random(system), options.system_tokens)}]
    for _ in range(max(1, int(rng.expovariate(1 / options.turns)))):
        answer = int(min(600, max(20, rng.lognormvariate(0, 0.5) * options.answer_tokens)))
        question = text(rng, int(min(900, max(20, rng.lognormvariate(0, 0.5) * options.question_tokens))))
        messages.append({"role": "user", "content": question})
        if time.monotonic() >= until or sum(len(each["content"]) for each in messages) > LONGEST:
            return
        body = {"model": "m", "messages": messages, "max_tokens": answer, "ignore_eos": True}
        body |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        asked = time.monotonic()
        counts = asked >= until - options.seconds
        try:
            told = await ask(session, url, body)
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            seen.failed[type(error).__name__] += counts
            return
        if told.status == 200:
            messages.append({"role": "assistant", "content": told.text})
            if counts:
                first, gap = told.first - asked, (told.last - told.first) / max(1, answer - 1)
                good = first <= FIRST_SECONDS and gap <= GAP_SECONDS
                seen.good += good
                seen.late += not good
                seen.firsts.append(first)
                seen.gaps.append(gap)
                seen.prompt_tokens += told.usage["prompt_tokens"]
                seen.cached_tokens += told.usage["prompt_tokens_details"]["cached_tokens"]
        else:
            messages.pop()
            seen.refused += counts and told.status == 503
            if told.status != 503 and counts:
                seen.failed[str(told.status)] += 1
        await asyncio.sleep(rng.expovariate(1 / options.think_seconds))


async def press(port: int, options: argparse.Namespace) -> Seen:
    """Conversations begin at Poisson times; only what is asked after the warm-up counts."""
    seen, rng = Seen(), random.Random(options.seed)
    begun = time.monotonic()
    until = begun + options.warm_up + options.seconds
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    timeout = aiohttp.ClientTimeout(total=120)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
        asyncio.TaskGroup() as conversations,
    ):
        number, due = 0, begun
        while (due := due + rng.expovariate(options.rate)) < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            number += 1
            each = converse(session, url, options.seed * 1_000_000 + number, options, seen, until)
            conversations.create_task(each)
    return seen


def one(contender: Contender, options: argparse.Namespace) -> dict[str, Any]:
    """New replicas, and one door before them."""
    with tempfile.TemporaryDirectory(prefix="live-") as name, ExitStack() as stack:
        folder, ports = Path(name), [free_port() for _ in range(options.replicas)]
        (folder / "m.json").write_text(json.dumps(SIM))
        program = [*RIDGELINE, "serve"]
        program += ["--random-weights", str(folder / "m.json"), "--device", f"simulated:{options.hardware}"]
        program += ["--kv-memory", options.kv_memory, "--max-batch", "128", "--log-level", "warning"]
        for port in ports:
            data = folder / f"replica{port}"
            command = [*program, "--port", str(port), "--data-dir", str(data)]
            stack.enter_context(pinned(command, ALL_CORES, folder / f"{port}.log", {}))
        for port in ports:
            until_ready(port, folder / f"{port}.log")
        port = free_port()
        command, extra = contender.command(ports, port, folder)
        stack.enter_context(pinned(command, ALL_CORES, folder / "door.log", extra))
        until_ready(port, folder / "door.log")
        return asyncio.run(press(port, options)).told()


def main() -> None:
    """Each door in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=6.0, help="conversations per second")
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--warm-up", type=float, default=30.0)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--hardware", default="l40s")
    parser.add_argument("--kv-memory", default="6.6GB", help="of each: 50,000 tokens")
    parser.add_argument("--system-tokens", type=int, default=2048)
    parser.add_argument("--question-tokens", type=int, default=250)
    parser.add_argument("--answer-tokens", type=int, default=150)
    parser.add_argument("--turns", type=float, default=6.0)
    parser.add_argument("--think-seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="doors with this in their names")
    parser.add_argument("--json", type=Path, help="where the result goes as well")
    options = parser.parse_args()
    end_tidily()

    def ridgeline(replicas: Any, port: int, folder: Path) -> tuple[list[str], dict[str, str]]:
        return ours(replicas, port, folder, slots=128, max_wait_seconds=WAIT_SECONDS)

    policies = ("cache_aware", "power_of_two", "round_robin")
    contenders = [Contender("Ridgeline", ridgeline)]
    contenders += [sglang_router(options.peers, policy) for policy in policies]
    found: dict[str, Any] = {}
    for contender in contenders:
        if options.only is None or options.only in contender.name:
            told = found[contender.name] = one(contender, options)
            short = ", ".join(f"{key} {value:.3g}" for key, value in told.items() if key != "failed")
            print(f"{contender.name:30} {short} {told['failed'] or ''}", flush=True)
    settings = {name: value for name, value in vars(options).items() if not isinstance(value, Path | None)}
    result = {"benchmark": "fleet_live", "settings": settings, "doors": found}
    others = [each["good"] for name, each in found.items() if name != "Ridgeline"]
    if "Ridgeline" in found and max(others, default=0.0):
        result["to_the_best_other"] = found["Ridgeline"]["good"] / max(others)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
