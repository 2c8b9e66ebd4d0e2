"""What a front door believes to be cached, without and with what replicas tell of their caches.

    python benchmarks/fleet/beliefs.py [--doors 3] [--seeds 3] [--seconds 90] [--load 5] [--json FILE]

On a virtual clock: four replicas of an 8B model on an H100 by the cost model, each with room for 100,000
tokens of KV, behind one or several front doors that know nothing of one another. Without reports a door
believes of each replica no more than its memory holds, and learns from `cached_tokens` alone. The last line
is JSON.
"""

import argparse
import json
import random
import statistics
import sys
from pathlib import Path
from typing import Any

from policies import FIRST_SECONDS, GAP_SECONDS, WAIT_SECONDS, places, traffic

from ridgeline.fleet.core.door import Door
from ridgeline.simulate.fleet import FleetSimulation
from ridgeline.simulate.fleet_policies import Ours

REPLICAS = 4


def measured(doors: int, load: float, seconds: float, seed: int, reports: bool) -> dict[str, float]:
    """One run: good and cached shares, and tokens per request that were believed cached and were not."""
    regions = [f"door{number}" for number in range(doors)]
    cores = [
        Door(region, {}, max_wait_seconds=WAIT_SECONDS, rng=random.Random(10 * seed + number))
        for number, region in enumerate(regions)
    ]
    fronts = {door.region: Ours(door, hears_reports=reports) for door in cores}
    asked = traffic(load * REPLICAS, seconds, "much", regions)
    run = FleetSimulation(fronts, places(REPLICAS, "short"), asked, seed).run()
    requests = len(run.outcomes)
    return {
        "good": run.good(FIRST_SECONDS, GAP_SECONDS) / requests,
        "cached": run.cached_share,
        "too_much_believed_tokens": sum(door.predicted_less_actual_cached for door in cores) / requests,
        "first_token_p95": run.first_token_seconds(0.95),
        "requests": requests,
    }


def main() -> int:
    """Run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--doors", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=90.0, help="in which conversations begin")
    parser.add_argument("--load", type=float, default=5.0, help="conversations per second and replica")
    parser.add_argument("--json", type=Path, help="where the result goes as well")
    options = parser.parse_args()
    print("| front doors | reports | good | cached | believed too much, tokens | first token, 95 % within |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    rows: list[dict[str, Any]] = []
    for doors in options.doors:
        for reports in (False, True):
            runs = [
                measured(doors, options.load, options.seconds, seed, reports) for seed in range(options.seeds)
            ]
            row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            rows.append(
                {"doors": doors, "reports": reports, **row, "good_by_seed": [r["good"] for r in runs]}
            )
            print(
                f"| {doors} | {'yes' if reports else 'no'} | {row['good']:.1%} | {row['cached']:.1%} | "
                f"{row['too_much_believed_tokens']:.0f} | {row['first_token_p95']:.2f} s |",
                flush=True,
            )
    result = {
        "benchmark": "fleet_beliefs",
        "seeds": options.seeds,
        "seconds": options.seconds,
        "load": options.load,
        "rows": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
