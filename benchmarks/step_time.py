"""How well steps are predicted on this processor, by steps that the prediction was not fitted on.

    python benchmarks/step_time.py [--seconds 60] [--dtype auto] [--json FILE]

An engine with the default model serves loads that change every 2.5 s: 1 to 64 sequences, prompts of 16
to 1,500 tokens, answers of 1 to 128, steps of 64 to 512 tokens. It learns from blocks of 40 steps, and
is judged by the blocks between them. The goal is a median error under 10 % for decode, prefill and
mixed steps. Needs a machine with nothing else to do. The last line is JSON.
"""

import argparse
import json
import random
import statistics
import time
from collections import defaultdict
from pathlib import Path

from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.pace import FixedPace
from ridgeline.engine.core.plan import StepPlan
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.executors.cpu import CpuExecutor
from ridgeline.engine.meter import CostModel
from ridgeline.models.files import open_model
from ridgeline.protocol import Sampling
from ridgeline.roofline import Work

GOAL = 0.10
BLOCK_STEPS = 40
PHASE_SECONDS = 2.5
SKIPPED_STEPS = 80
"""At the start: what is learned from is only beginning to be there."""

SIZES = (1, 4, 16, 64, 256, 1024)


def kind_of(work: Work) -> str:
    """Of a step, by what its sequences do."""
    if work.singles == 0:
        return "prefill"
    return "decode" if work.singles == work.sequences else "mixed"


def size_of(work: Work) -> str:
    """The range of tokens that a step is counted in."""
    least = max(size for size in SIZES if size <= work.new_tokens)
    return f"{work.new_tokens} token" if least == 1 == work.new_tokens else f"from {least} tokens"


class Loads:
    """A scheduler that always has as many requests as the present phase wants."""

    def __init__(self, executor: CpuExecutor) -> None:
        self._draw = random.Random(1)
        self._executor = executor
        self.scheduler = Scheduler(executor.geometry, Limits(max_batch_tokens=512, max_waiting=1000))
        self._number, self._until = 0, 0.0

    def plan(self) -> StepPlan:
        """The next step."""
        now = time.monotonic()
        if now >= self._until:
            choose = self._draw.choice
            self._wanted = choose((1, 2, 4, 8, 12, 16, 24, 32, 48, 64))
            self._prompt, self._answer = choose((16, 60, 128, 300, 700, 1500)), choose((1, 8, 32, 128))
            limits = Limits(max_batch_tokens=choose((64, 128, 256, 512)))
            self.scheduler.pace = FixedPace(limits, self._executor.geometry.max_batch)
            self._until = now + PHASE_SECONDS
        while self.scheduler.running + self.scheduler.waiting < self._wanted:
            self._submit(now)
        plan = self.scheduler.schedule(now)
        assert plan is not None
        return plan

    def _submit(self, now: float) -> None:
        self._number += 1
        length = max(2, round(self._prompt * self._draw.uniform(0.5, 1.5)))
        prompt = tuple((self._number * 7919 + i) % 40_000 for i in range(length))
        answer = max(1, round(self._answer * self._draw.uniform(0.5, 1.5)))
        spec = SequenceSpec(str(self._number), prompt, Sampling(temperature=0.0, seed=0), answer)
        self.scheduler.submit(spec, now)


def main() -> None:
    """Run, print a table, end with a line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of the run")
    parser.add_argument("--dtype", default="auto", help="as of ridgeline serve")
    parser.add_argument("--threads", type=int, default=2, help="that compute")
    parser.add_argument("--json", type=Path, help="where the result goes as well")
    options = parser.parse_args()
    files = open_model("smollm2-135m")
    executor = CpuExecutor(
        files,
        dtype=options.dtype,
        kv_memory_bytes=3 << 30,
        max_batch=64,
        max_context_tokens=4096,
        threads=options.threads,
    )
    costs = CostModel(
        files.config.shape(),
        executor.hardware,
        executor.dtype,
        512,
        kv_dtype=executor.kv_dtype,
        weights=executor.weight_bytes,
    )
    loads, errors = Loads(executor), defaultdict[tuple[str, str], list[float]](list)
    end, number = time.monotonic() + options.seconds, 0
    while time.monotonic() < end:
        started = time.monotonic()
        plan = loads.plan()
        result = executor.collect(executor.launch(plan))
        loads.scheduler.commit(plan, result, time.monotonic())
        seconds, work = time.monotonic() - started, costs.work(plan)
        number += 1
        if number // BLOCK_STEPS % 2 == 0:
            costs.step_time.observe(work, seconds)
        elif number > SKIPPED_STEPS:
            error = costs.step_time.seconds(work) / seconds - 1.0
            for size in ("all", size_of(work)):
                errors[kind_of(work), size].append(error)
    report(errors, executor, options.json)


def report(errors: dict[tuple[str, str], list[float]], executor: CpuExecutor, file: Path | None) -> None:
    """Medians and 9 of 10, of the sizes of the errors."""
    rows = {}
    print(f"{executor.dtype}, {executor.kernels}\n{'steps':28} {'number':>7} {'median':>8} {'9 of 10':>8}")
    for (kind, size), found in sorted(errors.items()):
        sizes = sorted(map(abs, found))
        row = {
            "steps": len(found),
            "median_error": statistics.median(sizes),
            "high_error": sizes[int(0.9 * len(sizes))],
            "bias": statistics.median(found),
        }
        rows[f"{kind}, {size}"] = row
        print(f"{kind + ', ' + size:28} {len(found):7} {row['median_error']:8.1%} {row['high_error']:8.1%}")
    met = all(row["median_error"] < GOAL for name, row in rows.items() if name.endswith(", all"))
    print(f"the goal, a median error under {GOAL:.0%} for each kind, is {'met' if met else 'missed'}")
    result = {"dtype": executor.dtype, "kernels": executor.kernels, "errors": rows, "met": met}
    if file:
        file.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
