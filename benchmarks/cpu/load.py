"""Chats put on a server over HTTP, from a process of its own; prints one line of JSON.

    python benchmarks/cpu/load.py --url http://127.0.0.1:8000 --users 16 [--streamed] [--seed N]

Every user holds one conversation: a system prompt that all share, then questions that differ, each
asked as soon as the last is answered. Answers are greedy and of the same length. The seed decides all
words, so that contenders are asked the same, and no prefix is known from an earlier run.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cpu.rows import ANSWER_TOKENS, QUESTION_WORDS, SYSTEM_TOKENS, TURNS
from ridgeline.bench.workload import Conversation, Shape, made_conversations

SHAPE = Shape(TURNS, SYSTEM_TOKENS, QUESTION_WORDS, ANSWER_TOKENS)


@dataclass(slots=True)
class Seen:
    """What all users saw. Times in seconds, one of each per turn, in the order in which they ended; of gaps
    between two pieces of text, all."""

    turns: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: list[list[int]] = field(default_factory=list)
    answer_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Client:
    """Asks one server."""

    session: aiohttp.ClientSession
    url: str
    model: str
    streamed: bool

    async def converse(self, conversation: Conversation, seen: Seen) -> None:
        """Ask all questions, one after the other."""
        messages = [{"role": "system", "content": conversation.system}]
        prompts: list[int] = []
        seen.prompt_tokens.append(prompts)
        for question in conversation.questions:
            messages.append({"role": "user", "content": question})
            text, usage = await self._ask(messages, conversation.max_tokens, seen)
            messages.append({"role": "assistant", "content": text})
            if usage["completion_tokens"] != conversation.max_tokens:
                raise RuntimeError(f"an answer has {usage['completion_tokens']} tokens")
            prompts.append(usage["prompt_tokens"])
            seen.answer_tokens += usage["completion_tokens"]

    async def _ask(
        self, messages: list[dict[str, str]], tokens: int, seen: Seen
    ) -> tuple[str, dict[str, int]]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": self.streamed,
        }
        if self.streamed:
            body["stream_options"] = {"include_usage": True}
        started = time.perf_counter()
        address = f"{self.url}/v1/chat/completions"
        headers = {"Content-Type": "application/json"}
        async with self.session.post(address, data=orjson.dumps(body), headers=headers) as response:
            if response.status != 200:
                raise RuntimeError(f"HTTP {response.status}: {(await response.text())[:300]}")
            if self.streamed:
                answer = await _read_stream(response, started, seen)
            else:
                whole = orjson.loads(await response.read())
                answer = whole["choices"][0]["message"]["content"] or "", whole["usage"]
        seen.turns.append(time.perf_counter() - started)
        return answer


async def _read_stream(
    response: aiohttp.ClientResponse, started: float, seen: Seen
) -> tuple[str, dict[str, int]]:
    parts: list[str] = []
    usage: dict[str, int] = {}
    last = started
    async for line in response.content:
        if not line.startswith(b"data: {"):
            continue
        event = orjson.loads(line[6:])
        usage = event.get("usage") or usage
        for choice in event.get("choices", ()):
            text = choice["delta"].get("content")
            if text:
                now = time.perf_counter()
                if parts:
                    seen.gaps.append(now - last)
                else:
                    seen.first_tokens.append(now - started)
                last = now
                parts.append(text)
    return "".join(parts), usage


async def put_on(url: str, model: str, users: int, streamed: bool, seed: int) -> dict[str, Any]:
    """Hold the conversations; what came of them, and the client's own share of a core.

    Raises:
        RuntimeError: for an answer that is none, or has not the length that was asked for.
    """
    source = made_conversations(SHAPE, seed)
    conversations = [next(source) for _ in range(users)]
    seen = Seen()
    timeout = aiohttp.ClientTimeout(total=600)
    # A connection for each request: a server may close one that has been kept just as it is used again.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=timeout
    ) as session:
        client = Client(session, url, model, streamed)
        started, own = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for conversation in conversations:
                group.create_task(client.converse(conversation, seen))
        seconds, own = time.perf_counter() - started, time.process_time() - own
    found = {
        "tokens_per_second": seen.answer_tokens / seconds,
        "turn_seconds": statistics.median(seen.turns),
        "client_share": own / seconds,
        "prompt_tokens": [statistics.mean(turn) for turn in zip(*seen.prompt_tokens, strict=True)],
    }
    if streamed:
        gaps = statistics.quantiles(seen.gaps, n=100)
        found["first_token_seconds"] = statistics.median(seen.first_tokens)
        found["gap_seconds"], found["gap_p99_seconds"] = gaps[49], gaps[98]
    return found


def main() -> None:
    """Read the command line, put the load on, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--streamed", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        found = asyncio.run(put_on(options.url, options.model, options.users, options.streamed, options.seed))
    except* (RuntimeError, aiohttp.ClientError, TimeoutError) as errors:
        sys.exit(f"load: {errors.exceptions[0]}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
