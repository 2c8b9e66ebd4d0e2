"""Which kernels a decode step and a prompt spend their time in.

Steps are launched kernel by kernel: some versions of the profiler do not see into CUDA graphs that were
recorded before it began. The kernels take as long; what is between them is told by the decode table.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gpu.bench import Bench, Record, token_ids
from gpu.engines import GREEDY, release
from ridgeline.engine.core.plan import IN_FLIGHT, Admission, Row, StepPlan
from ridgeline.engine.executors.cuda.executor import TorchCudaExecutor

_STEPS = 5
"""Profiled, after as many that are not."""

_SHOWN = 16
"""Kernels in a table; the rest is summed."""


def profile_model(bench: Bench, name: str, executor: TorchCudaExecutor) -> None:
    """Only of the model that the load is run with; it is the larger one."""
    if name != bench.scale.load_model or not bench.has_time(12.0, f"profile of {name}"):
        return
    batch, tokens = bench.scale.profiled_batch, bench.scale.profiled_tokens
    with _decoding(bench, executor, batch, tokens) as step:
        _put(bench, f"{name}: a decode step at batch {batch}, context {tokens}", step, _STEPS)
    generator = bench.generator(tokens)

    def prefill() -> None:
        prompt = token_ids(generator, tokens, executor._vocab)
        blocks = tuple(range(-(-tokens // executor.geometry.block_size_tokens)))
        row, admission = Row(0, 0, prompt, blocks, sample=True), Admission(0, prompt, tokens, GREEDY)
        executor.collect(executor.launch(StepPlan(0, (row,), (admission,))))
        release(executor, [0])

    _put(bench, f"{name}: a prompt of {tokens} tokens", prefill, 1)


@contextmanager
def _decoding(
    bench: Bench, executor: TorchCudaExecutor, batch: int, context: int
) -> Iterator[Callable[[], None]]:
    """Sequences whose every call of what is yielded computes one more token of each."""
    size = executor.geometry.block_size_tokens
    per_slot = -(-(context + 2 * _STEPS + 1) // size)
    per_slot = min(per_slot, executor.geometry.blocks // batch)
    start = per_slot * size - 2 * _STEPS - 1
    prompt = token_ids(bench.generator(batch), start + 1, executor._vocab)
    admissions = tuple(Admission(slot, prompt, len(prompt), GREEDY) for slot in range(batch))
    done = 0

    def step() -> None:
        nonlocal done
        first = not done
        rows = tuple(
            Row(
                slot,
                start + done,
                prompt[-1:] if first else (IN_FLIGHT,),
                tuple(range(slot * per_slot, (slot + 1) * per_slot)) if first else (),
                sample=True,
            )
            for slot in range(batch)
        )
        executor.collect(executor.launch(StepPlan(0, rows, admissions if first else ())))
        done += 1

    for _ in range(_STEPS):
        step()
    yield step
    release(executor, range(batch))


def _put(bench: Bench, what: str, work: Callable[[], None], repetitions: int) -> None:
    """Profile `work` and tell the kernels, the longest first."""
    bench.place.settle()
    on_gpu = bench.place.torch_device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(repetitions):
            work()
        bench.place.settle()
    kernels = _kernels(profiler, on_gpu, repetitions)
    total = sum(row["microseconds"] for row in kernels)
    if not total:
        raise RuntimeError("the profiler saw no kernels; it may lack the right to read the GPU's counters")
    rest = kernels[_SHOWN:]
    if rest:
        microseconds = sum(row["microseconds"] for row in rest)
        calls = sum(row["calls"] for row in rest)
        kernels[_SHOWN:] = [{"kernel": f"{len(rest)} others", "calls": calls, "microseconds": microseconds}]
    for row in kernels:
        bench.put("kernels", {"step": what, **row, "share": row["microseconds"] / total})


def _kernels(profiler: Any, on_gpu: bool, repetitions: int) -> list[Record]:
    """Name, calls and microseconds of one repetition."""
    wanted = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    rows = [
        {
            "kernel": event.key,
            "calls": event.count / repetitions,
            "microseconds": (event.self_device_time_total if on_gpu else event.self_cpu_time_total)
            / repetitions,
        }
        for event in profiler.key_averages()
        if event.device_type == wanted
    ]
    return sorted(rows, key=lambda row: -row["microseconds"])
