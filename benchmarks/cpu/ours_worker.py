"""Ridgeline without a server: the engine as it is served, driven step by step in this process."""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cpu.answering import answer_requests, token_ids
from cpu.rows import AMPLE_TOKENS, NEW_TOKENS
from ridgeline.engine.build import build_engines
from ridgeline.engine.core.messages import Cancel, Output, Submit
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.loop import Engine
from ridgeline.engine.options import EngineOptions, ModelSpec
from ridgeline.models.files import open_model
from ridgeline.protocol import Sampling
from ridgeline.telemetry.metrics import Metrics

GREEDY = Sampling(temperature=0.0, seed=0)


def engine_of(model: str, asked: EngineOptions) -> Engine:
    """The engine as it is served, in this process."""
    metrics = Metrics()
    ((engine, _),) = build_engines(
        [ModelSpec(model)],
        asked,
        lambda name, geometry: metrics.engine(
            name, block_size_tokens=geometry.block_size_tokens, blocks_total=geometry.blocks
        ),
    )
    return engine


class Driver:
    """Puts sequences into an engine and steps it."""

    def __init__(self, engine: Engine, vocab: int) -> None:
        self._engine = engine
        self._vocab = vocab
        self._salts = itertools.count()

    def prefill(self, prompt_tokens: int) -> float:
        """Tokens per second of one prompt alone, to its first token."""
        started = time.perf_counter()
        self._submit(prompt_tokens, 1, next(self._salts))
        while not any(output.token_ids for output in self._step()):
            pass
        return prompt_tokens / (time.perf_counter() - started)

    def decode(self, sequences: int, prompt_tokens: int) -> float:
        """Tokens per second of the steps after all prompts.

        Prompts of the same shape are the same from one time to the next, so that long ones are
        computed once: their blocks are still in the cache, those of each sequence its own.
        """
        base = 1_000_000 + 1000 * prompt_tokens
        waiting = {self._submit(prompt_tokens, AMPLE_TOKENS, base + i) for i in range(sequences)}
        ids = frozenset(waiting)
        while waiting:
            waiting -= {output.sequence_id for output in self._step() if output.token_ids}
        started, drawn = time.perf_counter(), 0
        for _ in range(NEW_TOKENS - 1):
            drawn += sum(len(output.token_ids) for output in self._step())
        seconds = time.perf_counter() - started
        for each in ids:
            self._engine.handle(Cancel(each), time.monotonic())
        while self._engine.has_work:
            self._step()
        if drawn != (NEW_TOKENS - 1) * sequences:
            raise RuntimeError(f"{drawn} tokens came of {sequences} sequences")
        return drawn / seconds

    def _submit(self, prompt_tokens: int, new_tokens: int, salt: int) -> str:
        prompt = tuple(token_ids(prompt_tokens, salt, self._vocab))
        spec = SequenceSpec(f"{salt}-{next(self._salts)}", prompt, GREEDY, new_tokens)
        now = time.monotonic()
        self._check(self._engine.handle(Submit(spec, now), now))
        return spec.id

    def _step(self) -> list[Output]:
        return self._check(self._engine.step(time.monotonic))

    def _check(self, outputs: list[Output]) -> list[Output]:
        for output in outputs:
            if output.refusal is not None:
                raise RuntimeError(output.refusal.message)
        return outputs


def main() -> None:
    """Load, then measure what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--kv-dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--step-tokens", type=int, required=True)
    options = parser.parse_args()
    asked = EngineOptions(
        dtype=options.dtype,
        kv_dtype=options.kv_dtype,
        threads=options.threads,
        max_batch_tokens=options.step_tokens,
    )
    engine = engine_of(options.model, asked)
    driver = Driver(engine, open_model(options.model).config.vocab)

    def carry_out(task: dict[str, Any]) -> dict[str, float]:
        if task["kind"] == "prefill":
            return {"tokens_per_second": driver.prefill(task["prompt_tokens"])}
        return {"tokens_per_second": driver.decode(task["sequences"], task["prompt_tokens"])}

    answer_requests({"fingerprint": engine.executor.fingerprint}, carry_out)


if __name__ == "__main__":
    main()
