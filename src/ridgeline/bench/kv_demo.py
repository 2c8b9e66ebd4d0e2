"""What the KV cache is worth, measured on a model: tokens with and without it, conversations that come back.

Without a cache the n-th token is computed with all tokens before it, n x n pairs that attend; with
one it is computed alone and attends to n. A conversation that comes back is hot (its blocks are on
the device), in host memory, on disk, or evicted, and then computed again.
"""

import itertools
import math
import os
import queue
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ridgeline.engine.build import build_engines
from ridgeline.engine.core.copies import Moved
from ridgeline.engine.core.messages import Output, Submit
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.loop import Engine
from ridgeline.engine.options import EngineOptions, ModelSpec
from ridgeline.kvcache import LoadTime, Tiers
from ridgeline.protocol import Sampling
from ridgeline.telemetry.metrics import Metrics

Place = Literal["device (hot)", "host memory", "disk", "nowhere (evicted)"]
Say = Callable[[str], None]

_GREEDY = Sampling(temperature=0.0, seed=0)
_TIER_BYTES = 4 << 30
_PATIENT_SECONDS_PER_BLOCK = 1.0
"""Loads that take longer than expected are given up: here none should be."""
_MOST_TOKENS_A_STEP = 1024


@dataclass(frozen=True, slots=True)
class TokenTime:
    """The n-th token: pairs of tokens that attend to one another, and seconds, without and with a cache."""

    position: int
    pairs_without: int
    pairs_with: int
    seconds_without: float
    seconds_with: float


@dataclass(frozen=True, slots=True)
class ReturnTime:
    """A conversation comes back: from where, seconds to its first token, tokens that were not computed."""

    place: Place
    seconds: float
    cached_tokens: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class KVDemonstration:
    """All that was measured; medians of `repetitions`."""

    model: str
    dtype: str
    kernels: str
    kv_bytes_per_token: int
    repetitions: int
    tokens: tuple[TokenTime, ...]
    returns: tuple[ReturnTime, ...]


def demonstrate(
    model: str,
    options: EngineOptions,
    positions: Sequence[int],
    conversation_tokens: int,
    repetitions: int,
    say: Say,
) -> KVDemonstration:
    """Measure. Raises ModelError.

    Args:
        model: as `ridgeline serve` takes it.
        options: of the engine; tiers are chosen here.
        positions: of the tokens whose time is measured.
        conversation_tokens: of the prompt that comes back.
        repetitions: of each measurement.
        say: is told what is being done.
    """
    longest = max(*positions, conversation_tokens) + 64
    options = replace(options, max_batch=1, max_batch_tokens=_MOST_TOKENS_A_STEP, max_context_tokens=longest)
    say("loading")
    with _running(model, options) as plain:
        say("tokens with and without a cache")
        plain.first_token(plain.prompt(conversation_tokens))  # compiles, and grows what must grow
        tokens = tuple(_token_time(plain, position, repetitions) for position in positions)
        say("a conversation that is hot, and one that was evicted")
        returns = [
            _return_time(plain, "device (hot)", conversation_tokens, repetitions, lambda: None),
            _return_time(plain, "nowhere (evicted)", conversation_tokens, repetitions, plain.forget),
        ]
        facts = plain.facts
    say("from host memory")
    with _running(model, replace(options, kv_host_bytes=_TIER_BYTES)) as hosted:
        returns.append(_return_time(hosted, "host memory", conversation_tokens, repetitions, hosted.forget))
    say("from disk")
    with tempfile.TemporaryDirectory(prefix="ridgeline-demo-") as folder:
        kept = replace(options, kv_disk_bytes=_TIER_BYTES, kv_disk_folder=folder)
        with _running(model, kept) as stored:

            def forget_all() -> None:
                stored.forget()
                _out_of_memory(Path(folder))

            returns.append(_return_time(stored, "disk", conversation_tokens, repetitions, forget_all))
    order: tuple[Place, ...] = ("device (hot)", "host memory", "disk", "nowhere (evicted)")
    returns.sort(key=lambda each: order.index(each.place))
    name, dtype, kernels, kv_bytes = facts
    return KVDemonstration(name, dtype, kernels, kv_bytes, repetitions, tokens, tuple(returns))


