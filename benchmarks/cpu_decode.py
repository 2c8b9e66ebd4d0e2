"""How fast the CPU executor computes: decode by batch size, prefill by prompt length.

    python benchmarks/cpu_decode.py [--model smollm2-135m] [--dtype auto] [--repetitions 5]

Decode reads every weight once per step, however many sequences share the step: at batch 1 memory
sets the pace, and each doubling of the batch is nearly free until the products themselves (the ridge,
about 13 operations per byte in bfloat16 on two cores) or the reading of K and V take over. Prefill is
bound by the products from the start.

Sequences have prompts of 128 tokens and are decoded greedily to 192, through the executor and without
the engine around it. The batch sizes take turns in each repetition, so that a noisy neighbour spoils
them alike. Prints a table with medians and spread, then one line of JSON.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator

import torch

from ridgeline.engine.core.plan import Admission, Row, StepPlan
from ridgeline.engine.executors.cpu import CpuExecutor
from ridgeline.models.files import open_model
from ridgeline.protocol import Sampling

PROMPT_TOKENS, NEW_TOKENS = 128, 64
BATCHES = (1, 8, 16, 32)
PREFILLS = (128, 512)


def prompt(length: int, salt: int, vocab: int) -> tuple[int, ...]:
    """Token ids without meaning: the time does not depend on them."""
    return tuple((7 + 31 * salt + 13 * i) % (vocab - 1000) + 500 for i in range(length))


class Driver:
    """Admits sequences into slots of their own blocks and runs plans to the end."""

    def __init__(self, executor: CpuExecutor, vocab: int, sampling: Sampling) -> None:
        self.executor = executor
        self.vocab = vocab
        self.sampling = sampling

    def prefill(self, slot: int, length: int, room: int) -> int:
        """Compute one prompt in one step; returns the first token drawn."""
        size = self.executor.geometry.block_size_tokens
        blocks = -(-(length + room) // size)
        ids = prompt(length, slot, self.vocab)
        row = Row(slot, 0, ids, tuple(range(slot * blocks, (slot + 1) * blocks)), sample=True)
        plan = StepPlan(0, (row,), (Admission(slot, ids, length, self.sampling),))
        token = self.run(plan)[0]
        assert token is not None
        return token

    def run(self, plan: StepPlan) -> list[int | None]:
        """Carry out a step."""
        return [row.token_id for row in self.executor.collect(self.executor.launch(plan)).rows]

    def release(self, slots: range) -> None:
        """End the sequences."""
        self.run(StepPlan(0, (), releases=tuple(slots)))


def decode_seconds(driver: Driver, batch: int) -> Iterator[tuple[float, float]]:
    """Seconds of each decode step, and those of them that were the host's."""
    tokens: list[int | None] = [driver.prefill(slot, PROMPT_TOKENS, NEW_TOKENS) for slot in range(batch)]
    for step in range(NEW_TOKENS - 1):
        started = time.perf_counter()
        at = PROMPT_TOKENS + step
        rows = tuple(Row(s, at, (t,), sample=True) for s, t in enumerate(tokens) if t is not None)
        result = driver.executor.collect(driver.executor.launch(StepPlan(step, rows)))
        tokens = [row.token_id for row in result.rows]
        seconds = time.perf_counter() - started
        yield seconds, seconds - result.device_seconds
    driver.release(range(batch))


def prefill_seconds(driver: Driver, length: int) -> float:
    """Seconds of one prompt, alone in its step."""
    started = time.perf_counter()
    driver.prefill(0, length, 0)
    seconds = time.perf_counter() - started
    driver.release(range(1))
    return seconds


def measure(driver: Driver, repetitions: int) -> dict[str, dict[str, float]]:
    """Tokens per second of each shape: median over repetitions, smallest and largest."""
    rates: dict[str, list[float]] = {}
    host: dict[str, list[float]] = {}
    for repetition in range(repetitions + 1):
        for length in PREFILLS:
            seconds = prefill_seconds(driver, length)
            rates.setdefault(f"prefill {length}", []).append(length / seconds)
        for batch in BATCHES:
            steps = list(decode_seconds(driver, batch))
            name = f"decode {batch}"
            rates.setdefault(name, []).append(batch / statistics.median(s for s, _ in steps))
            host.setdefault(name, []).append(statistics.median(h for _, h in steps))
        if repetition == 0:  # the first round makes oneDNN's kernels
            rates.clear()
            host.clear()
    return {
        name: {
            "tokens_per_second": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "host_milliseconds": statistics.median(host[name]) * 1e3 if name in host else 0.0,
        }
        for name, values in rates.items()
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    files = open_model(options.model)
    executor = CpuExecutor(
        files,
        dtype=options.dtype,
        kv_memory_bytes=None,
        max_batch=max(BATCHES),
        max_context_tokens=max(PREFILLS),
        threads=options.threads,
    )
    sampling = Sampling(temperature=options.temperature, top_p=0.95 if options.temperature else 1.0, seed=1)
    results = measure(Driver(executor, files.config.vocab, sampling), options.repetitions)
    print(
        f"{files.name}, {executor.fingerprint}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{torch.cpu.get_capabilities().get('cpu_name', platform.machine())}, {platform.platform()}")
    print(f"{'':14}{'tokens/s':>10}{'lowest':>10}{'highest':>10}{'host ms':>10}")
    for name, row in results.items():
        print(f"{name:14}" + "".join(f"{value:10.2f}" for value in row.values()))
    print(
        json.dumps(
            {
                "benchmark": "cpu_decode",
                "model": files.name,
                "fingerprint": executor.fingerprint,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.machine()),
                "repetitions": options.repetitions,
                "temperature": options.temperature,
                "results": results,
            }
        )
    )


if __name__ == "__main__":
    main()
