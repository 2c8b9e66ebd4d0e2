"""How soon a front door says that it is at capacity, with its line full.

    python benchmarks/fleet/refusals.py [--waiting 100] [--rate 100] [--seconds 15]

Replicas with one place each are all busy, the line is full, and others come at Poisson times: each should
be refused within 50 ms and told how long it would have waited. The last line is JSON.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path

import uvloop
from doors import (
    DOOR_CORE,
    OTHER_CORE,
    end_tidily,
    fake_replicas,
    messages,
    ours,
    pinned,
    until_ready,
)
from parts import free_port
from wire import Client, Seen

REPLICAS = 8
GOAL_MS = 50.0


async def press(port: int, waiting: int, rate: float, seconds: float) -> Seen:
    """Fill places and line, and come in vain."""
    held = messages(500, 500, stream=True, answer=250, seed=1)
    users = Client([port], held, stream=True)
    filled = asyncio.create_task(users.closed(REPLICAS + waiting, 4.0, seconds))
    await asyncio.sleep(4.0)
    others = Client([port], messages(500, 500, stream=False, answer=64, seed=2), stream=False, status=503)
    seen = await others.open(rate, 1.0, seconds - 2.0, seed=3, patience=2.0)
    filled.cancel()
    return seen


def main() -> None:
    """Press, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--waiting", type=int, default=100)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    options = parser.parse_args()
    end_tidily()
    os.sched_setaffinity(0, {OTHER_CORE})
    with tempfile.TemporaryDirectory() as name, fake_replicas(REPLICAS, "--slots", "1") as ports:
        folder, port = Path(name), free_port()
        command, extra = ours(
            ports, port, folder, slots=1, max_waiting=options.waiting, max_wait_seconds=3600
        )
        with pinned(command, DOOR_CORE, folder / "log", extra):
            until_ready(port, folder / "log")
            time.sleep(1.0)
            seen = uvloop.run(press(port, options.waiting, options.rate, options.seconds))
    result = {
        "benchmark": "refusals",
        "waiting": options.waiting,
        "refused": seen.requests,
        "refused_per_second": seen.requests / seen.seconds,
        "answered_instead": seen.failed,
        "p50_ms": 1000 * seen.percentile(0.5),
        "p99_ms": 1000 * seen.percentile(0.99),
        "most_ms": 1000 * max(seen.latencies, default=float("inf")),
        "goal_ms": GOAL_MS,
    }
    print("\n".join(f"{name:20} {value}" for name, value in result.items()))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
