"""What the cost model says of a step is what a running engine computes and moves, to the last byte."""

from collections.abc import Iterator
from typing import Any

import pytest
from counting import CountingKernels
from small_models import ARCHITECTURES, make_model

from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.executors import cpu_models
from ridgeline.engine.executors.cpu import CpuExecutor
from ridgeline.engine.meter import CostModel
from ridgeline.kernels.cpu import CpuKernels
from ridgeline.models import transformer
from ridgeline.protocol import Sampling


class Counted:
    """An engine whose kernels count."""

    def __init__(self, architecture: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernels = CountingKernels(CpuKernels(packed=False))
        monkeypatch.setattr(cpu_models, "CpuKernels", lambda **_: self.kernels)
        monkeypatch.setattr(transformer.F, "embedding", self.kernels.embedding)
        files = make_model(architecture)[1]
        self.executor = CpuExecutor(
            files, dtype=dtype, kv_memory_bytes=1 << 21, max_batch=8, max_context_tokens=None, threads=1
        )
        self.scheduler = Scheduler(self.executor.geometry, Limits(max_batch_tokens=32))
        self.costs = CostModel(
            files.config.shape(),
            self.executor.hardware,
            dtype,
            32,
            kv_dtype=self.executor.kv_dtype,
            weights=self.executor.weight_bytes,
        )

    def submit(self, name: str, length: int, new: int, **sampling: Any) -> None:
        prompt = tuple((i * i * 7 + len(name) * i + ord(name[0])) % 320 for i in range(length))
        self.scheduler.submit(SequenceSpec(name, prompt, Sampling(0.0, seed=0, **sampling), new), 0.0)

    def steps(self) -> Iterator[tuple[tuple[int, int], tuple[float, float], int]]:
        """Counted and computed (FLOPs, bytes) of each step, and how many rows of it are chunks."""
        while self.scheduler.has_work:
            plan = self.scheduler.schedule(0.0)
            assert plan is not None
            count = self.kernels.count
            count.flops = count.bytes = 0
            handle = self.executor.launch(plan)
            result = self.executor.collect(handle)
            cost = self.costs.cost(self.costs.work(plan))
            chunks = sum(len(row.token_ids) > 1 for row in plan.rows)
            yield (count.flops, count.bytes), (cost.flops, cost.bytes), chunks
            self.scheduler.commit(plan, result, 0.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_step_costs_what_its_kernels_are_given(architecture, dtype, monkeypatch):
    engine = Counted(architecture, dtype, monkeypatch)
    engine.submit("a", 70, 9)
    engine.submit("bb", 5, 20)
    seen = set()
    for index, (counted, computed, chunks) in enumerate(engine.steps()):
        # Means over layers with windows are no whole numbers; everything else is.
        assert computed == pytest.approx(counted, rel=1e-12)
        seen.add(chunks)
        if index == 4:
            engine.submit("ccc", 41, 6)  # begins while others decode
    assert seen in ({0, 1, 2}, {0, 1})


def test_scored_prompts_need_the_head_for_every_position(monkeypatch):
    engine = Counted("llama", "float32", monkeypatch)
    engine.submit("a", 20, 2, prompt_logprobs=1)
    (counted, computed, _), *_ = engine.steps()
    assert computed[0] == counted[0] > 2 * 320 * 48 * 20


def test_packed_weights_are_as_large_as_their_memory():
    if cpu_models._no_int8(make_model("llama", hidden_size=192, intermediate_size=96, head_dim=32)[1].config):
        pytest.skip("no kernels for int8 here")
    files = make_model("llama", hidden_size=192, intermediate_size=96, head_dim=32)[1]
    executor = CpuExecutor(
        files, dtype="int8", kv_memory_bytes=1 << 21, max_batch=4, max_context_tokens=None, threads=1
    )
    weights = executor.model._weights
    matrices = [m for layer in weights.layers for m in (layer.qkv, layer.output, layer.gate_up, layer.down)]
    packed = sum(matrix.data.nbytes for matrix in matrices)
    norms = 4 * 192 * (2 * len(weights.layers) + 1)
    assert executor.weight_bytes.blocks == packed + norms
    assert executor.weight_bytes.head == weights.head.data.nbytes
    # 8 bits and a scale of 16 for each 32 of them.
    assert packed == pytest.approx(sum(m.rows * m.columns for m in matrices) * 34 / 32, rel=0.2)
    executor.close()


def test_the_count_sees_a_wrong_model(monkeypatch):
    engine = Counted("llama", "float32", monkeypatch)
    engine.submit("a", 30, 2)
    monkeypatch.setattr(engine.costs, "shape", make_model("llama", num_hidden_layers=2)[1].config.shape())
    counted, computed, _ = next(engine.steps())
    assert computed[0] < counted[0]
