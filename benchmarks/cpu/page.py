"""Puts a result of `compare.py` into docs/benchmarks/cpu.md, as a table and a chart.

    python benchmarks/cpu/compare.py --peers FOLDER --out result.json
    python benchmarks/cpu/page.py result.json

Of what `compare.py` printed the last line counts, which is the same. What stands between the markers
of the page is replaced, and docs/images/cpu.svg is written.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cpu.plot import bar_chart
from cpu.report import table

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, CHART = DOCS / "benchmarks" / "cpu.md", DOCS / "images" / "cpu.svg"
BEGIN, END = "<!-- results of benchmarks/cpu/page.py -->", "<!-- end of results -->"


def last_result(text: str) -> dict[str, Any]:
    """The result in what `compare.py` printed; raises ValueError where there is none."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise ValueError("no line of JSON is in it")


def replaced(page: str, results: str) -> str:
    """The page with other results; raises ValueError where it has no place for them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must have the lines {BEGIN} and {END}")
    return f"{before}{begin}\n\n{results}\n\n{end}{after}"


def results(record: Mapping[str, Any]) -> str:
    """The generated part of the page."""
    paragraphs = [
        f"Measured on {record['date']}: {_listed(record['machine'])}; model {record['model']}.",
        "![How fast each contender is beside the fastest peer](../images/cpu.svg)",
        "Tokens per second, or seconds where so marked: medians, with the least and the most in brackets.",
        table(record["rows"], list(record["contenders"])),
        *(f"{name}: {_listed(facts)}." for name, facts in record["contenders"].items()),
    ]
    ceilings = record["ceilings"]
    if ceilings:
        tiles = ceilings.get("tile_operations_per_second", 0.0)
        paragraphs.append(
            f"All threads together read {ceilings['read_bytes_per_second'] / 1e9:.0f} GB/s and compute "
            f"{ceilings['int8_operations_per_second'] / 1e9:,.0f} GOP/s in int8, "
            f"{ceilings['float32_operations_per_second'] / 1e9:,.0f} GFLOP/s in float32"
            + (f", {tiles / 1e9:,.0f} GFLOP/s in bfloat16 in tiles." if tiles else ".")
        )
    if record["client_share"]:
        told = ", ".join(f"{share:.0%} beside {name}" for name, share in record["client_share"].items())
        paragraphs.append(f"Of one core, the load generator took at most {told}.")
    if record["disturbed"]:
        paragraphs.append(f"{record['disturbed']} measurements began while others used the cores.")
    paragraphs += [f"{name} was left out: {reason}." for name, reason in record["left_out"].items()]
    # Where the logs were is nobody's business later.
    paragraphs += [f"Failed: {failure.partition('; see ')[0]}." for failure in record["failures"]]
    return "\n\n".join(paragraphs)


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())


def main() -> None:
    """Read the command line, write page and chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("result", type=Path, help="what compare.py printed or wrote")
    options = parser.parse_args()
    record = last_result(options.result.read_text(encoding="utf-8"))
    CHART.write_text(bar_chart(record), encoding="utf-8")
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), results(record)), encoding="utf-8")
    print(f"wrote {PAGE} and {CHART}")


if __name__ == "__main__":
    main()
