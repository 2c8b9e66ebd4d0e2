"""Ridgeline and its peers in turns on the same cores: tokens per second, waits, and the ratios.

    python benchmarks/cpu/compare.py --peers FOLDER [--dtype auto] [--repetitions 3] [--out FILE]
    python benchmarks/cpu/compare.py --peers FOLDER --rows decode "prefill 512" --only ridgeline q4_0

The peers are llama.cpp (Q4_0 and Q8_0) and vLLM's CPU build (bfloat16); `install_peers.py` makes
FOLDER, and one that is not there is left out. In every repetition each row is measured of one
contender after the other, while the processes of those whose turn it is not are stopped. First come
the rows without a server, then all servers are started and chats are put on them. What the cores can
do at most is measured in every repetition too. docs/benchmarks/cpu.md says what the rows are; `page.py`
writes its tables from what is printed here.

Prints tables, then one line of JSON. Ends with 0 if all was measured, with 1 if something failed.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any


def find_sources() -> None:
    """Run from the source tree: the peers' starters must not be found as packages of their names."""
    here = Path(__file__).resolve().parent
    others = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    sys.path[:] = [str(here.parent), *others]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="see install_peers.py")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="those whose names begin with it")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contenders whose names contain it")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=15.0, help="begin no repetition that would end later"
    )
    parser.add_argument("--cores", default="0,1", help="that all are bound to")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto", help="Ridgeline's")
    parser.add_argument("--kv-dtype", default="auto", help="Ridgeline's")
    parser.add_argument("--step-tokens", type=int, default=512, help="Ridgeline's budget without a server")
    parser.add_argument("--quiet-seconds", type=float, default=10.0, help="to wait for others to be idle")
    parser.add_argument("--logs", type=Path, help="folder for what contenders print")
    parser.add_argument("--out", type=Path, help="write the line of JSON into this file too")
    return parser.parse_args()


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure; everything that was found, as it is printed in JSON."""
    from cpu import machine
    from cpu.contenders import Setting
    from cpu.limits import Model
    from cpu.report import median_ceilings, summaries
    from cpu.rows import chosen
    from cpu.turns import Clock, Turns
    from ridgeline.models.files import open_model

    rows = chosen(options.rows)
    cores = [int(core) for core in options.cores.split(",")]
    os.sched_setaffinity(0, cores)
    logs = options.logs or Path(tempfile.mkdtemp(prefix="cpu-compare-"))
    logs.mkdir(parents=True, exist_ok=True)
    tell(f"logs are in {logs}")
    setting = Setting(
        options.peers.absolute(),
        logs,
        len(cores),
        options.model,
        options.dtype,
        options.kv_dtype,
        options.step_tokens,
    )
    files = open_model(options.model)
    shape = files.config.shape()
    kv_dtype = "int8" if options.kv_dtype == "auto" else options.kv_dtype
    model = Model(shape, stored_bytes(files) / shape.parameters(), kv_dtype)
    contenders, left_out = present(setting, options.only)
    turns = Turns(contenders, rows, setting, Clock(60.0 * options.minutes), options.quiet_seconds, tell)
    try:
        turns.offline(options.repetitions)
        turns.online(options.repetitions)
    finally:
        turns.end()
    ceilings = median_ceilings(turns.ceilings)
    return {
        "benchmark": "cpu_compare",
        "date": machine.today(),
        "machine": machine.describe(len(cores)),
        "model": files.name,
        "bytes_per_weight": model.bytes_per_weight,
        "seconds": turns.clock.elapsed(),
        "contenders": {each.name: dict(each.facts()) for each in contenders},
        "ceilings": asdict(ceilings) if ceilings else None,
        "rows": summaries(rows, turns.samples, ceilings, model),
        "left_out": left_out,
        "client_share": turns.client_shares(),
        "disturbed": turns.disturbed,
        "failures": turns.failures,
        "samples": turns.samples,
    }


def stored_bytes(files: Any) -> float:
    """What all weights take in the file, without its header and vocabulary."""
    raw = getattr(files.weights, "raw", None)
    if raw is None:
        return float(files.weights_bytes_on_disk)
    return float(sum(raw(name)[1].nbytes for name in files.config.tensor_shapes()))


def present(setting: Any, only: list[str] | None) -> tuple[list[Any], dict[str, str]]:
    """Contenders that are here and were asked for, and why others are left out."""
    from cpu.llama import LlamaCpp
    from cpu.ours import Ridgeline
    from cpu.vllm import VllmCpu

    found, left_out = [], {}
    for each in (
        Ridgeline(setting),
        LlamaCpp(setting, "Q4_0", serves=True),
        LlamaCpp(setting, "Q8_0", serves=False),  # slower than Q4_0 with more than one sequence
        VllmCpu(setting),
    ):
        if only and not any(name.lower() in each.name.lower() for name in only):
            continue
        reason = each.missing()
        if reason is None:
            found.append(each)
        else:
            left_out[each.name] = reason
            print(f"{each.name} is left out: {reason}", flush=True)
    return found, left_out


def tell(line: str) -> None:
    """Progress, apart from the results."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def show(found: dict[str, Any]) -> None:
    """The table for people, then the line for programs."""
    from cpu.report import table

    print(f"\n{json.dumps(found['machine'])}")
    for name, facts in found["contenders"].items():
        print(f"{name}: {json.dumps(facts)}")
    if found["ceilings"]:
        ceilings = found["ceilings"]
        print(
            f"ceilings: {ceilings['read_bytes_per_second'] / 1e9:.1f} GB/s read,"
            f" {ceilings['int8_operations_per_second'] / 1e9:,.0f} GOP/s int8,"
            f" {ceilings['float32_operations_per_second'] / 1e9:,.0f} GFLOP/s float32,"
            f" {ceilings['tile_operations_per_second'] / 1e9:,.0f} GFLOP/s bfloat16 in tiles"
        )
    print(f"\n{table(found['rows'], list(found['contenders']))}\n")
    print("Medians (least to most); ratio: Ridgeline to the fastest peer; limit: see limits.py.")
    for name, share in found["client_share"].items():
        print(f"Beside {name} the load generator took up to {share:.1%} of a core.")
    if found["disturbed"]:
        print(f"{found['disturbed']} measurements began while other programs used the cores.")
    for line in found["failures"]:
        print(f"FAILED {line}")
    print(json.dumps(found))


def main() -> int:
    """Measure and print."""
    options = parse()
    find_sources()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("compare: told to stop"))  # contenders are ended then
    try:
        found = run(options)
    except ValueError as error:
        sys.exit(f"compare: {error}")
    show(found)
    if options.out:
        options.out.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
