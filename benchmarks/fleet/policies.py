"""Ways to place requests, on a virtual clock: how many are answered in time, over a grid of fleets.

    python benchmarks/fleet/policies.py [--seeds 3] [--minutes 10] [--json FILE]

Replicas are 8B models on H100s by the cost model, traffic is conversations with shared system prompts.
Good is a request whose first token came within a second and whose tokens came, on average, within 50 ms
each. Refused requests are not good. The last line is JSON.
"""

import argparse
import itertools
import json
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ridgeline.fleet.core.door import Door
from ridgeline.roofline import find_hardware, find_shape
from ridgeline.simulate.fleet import FleetSimulation, Place, Run
from ridgeline.simulate.fleet_load import Traffic
from ridgeline.simulate.fleet_policies import OTHERS, Front, Ours
from ridgeline.simulate.fleet_replica import Machine

FIRST_SECONDS, GAP_SECONDS = 1.0, 0.05
OURS = "Ridgeline"
REPLICAS = (4, 16)
ROOMS = {"short": 40_000, "ample": 400_000}
"""Tokens of KV memory of a replica."""
SHARING = {"little": 64, "much": 2048}
"""Tokens of system prompts."""
LOADS = {"half": 0.5, "full": 1.0, "over": 1.3}
"""Of what a replica carries, about."""
FULL_PER_REPLICA = {"short": 0.45, "ample": 1.1}
"""Conversations per second."""


def fronts(seed: int) -> dict[str, Callable[[], Front]]:
    """All policies, each new."""
    found: dict[str, Callable[[], Front]] = {
        name: lambda kind=kind: kind(random.Random(seed))  # type: ignore[misc]
        for name, kind in OTHERS.items()
    }
    return {OURS: lambda: Ours(Door("us", {}, rng=random.Random(seed))), **found}


def simulated(
    front: Front, replicas: int, room: str, sharing: str, load: str, seconds: float, seed: int
) -> Run:
    """One run of one policy."""
    machine = Machine(find_shape("llama-3.1-8b"), find_hardware("h100"), "bfloat16", 128, ROOMS[room])
    places = [Place(f"r{number}", "us", machine) for number in range(replicas)]
    traffic = Traffic(
        conversations_per_second=FULL_PER_REPLICA[room] * LOADS[load] * replicas,
        seconds=seconds,
        system_tokens=SHARING[sharing],
        turns=6.0,
        question_tokens=250,
        answer_tokens=250,
        think_seconds=30.0,
    )
    return FleetSimulation(front, places, traffic, seed).run()


def main() -> int:
    """Run the grid, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0, help="in which conversations begin")
    parser.add_argument("--replicas", type=int, nargs="+", default=list(REPLICAS))
    parser.add_argument("--json", type=Path, help="where the result goes as well")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    names = list(fronts(0))
    print("| replicas | memory | shared | load | " + " | ".join(names) + " | to the best other |")
    print("| " + "--- | " * (5 + len(names)))
    for replicas, room, sharing, load in itertools.product(options.replicas, ROOMS, SHARING, LOADS):
        good: dict[str, list[int]] = {name: [] for name in names}
        cached: dict[str, float] = {}
        for seed in range(options.seeds):
            for name, make in fronts(seed).items():
                run = simulated(make(), replicas, room, sharing, load, options.minutes * 60, seed)
                good[name].append(run.good(FIRST_SECONDS, GAP_SECONDS))
                cached[name] = run.cached_share
        best = [max(good[name][seed] for name in names if name != OURS) for seed in range(options.seeds)]
        ratios = [ours / max(1, other) for ours, other in zip(good[OURS], best, strict=True)]
        row = {"replicas": replicas, "memory": room, "shared": sharing, "load": load}
        medians = {name: statistics.median(each) for name, each in good.items()}
        rows.append(
            row | {"good": medians, "cached": cached, "ratio": statistics.median(ratios), "ratios": ratios}
        )
        shown = " | ".join(f"{medians[name]:,.0f} ({cached[name]:.0%})" for name in names)
        print(
            f"| {replicas} | {room} | {sharing} | {load} | {shown} | {statistics.median(ratios):.2f} |",
            flush=True,
        )
    result = {
        "benchmark": "fleet_policies",
        "seeds": options.seeds,
        "minutes": options.minutes,
        "first_seconds": FIRST_SECONDS,
        "gap_seconds": GAP_SECONDS,
        "rows": rows,
        "least_ratio": min(row["ratio"] for row in rows),
        "median_ratio_short": statistics.median(row["ratio"] for row in rows if row["memory"] == "short"),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
