"""The CUDA executor's logic: steps in flight, graphs, limits. Its answers: `test_executors.py`.

The device is one of host memory that does everything as late as it may; the kernels are plain ones,
but for the last test, which runs the real ones in Triton's interpreter.
"""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from gpu_rounding import rounding_as_on_a_gpu
from lazy_device import GARBAGE, LazyDevice
from plain_launchers import plain_launchers
from plain_model import plain_greedy
from small_models import make_model, reference_greedy
from step_driver import GREEDY, StepDriver
from torch.utils._python_dispatch import TorchDispatchMode

from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.plan import DeviceLostError, Executor, StepPlan
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.executors.cpu import CpuExecutor
from ridgeline.engine.executors.cuda import executor as executor_module
from ridgeline.engine.executors.cuda import forward as forward_module
from ridgeline.engine.executors.cuda.arrays import Staging, StepArrays, pack, packed_length, unpack
from ridgeline.engine.executors.cuda.executor import CudaHandle, TorchCudaExecutor
from ridgeline.engine.executors.cuda.prepare import padded_batch
from ridgeline.kernels.cuda import kernels as kernels_module
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles
from ridgeline.protocol import Sampling

DRAWN = Sampling(temperature=0.9, top_k=40, top_p=0.95, seed=11)


@pytest.fixture(autouse=True)
def plain(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(executor_module, "_live", weakref.WeakSet())
    if request.node.get_closest_marker("real_kernels"):
        yield
    else:
        with plain_launchers():
            yield


@pytest.fixture(scope="module")
def files() -> ModelFiles:
    return make_model("llama")[1]


def make_executor(files: ModelFiles, device: LazyDevice, **changes: Any) -> TorchCudaExecutor:
    settings: dict[str, Any] = {
        "dtype": "float32",
        "kv_memory_bytes": 2**20,
        "max_batch": 8,
        "max_batch_tokens": 256,
        "max_context_tokens": None,
    }
    return TorchCudaExecutor(files, **{**settings, **changes}, device=device)


def run(executor: Executor, specs: list[SequenceSpec], *, budget: int = 64) -> dict[str, list[int]]:
    """Answers of sequences that arrive one per step, with as many steps in flight as there may be."""
    scheduler = Scheduler(executor.geometry, Limits(max_batch_tokens=budget, watermark=0.0))
    answers: dict[str, list[int]] = {spec.id: [] for spec in specs}
    waiting, in_flight, now = list(specs), [], 0.0
    while waiting or scheduler.has_work:
        if waiting:
            scheduler.submit(waiting.pop(0), now)
        plan = scheduler.schedule(now)
        if plan is not None:
            in_flight.append(executor.launch(plan))
        if in_flight and (plan is None or len(in_flight) > executor.depth):
            handle = in_flight.pop(0)
            for output in scheduler.commit(handle.plan, executor.collect(handle), now):
                assert output.refusal is None
                answers[output.sequence_id] += output.token_ids
        scheduler.check()
        now += 1.0
    return answers


def specs(sampling: Sampling, count: int = 12) -> list[SequenceSpec]:
    rng = np.random.default_rng(4)
    lengths = rng.integers(1, 90, count)
    return [
        SequenceSpec(f"s{i}", tuple(rng.integers(0, 300, n).tolist()), replace(sampling, seed=i), 9 + i)
        for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, DRAWN, replace(DRAWN, repetition_penalty=1.3, frequency_penalty=0.4, logprobs=2)],
    ids=["greedy", "drawn", "penalised"],
)
def test_steps_in_flight_give_the_answers_of_steps_one_by_one(files: ModelFiles, sampling: Sampling) -> None:
    """Tokens handed over on the device, blocks and slots that change hands, preemptions."""
    device = LazyDevice()
    executor = make_executor(files, device, kv_memory_bytes=40 * 2 * 3 * 2 * 8 * 4 * 16)
    assert executor.geometry.blocks == 40 and executor.depth == 1
    cpu = CpuExecutor(
        files, dtype="float32", kv_memory_bytes=2**20, max_batch=8, max_context_tokens=None, threads=1
    )
    assert run(executor, specs(sampling)) == run(cpu, specs(sampling))
    assert device.replays > 10


