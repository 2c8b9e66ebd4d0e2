"""The table and the picture of docs/guides/kv_cache.md: a trace through caches of many sizes.

    python benchmarks/kv/replay_page.py conversation_trace.jsonl

Writes docs/images/kv_replay.svg, and the table to standard output, then one line of JSON. Shown is the
second half of the trace's time; the price was tuned on the first. No clock is read: the figures are the
same on any machine.
"""

import json
import sys
from pathlib import Path

from ridgeline.bench.plots import Plot, Series, svg
from ridgeline.bench.trace import BLOCK_TOKENS, read_trace
from ridgeline.roofline import find_hardware, find_shape, recompute_seconds
from ridgeline.simulate.replay import POLICIES, Part, Replay, replay_parts

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "kv_replay.svg"
ROOMS_MILLIONS = (0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100)
PARTS = {"first": Part(0, 0.5), "second": Part(0.5, 1), "whole": Part()}
STYLE = """<style>
svg { background: #fff; font: 11px system-ui, sans-serif; }
text { fill: #555; } .grid, .axis { stroke: #ddd; }
.line { fill: none; stroke-width: 2; } .line.s1 { stroke: #c2410c; } .line.s2 { stroke: #1d4ed8; }
.line.bad { stroke: #777; stroke-dasharray: 4 3; }
.dot.s1 { fill: #c2410c; } .dot.s2 { fill: #1d4ed8; } .dot.bad { fill: #777; }
</style>"""


def costs(position: int) -> float:
    """Seconds of a block on an H100 that runs Llama 3.1 8B."""
    shape, hardware = find_shape("llama-3.1-8b"), find_hardware("h100")
    start = position * BLOCK_TOKENS
    return recompute_seconds(shape, hardware, "bfloat16", start_token=start, tokens=BLOCK_TOKENS)


def picture(results: list[Replay]) -> str:
    """Saved seconds over room."""
    colours = {"lru": "s1", "price": "s2", "optimal": "bad"}
    series = [
        Series(
            [(r.room_tokens / 1e6, r.saved_seconds) for r in results if r.policy == policy],
            "marked",
            policy,
            colours[policy],  # type: ignore[arg-type]
        )
        for policy in POLICIES
    ]
    plot = Plot("Seconds saved in half an hour", "room, million tokens", "seconds", series, log_x=True)
    drawn = svg(plot).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    end = drawn.index(">") + 1
    return f"{drawn[:end]}{STYLE}{drawn[end:]}\n"


def main() -> None:
    """Print the table, write the picture."""
    trace = read_trace(Path(sys.argv[1]))
    results: dict[str, list[Replay]] = {part: [] for part in PARTS}
    for millions in ROOMS_MILLIONS:
        for policy in POLICIES:
            told = replay_parts(trace, policy, round(millions * 1e6), costs, tuple(PARTS.values()))
            for part, result in zip(PARTS, told, strict=True):
                results[part].append(result)
    lines = ["| room, tokens | LRU hits | LRU | price | optimal | first half | whole hour |"]
    lines.append("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for i, millions in enumerate(ROOMS_MILLIONS):
        lru, price, best = results["second"][3 * i : 3 * i + 3]
        over = [
            results[p][3 * i + 1].saved_seconds / results[p][3 * i].saved_seconds for p in ("first", "whole")
        ]
        lines.append(
            f"| {millions:g}M | {lru.hit_ratio:.1%} | {lru.saved_seconds:.0f} s "
            f"| {price.saved_seconds:.0f} s, {price.saved_seconds / lru.saved_seconds:.2f} x "
            f"| {best.saved_seconds:.0f} s, {best.saved_seconds / lru.saved_seconds:.2f} x "
            f"| {over[0]:.2f} x | {over[1]:.2f} x |"
        )
    PICTURE.write_text(picture(results["second"]), encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")
    rows = [
        {"part": part, "policy": r.policy, "room_tokens": r.room_tokens, "saved_seconds": r.saved_seconds}
        for part, found in results.items()
        for r in found
    ]
    sys.stdout.write(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
