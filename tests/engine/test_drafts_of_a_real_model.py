"""A real answer that repeats its question: the same tokens with drafts, in fewer steps, and counted."""

import re
import time
from pathlib import Path

import pytest

from ridgeline.engine.build import build_engines
from ridgeline.engine.core.messages import Submit
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.options import EngineOptions, ModelSpec
from ridgeline.models.files import open_model
from ridgeline.protocol import Message, Sampling
from ridgeline.telemetry.metrics import Metrics

QUESTION = (
    "Repeat this text word for word: The lighthouse keeper walked down to the grey sea every morning, and "
    "every morning the grey sea brought him a bottle with a letter for the lighthouse keeper."
)


def answered(path: Path, sampling: Sampling, **options: int) -> tuple[list[int], int, str]:
    """Tokens, steps and metrics of the answer."""
    metrics = Metrics()
    ((engine, _),) = build_engines(
        [ModelSpec(str(path))],
        EngineOptions(dtype="float32", kv_memory_bytes=2**26, threads=1, **options),
        lambda name, geometry: metrics.engine(name, blocks_total=geometry.blocks),
    )
    tokenizer = open_model(str(path)).tokenizer
    prompt = tuple(tokenizer.encode_chat([Message("user", QUESTION)]))
    spec = SequenceSpec("q", prompt, sampling, 40, frozenset(tokenizer.eos_token_ids))
    now = time.monotonic()
    engine.handle(Submit(spec, now), now)
    tokens: list[int] = []
    steps = 0
    while engine.has_work:
        for output in engine.step(time.monotonic):
            assert output.refusal is None
            tokens += output.token_ids
        steps += 1
    engine.executor.close()
    return tokens, steps, metrics.render()[0].decode()


@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=0.0, seed=0), Sampling(temperature=0.5, seed=3)],
    ids=["greedy", "drawn"],
)
def test_an_answer_that_repeats_takes_fewer_steps(smollm2_path: Path, sampling: Sampling) -> None:
    wanted, plain_steps, plain = answered(smollm2_path, sampling)
    tokens, steps, counted = answered(smollm2_path, sampling, draft_tokens=7)
    assert tokens == wanted
    assert steps < 0.8 * plain_steps
    accepted = re.search(r'ridgeline_draft_tokens_total\{.*result="accepted"\} (\d+)', counted)
    assert accepted is not None and int(accepted[1]) == plain_steps - steps
    assert 'result="accepted"' not in plain