def test_a_buffer_is_not_written_while_it_may_be_read(files: ModelFiles) -> None:
    """The lazy device reads a step's integers only when it must; one buffer would be one too few."""
    executor = make_executor(files, LazyDevice())
    driver = StepDriver(executor)
    slots = [driver.admit([1, 2, 3]), driver.admit([7] * 20)]
    first = executor.launch(
        StepPlan(
            0, tuple(driver.row(s, n) for s, n in zip(slots, (3, 20), strict=True)), tuple(driver.admissions)
        )
    )
    later = driver.admit([9, 8])
    second = executor.launch(StepPlan(1, (driver.row(later, 2),), (driver.admissions[-1],)))
    drawn = [executor.collect(handle).rows for handle in (first, second)]
    wanted = []
    for ids in ([1, 2, 3], [7] * 20, [9, 8]):
        alone = StepDriver(make_executor(files, LazyDevice()))
        wanted += alone.generate([alone.admit(ids)], 1)[0]
    assert [row.token_ids[0] for rows in drawn for row in rows] == wanted


def test_a_step_that_fails_midway_harms_no_other(files: ModelFiles) -> None:
    """It has read and written when it fails; the step in flight beside it still has to."""
    device = LazyDevice()
    driver = StepDriver(make_executor(files, device))
    prompts = [[1, 2, 3], [7] * 20, [9, 8]]
    slots = [driver.admit(ids) for ids in prompts]
    plans = [
        StepPlan(i, (driver.row(slot, len(ids)),), (admission,))
        for i, (slot, ids, admission) in enumerate(zip(slots, prompts, driver.admissions, strict=True))
    ]
    first = driver.executor.launch(plans[0])
    device.refuses = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        driver.executor.launch(plans[1])
    third = driver.executor.launch(replace(plans[2], releases=(slots[1],)))
    assert isinstance(first, CudaHandle) and isinstance(third, CudaHandle)
    assert first.output.data_ptr() != third.output.data_ptr(), "answers are written over before they are read"
    drawn = [driver.executor.collect(handle).rows[0].token_ids[0] for handle in (first, third)]
    for token, ids in zip(drawn, (prompts[0], prompts[2]), strict=True):
        alone = StepDriver(make_executor(files, LazyDevice()))
        assert [token] == alone.generate([alone.admit(ids)], 1)[0]


def test_what_fails_with_a_lost_device_says_so(files: ModelFiles) -> None:
    """Triton does not tell whether an error of its launches is the end of the device; waiting does."""
    device = LazyDevice()
    driver = StepDriver(make_executor(files, device))
    driver.admit([1, 2])
    device.refuses = RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")
    device.fails = torch.AcceleratorError("an illegal memory access was encountered")
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        driver.step({0: 2})


def test_a_third_step_waits_for_the_first(files: ModelFiles) -> None:
    executor = make_executor(files, LazyDevice())
    driver = StepDriver(executor)
    rows = [driver.row(driver.admit([1, 2]), 2) for _ in range(3)]
    for step in range(2):
        executor.launch(StepPlan(step, (rows[step],), (driver.admissions[step],)))
    with pytest.raises(ValueError, match="third step"):
        executor.launch(StepPlan(2, (rows[2],), (driver.admissions[2],)))


def test_staging_has_two_buffers_that_grow() -> None:
    staging = Staging(LazyDevice(), 8)
    first, second = staging.take(0, 8), staging.take(1, 3)
    assert first.data_ptr() != second.data_ptr() and (first == GARBAGE).all()
    assert len(staging.take(1, 20)) >= 20
    assert staging.take(0, 5).data_ptr() == first.data_ptr()


def test_a_batch_size_is_recorded_when_it_comes_back(files: ModelFiles) -> None:
    device = LazyDevice()
    driver = StepDriver(make_executor(files, device))
    slots = [driver.admit([i, i + 1]) for i in range(5)]
    driver.step(dict.fromkeys(slots, 2))
    assert (device.recordings, device.replays) == (0, 0)
    driver.step(dict.fromkeys(slots, 1))
    assert (device.recordings, driver.executor.recorded_batch_sizes) == (0, [])
    driver.step(dict.fromkeys(slots, 1))
    driver.step(dict.fromkeys(slots[:4], 1))
    assert (device.recordings, device.replays, driver.executor.recorded_batch_sizes) == (1, 1, [8])
    driver.step(dict.fromkeys(slots[:3], 1))
    driver.step(dict.fromkeys(slots, 1))
    assert (device.recordings, device.replays, driver.executor.recorded_batch_sizes) == (2, 3, [4, 8])
    # A step with a row that needs more than the drawing kernel has a graph of its own.
    driver.step({driver.admit([5], replace(GREEDY, logprobs=1)): 1} | dict.fromkeys(slots, 1))
    assert device.recordings == 2


