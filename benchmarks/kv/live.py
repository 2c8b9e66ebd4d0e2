"""Many conversations with pauses, in far less memory than they take: what is computed again, and who waits.

    python benchmarks/kv/live.py [--peers FOLDER] [--conversations 200] [--rate 2] [--only NAME ...]

Every contender serves the same conversations, one after the other, alone on the machine, with the same
bytes of memory for K and V: room for some 40 of 200 conversations of 6 turns. Pauses are those of a
chat service (log-normal), shortened. Ridgeline runs twice: by price with a tier on disk, and as LRU
without tiers. While a disk tier is measured, the system's cache of files is emptied every second, so
that the disk is no second memory. Peers are found as `benchmarks/cpu/install_peers.py` left them.

*Again* is prompt tokens that had been computed in an earlier turn of the conversation and were computed
again. The last line is JSON.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cpu.children import ChildError
from cpu.contenders import Contender, Setting
from cpu.llama import LlamaCpp
from cpu.machine import describe, today, wait_for_quiet
from cpu.ours import Ridgeline
from cpu.vllm import VllmCpu

from ridgeline.bench.measure import Plan, measure
from ridgeline.bench.profiles import WORKLOADS, overridden
from ridgeline.bench.runner import Load, TurnRecord
from ridgeline.bench.work import Source

TURNS = 6
INPUT_TOKENS, OUTPUT_TOKENS = 80, 50
"""Of a turn; a conversation comes to some 840 tokens."""

ROOM_TOKENS = 33_600
"""For K and V: 40 conversations at their end."""

KV_BYTES_PER_TOKEN = 23_040
"""In 16 bits, of the default model; all contenders keep K and V so, ours too, though it could hold twice
as much in int8."""

KV_BYTES = ROOM_TOKENS * KV_BYTES_PER_TOKEN
DISK_BYTES = 8 << 30
VLLM_BLOCK_TOKENS = 32
CONTEXT_TOKENS = 2048


class Ours(Ridgeline):
    """This source tree with one way of keeping KV."""

    def __init__(self, setting: Setting, name: str, *more: str) -> None:
        super().__init__(setting)
        self.name = name
        self._more = more

    def command(self, port: int) -> tuple[list[str | Path], dict[str, str]]:
        """`ridgeline serve` in a folder of its own."""
        command, environment = super().command(port)
        folder = self.setting.logs / self.name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        command[command.index(self.setting.logs / "data")] = folder
        common = ["--kv-memory", str(KV_BYTES), "--max-context", str(CONTEXT_TOKENS)]
        return [*command, *common, *self._more], environment


class Llama(LlamaCpp):
    """A slot for each conversation that fits, and no further memory for prompts."""

    slots = 40

    def _server_options(self, port: int) -> list[str]:
        per_slot = -(-ROOM_TOKENS // self.slots // 32) * 32
        return [
            *("-np", str(self.slots), "-c", str(per_slot * self.slots), "-t", str(self.setting.threads)),
            *("-fa", "on", "--cache-ram", "0", "--host", "127.0.0.1", "--port", str(port)),
        ]


class Vllm(VllmCpu):
    """With as many blocks as fit (it takes whole GiB by itself), and told to say what was cached."""

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"VLLM_CPU_KVCACHE_SPACE": "1"}

    def command(self, port: int) -> tuple[list[str | Path], dict[str, str]]:
        """See `VllmCpu.command`."""
        command, environment = super().command(port)
        blocks = ROOM_TOKENS // VLLM_BLOCK_TOKENS
        exact = ["--block-size", str(VLLM_BLOCK_TOKENS), "--num-gpu-blocks-override", str(blocks)]
        return [*command, "--enable-prompt-tokens-details", *exact], environment


def contenders(setting: Setting) -> list[Contender]:
    """All there may be."""
    return [
        Ours(setting, "Ridgeline, price and disk", "--kv-disk", str(DISK_BYTES)),
        Ours(setting, "Ridgeline, LRU alone", "--kv-policy", "lru"),
        Llama(setting, "Q8_0", serves=True),
        Vllm(setting),
    ]


@contextmanager
def no_file_cache(needed: bool) -> Iterator[None]:
    """The system forgets what it read of files, every second; nothing where this may not be done."""
    over = threading.Event()

    def forget() -> None:
        while not over.wait(1.0):
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("1")

    if not needed:
        yield
        return
    thread = threading.Thread(target=forget, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def plan_of(options: argparse.Namespace, contender: Contender) -> Plan:
    """The load, the same for all."""
    profile = overridden(
        WORKLOADS["chat"],
        turns=TURNS,
        system_tokens=0,
        input_tokens=INPUT_TOKENS,
        output_tokens=OUTPUT_TOKENS,
    )
    return Plan(
        url=contender.url,
        model=None,  # the only one; llama.cpp calls it by its file
        source=Source(profile=profile, speed_up=options.speed_up, context_tokens=CONTEXT_TOKENS),
        load=Load(
            conversations=options.conversations,
            concurrency=None,
            rate_per_second=options.rate,
            warmup=2,
            seed=options.seed,
        ),
        body={"temperature": 0.0, "ignore_eos": True},
        seed=options.seed,
    )


def figures(records: list[TurnRecord]) -> dict[str, Any]:
    """What is told of a contender."""
    done = [each for each in records if each.outcome == "completed" and not each.warmup and each.tokens]
    before = {(each.conversation, each.turn): each for each in done}
    again = prompt = 0
    for each in done:
        assert each.tokens is not None
        prompt += each.tokens.prompt
        earlier = before.get((each.conversation, each.turn - 1))
        if earlier is not None and earlier.tokens is not None:
            known = earlier.tokens.prompt + earlier.tokens.completion
            again += max(0, min(known, each.tokens.prompt) - each.tokens.cached)
    later = [each.chunk_times[0] - each.scheduled for each in done if each.turn and each.chunk_times]
    begin, end = min(each.sent for each in done), max(each.finished for each in done)
    return {
        "completed": len(done),
        "not_completed": sum(1 for each in records if each.outcome != "completed"),
        "prompt_tokens": prompt,
        "again_tokens": again,
        "later_ttft_p50_seconds": statistics.median(later),
        "later_ttft_p95_seconds": statistics.quantiles(later, n=20)[-1],
        "seconds": end - begin,
    }


def run(contender: Contender, options: argparse.Namespace) -> dict[str, Any]:
    """One contender from its start to its end; raises ChildError."""
    if not wait_for_quiet(120.0):
        print("  others compute on this machine meanwhile", flush=True)
    contender.serve()
    try:
        with no_file_cache("disk" in contender.name):
            measured = asyncio.run(measure(plan_of(options, contender)))
        return figures(list(measured.records))
    finally:
        contender.leave()


def show(found: dict[str, dict[str, Any]]) -> None:
    """A table, with ratios to LRU alone."""
    base = found.get("Ridgeline, LRU alone")
    print(f"{'':28}{'again':>12}{'of prompts':>12}{'later TTFT':>13}{'p95':>10}{'done':>8}   to LRU")
    for name, each in found.items():
        if "again_tokens" not in each:
            print(f"{name:28}{each['missing']}")
            continue
        ratios = ""
        if base and "again_tokens" in base:
            ratios = (
                f"{each['again_tokens'] / max(1, base['again_tokens']):.2f} again, "
                f"{each['later_ttft_p50_seconds'] / base['later_ttft_p50_seconds']:.2f} TTFT"
            )
        print(
            f"{name:28}{each['again_tokens']:>12,}{each['again_tokens'] / each['prompt_tokens']:>12.1%}"
            f"{1000 * each['later_ttft_p50_seconds']:>10,.0f} ms"
            f"{1000 * each['later_ttft_p95_seconds']:>7,.0f} ms{each['completed']:>8}   {ratios}"
        )


def main() -> None:
    """Run all, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="folder of the peers")
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--rate", type=float, default=2.0, help="conversations begun per second")
    parser.add_argument("--speed-up", type=float, default=24.0, help="pauses are divided by it")
    parser.add_argument("--threads", type=int, default=2, help="that compute")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="contenders whose names begin so")
    parser.add_argument("--json", type=Path, help="where the result goes as well")
    options = parser.parse_args()
    logs = Path(tempfile.mkdtemp(prefix="kv-live-"))
    setting = Setting(options.peers, logs, options.threads, "smollm2-135m", "auto", "float16", 1024)
    found: dict[str, dict[str, Any]] = {}
    for contender in contenders(setting):
        if options.only and not any(contender.name.startswith(only) for only in options.only):
            continue
        missing = contender.missing()
        if missing is None:
            print(f"{contender.name} ...", file=sys.stderr, flush=True)
            try:
                found[contender.name] = run(contender, options)
            except ChildError as error:
                missing = str(error)
        if missing is not None:
            found[contender.name] = {"missing": missing}
        show({contender.name: found[contender.name]})
    print()
    show(found)
    result = {
        "benchmark": "kv_live",
        "date": today(),
        "machine": describe(options.threads),
        "conversations": options.conversations,
        "turns": TURNS,
        "input_tokens": INPUT_TOKENS,
        "output_tokens": OUTPUT_TOKENS,
        "rate_per_second": options.rate,
        "speed_up": options.speed_up,
        "room_tokens": ROOM_TOKENS,
        "results": found,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
