"""From the names of models and the operator's options to engines with their weights."""

import importlib
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from ridgeline.engine.core.drafting import PromptLookup
from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.plan import Executor, Geometry
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.loop import Engine
from ridgeline.engine.meter import CostModel, Meter, StepMeter
from ridgeline.engine.options import SIMULATED, EngineOptions, ModelSpec, cuda_index
from ridgeline.engine.shared import tokens_before_user
from ridgeline.engine.tiers.build import build_tiers
from ridgeline.kvcache import KVCache, Lru, Price, Tiers, shared_keys
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles
from ridgeline.roofline import Hardware, find_hardware
from ridgeline.roofline.detect import is_estimate

logger = logging.getLogger(__name__)

OnPhase = Callable[[str, float], None]
"""Is told the name of a phase of starting, and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the server's side must know of an engine that is loaded, wherever it is."""

    name: str
    geometry: Geometry
    dtype: str
    kernels: str


def build_engines(
    specs: Sequence[ModelSpec],
    options: EngineOptions,
    meter_of: Callable[[str, Geometry], Meter],
    on_phase: OnPhase = lambda phase, seconds: None,
) -> list[tuple[Engine, Loaded]]:
    """Engines with their weights, in this process; raises ModelError."""
    started = time.monotonic()
    _require_device(options.device)
    on_phase("libraries", time.monotonic() - started)
    engines: list[tuple[Engine, Loaded]] = []
    for spec in specs:
        started = time.monotonic()
        files = spec.open()
        opened = time.monotonic()
        name = spec.name or files.name
        if name in {engine.name for engine, _ in engines}:
            raise ModelError(f"two models are called {name}; give one of them another name (NAME=MODEL)")
        executor, cost_model = _executor(files, options)
        limits = Limits(max_batch_tokens=options.tokens, max_waiting=options.max_waiting)
        tiers: list[Tiers] = []
        cache = _cache(executor.geometry, cost_model, options, tiers)

        def recompute(start: int, count: int, costs: CostModel = cost_model) -> float:
            return costs.recompute_seconds(count, start)

        copies, mover = build_tiers(name, executor, cache, recompute, options) or (None, None)
        if copies is not None:
            tiers.append(copies.tiers)
        scheduler = Scheduler(
            executor.geometry,
            limits,
            cache,
            step_time=cost_model.step_time,
            target_seconds=options.target_seconds,
            copies=copies,
            shared=shared_keys(
                (tokens_before_user(files.tokenizer, text) for text in options.shared_prefixes),
                executor.geometry.block_size_tokens,
            ),
            drafter=PromptLookup(options.draft_tokens) if options.draft_tokens else None,
        )
        meter = StepMeter(cost_model, meter_of(name, executor.geometry))
        engine = Engine(name, scheduler, executor, meter, mover)
        engines.append((engine, Loaded(name, executor.geometry, executor.dtype, executor.kernels)))
        on_phase(f"open {name}", opened - started)
        on_phase(f"load {name}", time.monotonic() - opened)
    return engines


def _cache(geometry: Geometry, costs: CostModel, options: EngineOptions, tiers: Sequence[Tiers]) -> KVCache:
    """The ledger of the device's blocks; `tiers` may be filled in later."""
    size = geometry.block_size_tokens
    if options.kv_policy == "lru":
        return KVCache(geometry.blocks, size, Lru())

    def reload(key: Hashable) -> float | None:
        return tiers[0].reload_seconds(key) if tiers else None

    return KVCache(geometry.blocks, size, Price(costs.price_of_block(size), size, reload))


def _require_device(device: str) -> None:
    """Import what computes on the device, if it is there; before anything is read. Raises ModelError."""
    index = cuda_index(device)
    if index is not None:
        from ridgeline.engine.executors.presence import require_cuda

        require_cuda(index)
    elif device == "cpu":
        importlib.import_module("ridgeline.engine.executors.cpu")
    elif not device.startswith(SIMULATED):
        raise ModelError(f"device {device!r} is unknown; there are cpu, cuda, cuda:N and simulated:NAME")


def _executor(files: ModelFiles, options: EngineOptions) -> tuple[Executor, CostModel]:
    shape = files.config.shape()
    context = options.max_context_tokens or files.config.max_context
    if context > files.config.max_context:
        raise ModelError(
            f"--max-context is {context}, but {files.name} was made for {files.config.max_context} tokens; "
            "beyond them its answers are nonsense."
        )
    if options.device == "cpu":
        from ridgeline.engine.executors.cpu import CpuExecutor

        cpu = CpuExecutor(
            files,
            dtype=options.dtype,
            kv_dtype=options.kv_dtype,
            kv_memory_bytes=options.kv_memory_bytes,
            max_batch=options.sequences,
            max_context_tokens=context,
            threads=options.threads,
        )
        return cpu, CostModel(
            shape,
            cpu.hardware,
            cpu.dtype,
            options.tokens,
            kv_dtype=cpu.kv_dtype,
            weights=cpu.weight_bytes,
        )
    index = cuda_index(options.device)
    if index is not None:
        return _cuda(files, options, context, index)
    return _simulated(files, options, context, _hardware(options.device.removeprefix(SIMULATED)))


def _cuda(files: ModelFiles, options: EngineOptions, context: int, index: int) -> tuple[Executor, CostModel]:
    import torch

    from ridgeline.engine.executors.cuda.executor import TorchCudaExecutor

    if options.threads is not None:  # they convert weights on their way to the device
        torch.set_num_threads(options.threads)
    cuda = TorchCudaExecutor(
        files,
        dtype=options.dtype,
        kv_dtype=options.kv_dtype,
        kv_memory_bytes=options.kv_memory_bytes,
        max_batch=options.sequences,
        max_batch_tokens=options.tokens,
        max_context_tokens=context,
        device_index=index,
    )
    if is_estimate(cuda.hardware):
        logger.info(
            "%s is not in the catalogue of hardware: its peaks are computed from its properties",
            cuda.hardware.name,
        )
    cuda.warm_up()
    return cuda, CostModel(
        files.config.shape(), cuda.hardware, cuda.dtype, options.tokens, kv_dtype=cuda.kv_dtype
    )


def _hardware(name: str) -> Hardware:
    try:
        return find_hardware(name)
    except ValueError as error:
        raise ModelError(f"--device {SIMULATED}{name}: {error}") from None


def _simulated(
    files: ModelFiles, options: EngineOptions, context: int, hardware: Hardware
) -> tuple[Executor, CostModel]:
    from ridgeline.engine.executors.clock import RealClock
    from ridgeline.engine.executors.simulated import SimulatedExecutor
    from ridgeline.engine.executors.simulated_model import readable_token_ids

    dtype = "bfloat16" if options.dtype == "auto" else options.dtype
    kv_dtype = None if options.kv_dtype == "auto" else options.kv_dtype
    shape = files.config.shape()
    executor = SimulatedExecutor(
        shape,
        hardware,
        dtype=dtype,
        kv_dtype=kv_dtype,
        vocab_size=files.config.vocab,
        kv_memory_bytes=options.kv_memory_bytes,
        max_batch=options.sequences,
        max_context_tokens=context,
        depth=1,
        clock=RealClock(),
        allowed_token_ids=readable_token_ids(files.tokenizer, files.config.vocab),
        eos_token_id=min(files.tokenizer.eos_token_ids, default=None),
    )
    return executor, CostModel(shape, hardware, dtype, options.tokens, kv_dtype=kv_dtype)
