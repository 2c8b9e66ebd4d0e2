"""Many conversations at once after the same system prompt, through the whole engine.

The load is run twice with other tokens: the first time kernels are compiled and graphs recorded, the
second is the one to compare. Both are told.
"""

import time
from dataclasses import dataclass

import numpy as np

from gpu.bench import Bench, Record, token_ids
from gpu.engines import GREEDY, Listener, clock, engine_of, make_executor, release
from gpu.scale import Conversations
from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.executors.cuda.executor import TorchCudaExecutor
from ridgeline.engine.loop import Engine

ROUNDS = ("first", "measured")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt and how many tokens its answer has."""

    prompt: tuple[int, ...]
    answer_tokens: int


def conversations(load: Conversations, vocab: int, seed: int, salt: int) -> list[Conversation]:
    """The load of a round; the same for whoever is measured with the same seed."""
    generator = np.random.default_rng((seed, 1_000 + salt))
    shared = token_ids(generator, load.shared_tokens, vocab)
    asked = []
    for _ in range(load.count):
        question = int(generator.integers(load.question_tokens[0], load.question_tokens[1] + 1))
        answer = int(generator.integers(load.answer_tokens[0], load.answer_tokens[1] + 1))
        asked.append(Conversation(shared + token_ids(generator, question, vocab), answer))
    return asked


def measure_load(bench: Bench, name: str) -> None:
    """Ridgeline's engine under the load."""
    scale, load = bench.scale, bench.scale.load
    config = scale.timed[name]
    started = time.monotonic()
    executor = make_executor(
        bench,
        config,
        max_batch=load.max_batch,
        max_batch_tokens=load.max_batch_tokens,
        weights_seed=bench.seed,
    )
    executor.warm_up()
    bench.put("loads", {"model": name, "load_seconds": time.monotonic() - started})
    for salt, what in enumerate(ROUNDS):
        if bench.has_time(20.0, f"the {what} round of the load"):
            asked = conversations(load, config["vocab_size"], bench.seed, salt)
            bench.put("load", {"engine": "Ridgeline", "model": name, "round": what, **_run(executor, asked)})
    executor.close()


def _run(executor: TorchCudaExecutor, asked: list[Conversation]) -> Record:
    limits = Limits(max_batch_tokens=executor._max_batch_tokens, max_waiting=len(asked))
    engine, listener = engine_of(executor, limits)
    answers = _Answers(asked, clock())
    for index, conversation in enumerate(asked):
        spec = SequenceSpec(str(index), conversation.prompt, GREEDY, conversation.answer_tokens)
        engine.scheduler.submit(spec, clock())
    while engine.has_work:
        answers.take(engine)
    # The next round's scheduler starts without slots; this one's last are still to be given back.
    release(executor, range(executor.geometry.max_batch))
    return {**answers.summary(), **_steps(engine, listener)}


class _Answers:
    """What has come in so far, and when."""

    def __init__(self, asked: list[Conversation], started: float) -> None:
        self._asked, self._started = asked, started
        self._tokens: list[list[int]] = [[] for _ in asked]
        self._first_seconds: list[float] = []
        self._cached_tokens = 0
        self._ended = started

    def take(self, engine: Engine) -> None:
        """One step."""
        outputs = engine.step(clock)
        self._ended = clock()
        for output in outputs:
            if output.refusal is not None:
                raise RuntimeError(output.refusal.message)
            tokens = self._tokens[int(output.sequence_id)]
            if not tokens and output.token_ids:
                self._first_seconds.append(self._ended - self._started)
                self._cached_tokens += output.cached_tokens
            tokens += output.token_ids

    def summary(self) -> Record:
        """Everybody has an answer of the length asked for."""
        for conversation, tokens in zip(self._asked, self._tokens, strict=True):
            if len(tokens) != conversation.answer_tokens:
                raise RuntimeError(f"an answer has {len(tokens)} tokens, not {conversation.answer_tokens}")
        seconds = self._ended - self._started
        return {
            "seconds": seconds,
            **rates(self._asked, sum(map(len, self._tokens)), seconds, self._first_seconds),
            "cached_tokens": self._cached_tokens,
            "first_tokens": [tokens[0] for tokens in self._tokens],
        }


def rates(
    asked: list[Conversation], output_tokens: int, seconds: float, first_seconds: list[float]
) -> Record:
    """What is told of every engine under the load."""
    return {
        "conversations": len(asked),
        "prompt_tokens": sum(len(conversation.prompt) for conversation in asked),
        "output_tokens": output_tokens,
        "output_tokens_per_second": output_tokens / seconds,
        "first_token_p50_seconds": float(np.quantile(first_seconds, 0.5)),
        "first_token_p99_seconds": float(np.quantile(first_seconds, 0.99)),
    }


def _steps(engine: Engine, listener: Listener) -> Record:
    steps = listener.steps
    wall = steps[-1].ended - steps[0].started
    return {
        "steps": len(steps),
        "largest_batch": max(len(step.plan.rows) for step in steps),
        "most_running": max(step.running for step in steps),
        "device_share": sum(step.device_seconds for step in steps) / wall,
        "host_seconds_per_step": sum(step.host_seconds for step in steps) / len(steps),
        "preemptions": engine.scheduler.counters.preemptions,
    }