def test_a_batch_size_that_cannot_be_recorded_is_computed_all_the_same(
    files: ModelFiles, caplog: pytest.LogCaptureFixture
) -> None:
    full = LazyDevice(full=True)
    answers = run(make_executor(files, full), specs(DRAWN, 3))
    assert answers == run(make_executor(files, LazyDevice()), specs(DRAWN, 3))
    assert full.replays == 0 and 0 < full.recordings <= 3, "each size is tried once"
    assert caplog.text.count("no GPU memory is left to record") == full.recordings


def test_a_plan_without_rows_computes_nothing(files: ModelFiles) -> None:
    device = LazyDevice()
    executor = make_executor(files, device)
    for step in range(3):
        assert executor.collect(executor.launch(StepPlan(step, (), releases=(0,)))).rows == ()
    assert (device.recordings, executor.recorded_batch_sizes) == (0, [])


def test_padded_batches_waste_little_and_are_few() -> None:
    sizes = [padded_batch(n) for n in range(1, 513)]
    assert sizes[:17] == [1, 2, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 16, 24]
    assert all(padded >= n and padded_batch(padded) == padded for n, padded in enumerate(sizes, 1))
    assert all(padded <= 1.25 * n for n, padded in enumerate(sizes, 1) if n > 32)
    assert len(set(sizes)) < 28


def test_packed_arrays_come_out_as_they_went_in() -> None:
    rng = np.random.default_rng(0)
    ints, floats = rng.integers(-5, 10**6, 7).astype(np.int32), rng.random(7).astype(np.float32)
    parts: list[Any] = [ints[:n] for n in (3, 1, 0, 7, 5)] + [floats, ints, floats, floats[:2], floats]
    parts += [ints[:4], ints[:1], ints[:0], ints]
    sizes = tuple(map(len, parts))
    buffer = torch.full((packed_length(sizes),), GARBAGE, dtype=torch.int32)
    pack(parts, buffer.numpy())
    arrays = unpack(StepArrays, buffer, sizes)
    for field, part in zip(StepArrays.__dataclass_fields__, parts, strict=True):
        assert np.array_equal(getattr(arrays, field).numpy(), part)
        assert getattr(arrays, field).storage_offset() % 4 == 0


def test_a_lost_device_ends_the_engine_and_not_one_step(files: ModelFiles) -> None:
    device = LazyDevice()
    driver = StepDriver(make_executor(files, device))
    driver.admit([1, 2])
    device.fails = torch.AcceleratorError("an illegal memory access was encountered")
    with pytest.raises(DeviceLostError, match="illegal memory access"):
        driver.step({0: 2})


def test_warming_up_computes_the_largest_step_and_leaves_no_trace(files: ModelFiles) -> None:
    device = LazyDevice()
    executor = make_executor(files, device)
    executor.warm_up()
    assert (device.recordings, executor.recorded_batch_sizes) == (1, [1])
    assert run(executor, specs(GREEDY, 3)) == run(make_executor(files, LazyDevice()), specs(GREEDY, 3))
    device.fails = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(ModelError, match=r"a step of 256 tokens does not fit .* lower --max-batch-tokens"):
        executor.warm_up()


def test_warming_up_launches_all_that_requests_may(files: ModelFiles) -> None:
    """A long prompt's context is not cut for many tokens and is for few: two kernels, then one to merge."""
    with (
        mock.patch.object(kernels_module, "attend", wraps=kernels_module.attend) as attend,
        mock.patch.object(forward_module, "penalise", wraps=forward_module.penalise) as penalise,
        mock.patch.object(kernels_module, "_CHUNK_PART_TOKENS", 256),
    ):
        make_executor(files, LazyDevice(), max_batch_tokens=400).warm_up()
    works = [work for call in attend.call_args_list for work in call.args[2].works]
    kinds = {(work.tile_queries > 1, work.merges) for work in works}
    assert kinds == {(True, False), (True, True), (False, True)}
    assert penalise.called


@pytest.mark.parametrize("context", [1, 2, 3, 4])
def test_warming_up_fits_into_the_shortest_context(files: ModelFiles, context: int) -> None:
    executor = make_executor(files, LazyDevice(), max_context_tokens=context)
    executor.warm_up()
    driver = StepDriver(executor)
    assert len(driver.generate([driver.admit([5])], 1)[0]) == 1


def test_steps_of_another_model_keep_their_memory(files: ModelFiles) -> None:
    device = LazyDevice(free=1 << 24, total_bytes=1 << 24)
    first = make_executor(files, device, kv_memory_bytes=None)
    second = make_executor(files, device, kv_memory_bytes=None)
    assert second.geometry.blocks < first.geometry.blocks
    first.close()
    assert make_executor(files, device, kv_memory_bytes=1 << 20).geometry.blocks > 0


