"""What Ridgeline reaches on one GPU, in less than eight minutes, without files or network.

    python benchmarks/gpu/run.py [--out FOLDER] [--seed N] [--only STAGE ...]
    python benchmarks/gpu/run.py --smoke plain|kernels     the same code on a CPU, in small
    python benchmarks/gpu/run.py --floors                  the least times possible, by the cost model

First whether answers are right, then what the device can do at most, then decode and prefill of two
models, a load of conversations, the same load on transformers, and where the time goes. Each part runs
in a process of its own. Prints tables, then one line of JSON; docs/benchmarks/gpu.md says what they mean.

Ends with 0 if every part ran and every answer was right, with 1 if not, with 2 where there is no GPU.
"""

import argparse
import json
import math
import os
import secrets
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu.parts import Outcome

TOTAL_SECONDS = 470.0
"""Of all stages; a stage may use what those before it left over."""


def find_sources() -> None:
    """Run from the source tree, whether or not Ridgeline is installed."""
    here = Path(__file__).resolve().parent
    others = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    sys.path[:] = [str(here.parent), str(here.parents[1] / "src"), *others]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="write gpu.json and gpu.md into this folder")
    parser.add_argument("--seed", type=int, help="of all random numbers; new in every run if not given")
    parser.add_argument(
        "--smoke", choices=("plain", "kernels"), help="on a CPU, in small: figures mean nothing"
    )
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="some stages, by their titles")
    parser.add_argument("--in-process", action="store_true", help="all parts in this process")
    parser.add_argument("--floors", action="store_true", help="print the least times possible, and end")
    parser.add_argument("--unhurried", action="store_true", help="no limit of time, for slow machines")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_part(options: argparse.Namespace) -> int:
    """Carry one part out, for the process that started this one."""
    from gpu.parts import find_part, print_row, run_here

    try:
        run_here(find_part(options.part), options.smoke, options.seed, options.deadline, print_row)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def run_all(options: argparse.Namespace) -> int:
    """All stages, then the report."""
    from gpu.parts import Outcome, Stage, own_command, run_here, run_stage, stages

    def run_one_by_one(stage: Stage, seconds: float) -> list[Outcome]:
        outcomes = []
        for part in stage.parts:
            outcome, began = Outcome(part.name, 0.0), time.monotonic()
            outcomes.append(outcome)
            try:
                run_here(
                    part,
                    options.smoke,
                    options.seed,
                    began + seconds,
                    lambda table, row, rows=outcome.rows: rows.append((table, row)),
                )
            except Exception as error:
                traceback.print_exc()
                outcome.fault = f"{type(error).__name__}: {error}"
            outcome.seconds = time.monotonic() - began
        return outcomes

    chosen = [stage for stage in stages() if not options.only or stage.title in options.only]
    if not chosen:
        sys.exit(f"--only: there are {', '.join(stage.title for stage in stages())}")
    outcomes: list[Outcome] = []
    started, allowed = time.monotonic(), 0.0
    for stage in chosen:
        allowed = min(TOTAL_SECONDS, allowed + stage.seconds)
        seconds = 3600.0 if options.unhurried else allowed - (time.monotonic() - started)
        print(f"{stage.title}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
        if options.in_process:
            outcomes += run_one_by_one(stage, seconds)
        else:
            outcomes += run_stage(stage, own_command(options.smoke, options.seed), seconds)
    return tell(options, outcomes, time.monotonic() - started)


def tell(options: argparse.Namespace, outcomes: "list[Outcome]", seconds: float) -> int:
    """Print the report, write it where it was asked for; the exit status."""
    from gpu.machine import describe_machine
    from gpu.report import failed_checks, markdown, tables_of

    tables = tables_of(outcomes)
    faults = [f"{outcome.part} {outcome.fault}" for outcome in outcomes if outcome.fault]
    for outcome in outcomes:
        if outcome.fault and outcome.log:
            print(f"--- {outcome.part}", *outcome.log, sep="\n", file=sys.stderr)
    faults += [f"wrong: {check}" for check in failed_checks(tables)]
    machine = describe_machine()
    result = {
        "benchmark": "gpu",
        "smoke": options.smoke,
        "seed": options.seed,
        "seconds": round(seconds, 1),
        "machine": machine,
        "parts": {outcome.part: round(outcome.seconds, 1) for outcome in outcomes},
        "faults": faults,
        "tables": tables,
    }
    title = "# On a GPU\n\n" if options.smoke is None else "# A smoke test: these times mean nothing\n\n"
    facts = ", ".join(f"{name} {value}" for name, value in machine.items() if value is not None)
    broken = "".join(f"FAILED: {fault}\n\n" for fault in faults)
    text = f"{title}{facts}. {seconds:.0f} s, seed {options.seed}.\n\n{broken}{markdown(tables)}"
    line = json.dumps(_valid(result))
    print(text)
    print(line)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu.md").write_text(text, encoding="utf-8")
        (options.out / "gpu.json").write_text(line + "\n", encoding="utf-8")
    return 1 if faults else 0


def _valid(value: Any) -> Any:
    """With the numbers that JSON does not have as text."""
    if isinstance(value, dict):
        return {key: _valid(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_valid(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def main() -> int:
    """Do what was asked for; the exit status."""
    options = parse()
    if options.smoke == "kernels":
        os.environ["TRITON_INTERPRET"] = "1"
    # Libraries would look for kernels and files there, and wait where there is no network.
    os.environ["HF_HUB_OFFLINE"] = "1"
    find_sources()
    if options.floors:
        from gpu.floors import floors

        print(floors(), end="")
        return 0
    if options.smoke is None:
        import torch

        if not torch.cuda.is_available():
            print("This benchmark needs an NVIDIA GPU and a torch built for CUDA.", file=sys.stderr)
            return 2
    if options.part:
        code = run_part(options)
        sys.stdout.flush()
        os._exit(code)  # threads of libraries may not let the process end
    if options.seed is None:
        options.seed = secrets.randbits(31)
    return run_all(options)


if __name__ == "__main__":
    sys.exit(main())
