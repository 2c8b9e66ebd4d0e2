"""Whether a prefix that sequences share is read once per step, or once per sequence.

    python benchmarks/kv/shared_prefix.py [--sequences 16] [--prefix 1024] [--repetitions 5]

Decodes the same number of sequences three times in turns: with a prompt of their own each, with the same
beginning (whose blocks they share), and with the end alone. What a step of the second takes beyond the
third is reading and weighing the shared part. The last line is JSON.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from ridgeline.engine.build import build_engines
from ridgeline.engine.core.messages import Cancel, Submit
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.loop import Engine
from ridgeline.engine.options import EngineOptions, ModelSpec
from ridgeline.protocol import Sampling
from ridgeline.telemetry.metrics import Metrics

GREEDY = Sampling(temperature=0.0, seed=0)
END_TOKENS = 64
STEPS = 24


class Decoder:
    """An engine that decodes batches."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers = itertools.count(1)

    def step_seconds(self, sequences: int, prefix_tokens: int, *, shared: bool) -> float:
        """Median step of so many sequences, after all their prompts."""
        common = next(self._numbers)
        names = []
        for _ in range(sequences):
            own = next(self._numbers)
            prefix = text(common if shared else own, prefix_tokens)
            names.append(f"s{own}")
            spec = SequenceSpec(names[-1], (*prefix, *text(own + 7, END_TOKENS)), GREEDY, 1_000)
            now = time.monotonic()
            for output in self._engine.handle(Submit(spec, now), now):
                if output.refusal is not None:
                    raise output.refusal
        waiting = set(names)
        while waiting:
            waiting -= {each.sequence_id for each in self._engine.step(time.monotonic) if each.token_ids}
        seconds = []
        for _ in range(STEPS):
            started = time.perf_counter()
            self._engine.step(time.monotonic)
            seconds.append(time.perf_counter() - started)
        for name in names:
            self._engine.handle(Cancel(name), time.monotonic())
        while self._engine.has_work:
            self._engine.step(time.monotonic)
        return statistics.median(seconds)


def text(salt: int, tokens: int) -> tuple[int, ...]:
    """Tokens that nobody else begins with."""
    return tuple(300 + (salt * 7919 + i * 31 + i * i % 101) % 20_000 for i in range(tokens))


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--prefix", type=int, default=1024, help="tokens")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    metrics = Metrics()
    asked = EngineOptions(threads=options.threads, kv_memory_bytes=2 << 30, inter_token_seconds=0.0)
    ((engine, loaded),) = build_engines(
        [ModelSpec("smollm2-135m")], asked, lambda name, _: metrics.engine(name)
    )
    decoder = Decoder(engine)
    shapes = {"own": (options.prefix, False), "shared": (options.prefix, True), "end alone": (0, False)}
    found: dict[str, list[float]] = {name: [] for name in shapes}
    for _ in range(options.repetitions + 1):  # the first time warms up
        for name, (prefix, shared) in shapes.items():
            found[name].append(decoder.step_seconds(options.sequences, prefix, shared=shared))
    medians = {name: statistics.median(values[1:]) for name, values in found.items()}
    for name, seconds in medians.items():
        print(f"{name:10} {1000 * seconds:7.2f} ms a step")
    per_token = loaded.geometry.block_bytes / loaded.geometry.block_size_tokens
    print(
        json.dumps(
            {
                "benchmark": "shared_prefix",
                "sequences": options.sequences,
                "prefix_tokens": options.prefix,
                "prefix_bytes": options.prefix * per_token,
                "step_seconds": medians,
                "shared_over_own": (medians["shared"] - medians["end alone"])
                / (medians["own"] - medians["end alone"]),
            }
        )
    )


if __name__ == "__main__":
    main()