def _token_time(running: "_Running", position: int, repetitions: int) -> TokenTime:
    """Each repetition has another text: the prompt gives the time without, what follows that with."""
    without, with_ = [], []
    for _ in range(repetitions):
        prompt = running.prompt(position)
        first, gaps = running.answer(prompt, 6)
        without.append(first)
        with_ += gaps
    return TokenTime(position, position**2, position, statistics.median(without), statistics.median(with_))


def _return_time(
    running: "_Running", place: Place, tokens: int, repetitions: int, forget: Callable[[], None]
) -> ReturnTime:
    seconds, cached = [], 0
    for _ in range(repetitions):
        prompt = running.prompt(tokens)
        running.first_token(prompt)
        forget()
        seconds.append(running.first_token(prompt))
        cached = running.cached_tokens
    return ReturnTime(place, statistics.median(seconds), cached, tokens)


@contextmanager
def _running(model: str, options: EngineOptions) -> Iterator["_Running"]:
    metrics = Metrics()
    ((engine, loaded),) = build_engines(
        [ModelSpec(model)],
        options,
        lambda name, geometry: metrics.engine(
            name, block_size_tokens=geometry.block_size_tokens, blocks_total=geometry.blocks
        ),
    )
    geometry = loaded.geometry
    copies = engine.scheduler.copies
    if copies is not None:  # what is shown is what loading takes, also where computing would be faster
        copies.tiers = Tiers(copies.tiers.ledgers, lambda start, count: math.inf, geometry.block_size_tokens)
        for ledger in copies.tiers.ledgers:
            ledger.load_time = LoadTime(_PATIENT_SECONDS_PER_BLOCK)
    running = _Running(
        engine,
        (loaded.name, loaded.dtype, loaded.kernels, geometry.block_bytes // geometry.block_size_tokens),
    )
    try:
        yield running
    finally:
        if engine.mover is not None:
            engine.mover.close()
        engine.executor.close()


class _Running:
    """An engine, stepped in this thread."""

    def __init__(self, engine: Engine, facts: tuple[str, str, str, int]) -> None:
        self.facts = facts
        self.cached_tokens = 0
        self._engine = engine
        self._ids = itertools.count()
        self._moved: queue.SimpleQueue[Moved] = queue.SimpleQueue()
        if engine.mover is not None:
            engine.mover.start(self._moved.put)

    def prompt(self, tokens: int) -> tuple[int, ...]:
        """A text that nobody has seen, of ordinary tokens."""
        salt = next(self._ids) + 1
        return tuple(300 + (salt * 7919 + i * 31 + i * i % 101) % 2000 for i in range(tokens))

    def first_token(self, prompt: tuple[int, ...]) -> float:
        """Seconds until it; what the answer leaves behind is saved before this returns."""
        return self.answer(prompt, 1)[0]

    def answer(self, prompt: tuple[int, ...], new_tokens: int) -> tuple[float, list[float]]:
        """Seconds to the first token, and between the others."""
        name, times = f"demo-{next(self._ids)}", []
        started = time.monotonic()
        self._take(
            self._engine.handle(Submit(SequenceSpec(name, prompt, _GREEDY, new_tokens), started), started)
        )
        while self._engine.has_work:
            self._receive()
            for output in self._take(self._engine.step(time.monotonic)):
                times += [time.monotonic()] * len(output.token_ids)
        self._settle()
        return times[0] - started, [b - a for a, b in itertools.pairwise(times)]

    def forget(self) -> None:
        """The device loses what is cached."""
        cache = self._engine.scheduler.cache
        cache.discard(range(cache.total))

    def _receive(self) -> None:
        """Answers of the tiers; waits for one where there is nothing else to do."""
        rest = self._engine.rest_seconds(time.monotonic())
        while True:
            try:
                moved = self._moved.get(block=bool(rest), timeout=rest or None)
            except queue.Empty:
                return
            self._engine.handle(moved, time.monotonic())
            rest = None

    def _settle(self) -> None:
        """Until copies on their way have arrived."""
        copies = self._engine.scheduler.copies
        while copies is not None and copies.on_the_way:
            self._engine.handle(self._moved.get(), time.monotonic())

    def _take(self, outputs: list[Output]) -> list[Output]:
        for output in outputs:
            if output.refusal is not None:
                raise output.refusal
            self.cached_tokens = output.cached_tokens
        return outputs


def _out_of_memory(folder: Path) -> None:
    """Have the system forget what it keeps of files, so that reading means reading the disk."""
    for file in folder.rglob("*.kv"):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
