"""Ways to place requests, on a virtual clock: how many are answered in time, over a grid of fleets.

    python benchmarks/fleet/policies.py [--seeds 3] [--minutes 2.5] [--replicas 4 12] [--json FILE]

Replicas are 8B models on H100s by the cost model, traffic is conversations with shared system prompts.
Good is a request whose first token came within a second and whose tokens came, on average, within 50 ms
each; refused requests are not good, and all policies are offered the same ones. Ours is the front door's own
code, told to keep nobody waiting for longer than 0.6 s. The others send at once, and
requests wait at the replicas, as they do behind such routers. The last line is JSON.
"""

import argparse
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ridgeline.fleet.core.door import Door
from ridgeline.roofline import find_hardware, find_shape
from ridgeline.simulate.fleet import FleetSimulation
from ridgeline.simulate.fleet_load import PIECE_TOKENS, Home, Traffic
from ridgeline.simulate.fleet_policies import (
    BoundedHashing,
    CacheAware,
    Front,
    LeastRequests,
    LeastTokens,
    Ours,
    RoundRobin,
)
from ridgeline.simulate.fleet_replica import Machine
from ridgeline.simulate.fleet_run import Place, Run

FIRST_SECONDS, GAP_SECONDS = 1.0, 0.05
WAIT_SECONDS = 0.6
"""For which ours lets anybody wait: then a prompt can be computed in time."""
OURS = "Ridgeline"
OTHERS = ("round robin", "least requests", "least tokens", "bounded hashing", "cache-aware tree")
SLOTS = 128
ROOMS = {"short": 100_000, "ample": 1_000_000}
"""Tokens of KV memory of a replica: for some 30 sequences and few idle conversations, or for most of them."""
SHARING = {"little": 64, "much": 2048}
"""Tokens of system prompts, of which there are 20."""
LOADS = {
    "short": {"low": 1.5, "high": 3.0, "over": 4.5},
    "ample": {"low": 2.0, "high": 4.0, "over": 6.0},
}
"""Conversations per second and replica."""

BINDS = 0.98
"""Where no other policy answers this share in time, there is something to win."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One fleet and its traffic."""

    replicas: int
    memory: str
    shared: str
    load: str

    @property
    def traffic_per_second(self) -> float:
        """Conversations."""
        return LOADS[self.memory][self.load] * self.replicas


def front(name: str, cell: Cell, seed: int) -> Front:
    """A policy, new."""
    rng = random.Random(seed)
    system_pieces = SHARING[cell.shared] // PIECE_TOKENS
    if name == OURS:
        return Ours(Door("us", {}, max_wait_seconds=WAIT_SECONDS, rng=rng))
    if name == "bounded hashing":
        return BoundedHashing(rng, system_pieces + 1)
    kinds = {
        "round robin": RoundRobin,
        "least requests": LeastRequests,
        "least tokens": LeastTokens,
        "cache-aware tree": CacheAware,
    }
    return kinds[name](rng)


def places(replicas: int, memory: str) -> list[Place]:
    """Replicas of one region."""
    machine = Machine(find_shape("llama-3.1-8b"), find_hardware("h100"), "bfloat16", SLOTS, ROOMS[memory])
    return [Place(f"r{number}", "us", machine) for number in range(replicas)]


def traffic(
    conversations_per_second: float, seconds: float, shared: str, homes: Sequence[str] = ("us",)
) -> Traffic:
    """Conversations that come to the front doors of these regions."""
    return Traffic(
        conversations_per_second=conversations_per_second,
        seconds=seconds,
        system_tokens=SHARING[shared],
        turns=6.0,
        question_tokens=250,
        answer_tokens=250,
        think_seconds=30.0,
        homes=tuple(Home(region) for region in homes),
    )


def simulated(name: str, cell: Cell, seconds: float, seed: int) -> Run:
    """One run of one policy."""
    load = traffic(cell.traffic_per_second, seconds, cell.shared)
    fronts = {"us": front(name, cell, seed)}
    return FleetSimulation(fronts, places(cell.replicas, cell.memory), load, seed).run()


def measured(work: tuple[str, Cell, float, int]) -> dict[str, float]:
    """What is told of a run."""
    name, cell, seconds, seed = work
    began = time.perf_counter()
    run = simulated(name, cell, seconds, seed)
    return {
        "good": run.good(FIRST_SECONDS, GAP_SECONDS) / len(run.outcomes),
        "cached": run.cached_share,
        "first_token_p50": run.first_token_seconds(0.5),
        "first_token_p95": run.first_token_seconds(0.95),
        "refused": run.refused / len(run.outcomes),
        "preempted": run.preempted,
        "requests": len(run.outcomes),
        "took_seconds": time.perf_counter() - began,
    }


def row(cell: Cell, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over the seeds, and ours to the best of the others, seed by seed."""
    ratios = [
        ours["good"] / max(1e-9, *(runs[name][seed]["good"] for name in OTHERS))
        for seed, ours in enumerate(runs[OURS])
    ]
    medians = {
        name: {key: statistics.median(run[key] for run in each) for key in each[0]}
        for name, each in runs.items()
    }
    return asdict(cell) | {"policies": medians, "ratios": ratios, "ratio": statistics.median(ratios)}


def rows(cells: list[Cell], seconds: float, seeds: int, jobs: int) -> Iterator[dict[str, Any]]:
    """The grid, cell by cell."""
    names = (OURS, *OTHERS)
    work = [(name, cell, seconds, seed) for cell in cells for name in names for seed in range(seeds)]
    with ProcessPoolExecutor(jobs) as pool:
        found = pool.map(measured, work)
        for cell in cells:
            yield row(cell, {name: [next(found) for _ in range(seeds)] for name in names})


def shown(row: dict[str, Any]) -> str:
    """A line of the table: good and cached shares."""
    each = " | ".join(f"{one['good']:.1%} ({one['cached']:.0%})" for one in row["policies"].values())
    fleet = f"{row['replicas']} | {row['memory']} | {row['shared']} | {row['load']}"
    return f"| {fleet} | {each} | {row['ratio']:.2f} |"


def main() -> int:
    """Run the grid, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=2.5, help="in which conversations begin")
    parser.add_argument("--replicas", type=int, nargs="+", default=[4, 12])
    parser.add_argument("--memory", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="where the result goes as well")
    options = parser.parse_args()
    grid = itertools.product(options.replicas, options.memory, SHARING, ("low", "high", "over"))
    cells = [Cell(*each) for each in grid]
    print("| replicas | memory | shared | load | " + " | ".join((OURS, *OTHERS)) + " | to the best other |")
    print("| ---: " + "| --- " * 3 + "| ---: " * (len(OTHERS) + 2) + "|")
    found = []
    for each in rows(cells, options.minutes * 60, options.seeds, options.jobs):
        found.append(each)
        print(shown(each), flush=True)
    bound = [
        each["ratio"]
        for each in found
        if max(policy["good"] for name, policy in each["policies"].items() if name != OURS) < BINDS
    ]
    result = {
        "benchmark": "fleet_policies",
        "seeds": options.seeds,
        "minutes": options.minutes,
        "first_seconds": FIRST_SECONDS,
        "gap_seconds": GAP_SECONDS,
        "least_ratio": min(each["ratio"] for each in found),
        "cells_that_bind": len(bound),
        "least_ratio_where_bound": min(bound, default=None),
        "median_ratio_where_bound": statistics.median(bound) if bound else None,
        "rows": found,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
