"""The CUDA executor in the engine's loop while sequences are cancelled and preempted and steps fail.

Whatever happens to its neighbours, a sequence that is answered to the end gets the answer that it would
have had undisturbed, on a device that does everything as late as it may and on one that waits for nothing.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from unittest.mock import MagicMock

import pytest
import torch
from lazy_device import LazyDevice
from plain_launchers import plain_launchers
from small_models import make_model
from step_driver import GREEDY

from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.messages import Cancel, Output, Submit
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.executors.cuda.executor import TorchCudaExecutor
from ridgeline.engine.loop import Engine
from ridgeline.models.files import ModelFiles
from ridgeline.protocol import Sampling

DRAWN = Sampling(temperature=0.9, top_k=40, top_p=0.95, seed=11)
SAMPLINGS = (
    GREEDY,
    DRAWN,
    replace(DRAWN, repetition_penalty=1.3, frequency_penalty=0.4),
    replace(DRAWN, logprobs=2, logit_bias={5: 2.0}),
    replace(DRAWN, presence_penalty=1.0, prompt_logprobs=1),
)
BLOCK_BYTES = 2 * 3 * 2 * 8 * 4 * 16
FEW_BLOCKS, MANY_BLOCKS = 20, 200


class EagerDevice(LazyDevice):
    """Carries out work when it is submitted, which a device may just as well."""

    def submit(self, work: Callable[[], None]) -> None:
        super().submit(work)
        self.run_until(len(self.queue))


@pytest.fixture(scope="module", autouse=True)
def plain() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for tensors of a few hundred elements more take ten times as long
    with plain_launchers():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def files() -> ModelFiles:
    return make_model("llama")[1]


@dataclass
class Player:
    """An engine that is told of sequences a few at a time."""

    engine: Engine
    device: LazyDevice
    answers: dict[str, list[int]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    now: float = 0.0

    @classmethod
    def of(cls, files: ModelFiles, device: LazyDevice, blocks: int) -> "Player":
        executor = TorchCudaExecutor(
            files,
            dtype="float32",
            kv_memory_bytes=blocks * BLOCK_BYTES,
            max_batch=8,
            max_batch_tokens=64,
            max_context_tokens=None,
            device=device,
        )
        assert executor.geometry.blocks == blocks
        limits = Limits(max_batch_tokens=64, max_waiting=100, watermark=0.0)
        return cls(Engine("model", Scheduler(executor.geometry, limits), executor, MagicMock()), device)

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def take(self, outputs: list[Output]) -> None:
        for output in outputs:
            self.answers.setdefault(output.sequence_id, []).extend(output.token_ids)
            if output.refusal is not None or output.finish == "cancelled":
                self.ended.add(output.sequence_id)

    def play(self, specs: list[SequenceSpec], rng: random.Random, *, disturbed: bool) -> None:
        waiting = list(specs)
        while waiting or self.engine.has_work:
            for _ in range(rng.randrange(3)):
                if waiting:
                    self.take(self.engine.handle(Submit(waiting.pop(0), 0.0), self.clock()))
            if disturbed and rng.random() < 0.1:
                self.take(self.engine.handle(Cancel(rng.choice(specs).id, "cancelled"), self.clock()))
            if disturbed and rng.random() < 0.1:
                self.device.refuses = torch.OutOfMemoryError("CUDA out of memory")
            self.take(self.engine.step(self.clock))
            self.engine.scheduler.check()
        self.engine.executor.close()


def random_specs(rng: random.Random, count: int) -> list[SequenceSpec]:
    shared = [rng.randrange(300) for _ in range(40)]
    return [
        SequenceSpec(
            f"s{i}",
            tuple(shared[: rng.randrange(40)] + [rng.randrange(300) for _ in range(rng.randrange(1, 60))]),
            replace(rng.choice(SAMPLINGS), seed=rng.randrange(1000)),
            max_tokens=rng.randrange(1, 14),
            stop_token_ids=frozenset(rng.sample(range(320), rng.choice((0, 20)))),
            min_tokens=rng.choice((0, 0, 3)),
            priority=rng.choice((0, 0, 1)),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("device", [LazyDevice, EagerDevice])
@pytest.mark.parametrize("seed", [4, 7, 10, 15])
def test_who_is_not_disturbed_notices_nothing(files: ModelFiles, seed: int, device: type[LazyDevice]) -> None:
    specs = random_specs(random.Random(seed), 12)
    alone = Player.of(files, LazyDevice(), MANY_BLOCKS)
    alone.play(specs, random.Random(0), disturbed=False)
    assert not alone.ended
    player = Player.of(files, device(), FEW_BLOCKS)
    player.play(specs, random.Random(seed), disturbed=True)
    survivors = [spec.id for spec in specs if spec.id not in player.ended]
    assert survivors and player.ended
    for name in player.ended:
        begun = player.answers[name]
        assert begun == alone.answers[name][: len(begun)]
    assert {name: player.answers[name] for name in survivors} == {
        name: alone.answers[name] for name in survivors
    }