def test_what_a_gpu_must_have(files: ModelFiles) -> None:
    with pytest.raises(ModelError, match="int8 is not supported on CUDA; choose auto"):
        make_executor(files, LazyDevice(), dtype="int8")
    with pytest.raises(
        ModelError, match=r"--kv-dtype int8 .* computes in float32; choose auto, float32, float8"
    ):
        make_executor(files, LazyDevice(), kv_dtype="int8")
    with pytest.raises(
        ModelError,
        match=r"--kv-dtype float8 is not possible on a GPU of compute capability 8\.6, for float8 begins "
        r"with 8\.9; choose auto, bfloat16\.",
    ):
        make_executor(files, LazyDevice(capability=86), dtype="auto", kv_dtype="float8")
    with pytest.raises(ModelError, match=r"llama needs .* of GPU memory"):
        make_executor(files, LazyDevice(free=10**6, total_bytes=10**6))


def test_memory_goes_to_blocks_and_is_given_back(files: ModelFiles) -> None:
    device = LazyDevice(free=1 << 24, total_bytes=1 << 24)
    executor = make_executor(files, device, kv_memory_bytes=None, dtype="auto")
    assert executor.dtype == "bfloat16" and "bfloat16-lazy" in executor.fingerprint
    assert 0.5 < executor.geometry.blocks * executor.geometry.block_bytes / (1 << 24) < 0.95
    executor.close()
    assert device.closed


def test_float8_takes_half_the_bytes_of_16_bits(files: ModelFiles) -> None:
    usual, narrow = (
        make_executor(files, LazyDevice(capability=89), dtype="float16", kv_dtype=kv)
        for kv in ("float16", "float8")
    )
    assert (usual.kv_dtype, narrow.kv_dtype) == ("float16", "float8")
    assert usual.geometry.block_bytes == 2 * narrow.geometry.block_bytes
    assert 2 * usual.geometry.blocks == narrow.geometry.blocks
    assert narrow.fingerprint == f"{usual.fingerprint}-kv-float8"
    assert {len(content) for content in narrow.read_blocks([0, 3])()} == {narrow.geometry.block_bytes}


class NothingWaits(TorchDispatchMode):
    """Refuses what a GPU would have to be waited for: copies from host values, and to them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in ("lift_fresh", "_local_scalar_dense", "nonzero", "masked_select"), name
        return func(*args, **(kwargs or {}))


class Unwaiting(LazyDevice):
    def submit(self, work: Callable[[], None]) -> None:
        def watched() -> None:
            with NothingWaits():
                work()

        super().submit(watched)


def test_closing_waits_for_the_step_in_flight(files: ModelFiles) -> None:
    device = LazyDevice()
    driver = StepDriver(make_executor(files, device))
    slot = driver.admit([1, 2])
    driver.executor.launch(StepPlan(0, (driver.row(slot, 2),), tuple(driver.admissions)))
    driver.executor.close()
    assert device.closed and device.done == 1


@pytest.mark.real_kernels
def test_no_step_waits_for_the_device(files: ModelFiles) -> None:
    """Prompts, tokens, penalties, bias, bans, scores: whatever a step is made of."""
    driver = StepDriver(make_executor(files, Unwaiting(processors=2)))
    plain = driver.admit([1, 2, 3])
    everything = replace(
        DRAWN,
        repetition_penalty=1.3,
        frequency_penalty=0.4,
        logprobs=2,
        prompt_logprobs=1,
        logit_bias={7: 2.0},
    )
    special = driver.admit(list(range(20)), everything, banned_token_ids=(5, 6), min_tokens=3)
    answers = driver.generate([plain, special], 3)
    assert [len(answer) for answer in answers] == [3, 3]


@pytest.mark.real_kernels
@pytest.mark.parametrize("kv_dtype", ["auto", "float8"])
def test_the_kernels_together_answer_as_the_reference_does(kv_dtype: str) -> None:
    """Prefill, a mixed step, decode eager and replayed, in Triton's interpreter."""
    reference, files = make_model("qwen3", seed=1)
    driver = StepDriver(make_executor(files, LazyDevice(processors=2), kv_dtype=kv_dtype))
    prompts = [[(i * 7 + 3) % 320 for i in range(n)] for n in (35, 3)]
    first = driver.admit(prompts[0])
    with rounding_as_on_a_gpu():
        driver.step({first: 35})
        second = driver.admit(prompts[1])
        driver.step({first: 1, second: 3})
        answers = driver.generate([first, second], 5)
    if kv_dtype == "float8":
        assert answers == [plain_greedy(files, torch.float8_e4m3fn, p, 5)[0] for p in prompts]
    else:
        assert answers == [reference_greedy(reference, p, 5)[0] for p in prompts]
