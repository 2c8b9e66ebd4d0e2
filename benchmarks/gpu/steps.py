"""Decode and prefill of whole models: time, and what the device's memory and arithmetic would allow.

Decode steps are those of a server: the scheduler plans them, the executor launches the next one
before it collects the last, CUDA graphs included. Only the prompts before them are not computed:
their KV blocks, distinct for every sequence, hold random numbers.
"""

import statistics
import time
from itertools import pairwise

from gpu.bench import Bench, Record, token_ids
from gpu.engines import (
    GREEDY,
    GivenPrompts,
    Step,
    clock,
    engine_of,
    fill_with_random_numbers,
    make_executor,
    release,
)
from gpu.places import Switched, free_unused
from gpu.profiles import profile_model
from gpu.scale import DTYPE
from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.plan import Admission, Geometry, Row, StepPlan
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.executors.cuda.executor import TorchCudaExecutor
from ridgeline.engine.meter import CostModel
from ridgeline.models.config_readers import config_from_json
from ridgeline.roofline import Hardware, find_hardware

WARM_STEPS = 4
"""Not counted: the prompt's last token, a size's first eager step, its recording, one replay."""

_SECONDS_A_ROW = 8.0
"""More than any row takes; with less than that left, it is not begun."""


def measure_model(bench: Bench, name: str) -> None:
    """Decode by batch and context, prefill by length, decode without graphs, and a profile."""
    scale = bench.scale
    config = scale.timed[name]
    started = time.monotonic()
    executor = make_executor(
        bench,
        config,
        max_batch=max(scale.batches),
        max_batch_tokens=max(*scale.prefills, *scale.batches),
        weights_seed=bench.seed,
    )
    fill_with_random_numbers(bench, executor)
    bench.put("loads", {"model": name, "load_seconds": time.monotonic() - started})
    most_tokens = max(*scale.prefills, *scale.batches)
    costs = CostModel(config_from_json(config, name).shape(), _peaks(), DTYPE, most_tokens)
    for context in scale.contexts:
        for batch in scale.batches:
            if bench.has_time(_SECONDS_A_ROW, f"decode of {name} at batch {batch}, context {context}"):
                row = decode(bench, executor, costs, batch, context)
                bench.put("decode", {"model": name, "graphs": True, **row})
    for tokens in scale.prefills:
        if bench.has_time(_SECONDS_A_ROW, f"prefill of {name}, {tokens} tokens"):
            bench.put("prefill", {"model": name, **prefill(bench, executor, costs, tokens)})
    device: Switched = executor._device
    device.eager = True
    if bench.has_time(_SECONDS_A_ROW, f"decode of {name} without graphs"):
        row = decode(bench, executor, costs, 1, scale.contexts[0])
        bench.put("decode", {"model": name, "graphs": False, **row})
    profile_model(bench, name, executor)
    executor.close()
    del executor
    free_unused(bench.place)


def _peaks() -> Hardware:
    """FLOPs and bytes of a step are the same on all devices; only they are asked for."""
    return find_hardware("h200")


def fitting_context(geometry: Geometry, batch: int, context: int, steps: int) -> int:
    """The context, or as much of it as the KV cache holds so many times over, in whole blocks."""
    size = geometry.block_size_tokens
    # The scheduler keeps a hundredth back; a block each is partly filled.
    blocks = int(0.97 * geometry.blocks) // batch - 1
    return min(context, blocks * size - steps, geometry.longest_sequence_tokens - steps)


def decode(
    bench: Bench, executor: TorchCudaExecutor, costs: CostModel, batch: int, asked_context: int
) -> Record:
    """Steps of so many sequences, each after a context of its own."""
    new_tokens = WARM_STEPS + bench.scale.steps + 1
    context = fitting_context(executor.geometry, batch, asked_context, new_tokens + 1)
    if context < 1:
        raise ValueError(f"the KV cache has no room for {batch} sequences")
    # All prompts in one step, beside the share of it that the scheduler keeps for the oldest.
    budget = max(2 * batch * context, executor.geometry.max_batch)
    limits = Limits(max_batch_tokens=budget, max_waiting=batch, expected_output_tokens=new_tokens)
    given = GivenPrompts(executor)
    engine, listener = engine_of(given, limits)
    generator = bench.generator(batch * 1_000_003 + context)
    for index in range(batch):
        prompt = token_ids(generator, context, executor._vocab)
        engine.scheduler.submit(SequenceSpec(str(index), prompt, GREEDY, new_tokens), clock())
    while engine.has_work:
        for output in engine.step(clock):
            if output.refusal is not None:
                raise RuntimeError(output.refusal.message)
    given.close()
    if engine.scheduler.counters.preemptions:
        raise RuntimeError("sequences were preempted: the KV cache was too small after all")
    return {
        "batch": batch,
        "context": context,
        "asked_context": asked_context,
        **_summary(listener.steps, batch, costs),
    }


def _summary(steps: list[Step], batch: int, costs: CostModel) -> Record:
    """Medians over the steps with all sequences in them, the first and the last left out.

    The last is collected when nothing follows it, so that it hides no work of the host's.
    """
    whole = [step for step in steps if len(step.plan.rows) == step.plan.tokens == batch]
    walls = [b.ended - a.ended for a, b in pairwise(whole)][WARM_STEPS - 1 : -1]
    counted = whole[WARM_STEPS:-1]
    cost = costs.cost(costs.work(counted[len(counted) // 2].plan))
    wall = statistics.median(walls)
    device = statistics.median(step.device_seconds for step in counted)
    return {
        "steps": len(counted),
        "step_seconds": wall,
        "slowest_step_seconds": max(walls),
        "device_seconds": device,
        "host_seconds": statistics.median(step.host_seconds for step in counted),
        "tokens_per_second": batch / wall,
        "bytes": cost.bytes,
        "flops": cost.flops,
    }


def prefill(bench: Bench, executor: TorchCudaExecutor, costs: CostModel, tokens: int) -> Record:
    """One prompt alone in its step, three times after one that is not counted."""
    generator = bench.generator(tokens)
    devices, walls = [], []
    for _ in range(4):
        plan = prompt_step(executor, token_ids(generator, tokens, executor._vocab))
        started = clock()
        result = executor.collect(executor.launch(plan))
        walls.append(clock() - started)
        devices.append(result.device_seconds)
        release(executor, [0])
        if result.rows[0].error is not None:
            raise RuntimeError(result.rows[0].error)
    cost = costs.cost(costs.work(plan))
    wall = statistics.median(walls[1:])
    return {
        "tokens": tokens,
        "step_seconds": wall,
        "device_seconds": statistics.median(devices[1:]),
        "first_seconds": walls[0],
        "tokens_per_second": tokens / wall,
        "bytes": cost.bytes,
        "flops": cost.flops,
    }


def prompt_step(executor: TorchCudaExecutor, prompt: tuple[int, ...]) -> StepPlan:
    """A step that computes one prompt in slot 0, from the first blocks on."""
    blocks = -(-len(prompt) // executor.geometry.block_size_tokens)
    row = Row(0, 0, prompt, tuple(range(blocks)), sample=True)
    return StepPlan(0, (row,), (Admission(0, prompt, len(prompt), GREEDY),))
