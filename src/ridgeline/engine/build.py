"""From the names of models and the operator's options to a replica ready to start."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.plan import Executor, Geometry
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.loop import Engine, EngineThread
from ridgeline.engine.meter import CostModel, Meter, StepMeter
from ridgeline.engine.options import EngineOptions, cuda_index
from ridgeline.engine.replica import Replica
from ridgeline.engine.served import ServedModel
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles, open_model, random_model
from ridgeline.protocol import ModelInfo
from ridgeline.roofline import Hardware, find_hardware
from ridgeline.roofline.detect import is_estimate
from ridgeline.telemetry.meter import EngineMeter
from ridgeline.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

SIMULATED = "simulated:"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to serve.

    Attributes:
        source: alias of the catalogue, path, `hf:org/name`; with `random_weights` the path of a
            config.json.
        name: what clients call it; None takes the model's own.
        random_weights: make weights up instead of reading them.
    """

    source: str
    name: str | None = None
    random_weights: bool = False

    def open(self) -> ModelFiles:
        """Open the files; raises ModelError in one sentence."""
        return random_model(self.source) if self.random_weights else open_model(self.source)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the server's side must know of an engine that is loaded, wherever it is."""

    name: str
    geometry: Geometry
    dtype: str
    kernels: str
    open_seconds: float
    load_seconds: float


def build_replica(
    specs: Sequence[ModelSpec],
    options: EngineOptions,
    metrics: Metrics,
    on_phase: Callable[[str, float], None] = lambda phase, seconds: None,
) -> Replica:
    """Load all models. `on_phase(name, seconds)` is told what took how long.

    Engines that compute get a process of their own, simulated ones a thread each.

    Raises:
        ModelError: a model cannot be served as asked, with the reason and a way out.
    """
    if options.device.startswith(SIMULATED):
        engines = build_engines(specs, options, lambda name, geometry: _meter(metrics, name, geometry))
        threads = [EngineThread([engine]) for engine, _ in engines]
        loaded = [entry for _, entry in engines]
        return Replica(_served(specs, loaded, metrics, on_phase), threads)
    from ridgeline.engine.process import EngineProcess

    process = EngineProcess(specs, options)
    try:
        loaded = process.wait_until_loaded()
        served = _served(specs, loaded, metrics, on_phase)
    except BaseException:
        process.stop()
        raise
    process.report_to({model.info.name: model.meter for model in served})
    return Replica(served, [process])


def build_engines(
    specs: Sequence[ModelSpec], options: EngineOptions, meter_of: Callable[[str, Geometry], Meter]
) -> list[tuple[Engine, Loaded]]:
    """Engines with their weights, in this process; raises ModelError."""
    _check_device(options.device)
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
        scheduler = Scheduler(executor.geometry, limits)
        meter = StepMeter(cost_model, meter_of(name, executor.geometry))
        engine = Engine(name, scheduler, executor, meter)
        loaded = Loaded(
            name,
            executor.geometry,
            executor.dtype,
            executor.kernels,
            open_seconds=opened - started,
            load_seconds=time.monotonic() - opened,
        )
        engines.append((engine, loaded))
    return engines


def _served(
    specs: Sequence[ModelSpec],
    loaded: Sequence[Loaded],
    metrics: Metrics,
    on_phase: Callable[[str, float], None],
) -> list[ServedModel]:
    """Tokenizers and descriptions; the files are opened a second time, which reads no weights."""
    served = []
    for spec, entry in zip(specs, loaded, strict=True):
        started = time.monotonic()
        files = spec.open()
        on_phase(f"open {entry.name}", entry.open_seconds)
        on_phase(f"load {entry.name}", entry.load_seconds)
        on_phase(f"tokenizer {entry.name}", time.monotonic() - started)
        meter = _meter(metrics, entry.name, entry.geometry)
        meter.computes(entry.dtype, entry.kernels)
        logger.info("%s computes in %s with %s", entry.name, entry.dtype, entry.kernels)
        served.append(ServedModel(_info(entry, files), files.tokenizer, meter))
    return served


def _meter(metrics: Metrics, name: str, geometry: Geometry) -> EngineMeter:
    return metrics.engine(name, block_size_tokens=geometry.block_size_tokens, blocks_total=geometry.blocks)


def _info(loaded: Loaded, files: ModelFiles) -> ModelInfo:
    return ModelInfo(
        name=loaded.name,
        created=int(time.time()),
        max_context_tokens=loaded.geometry.longest_sequence_tokens,
        vocab_size=files.config.vocab,
        parameters=files.config.shape().parameters(),
        aliases=(files.name,) if files.name != loaded.name else (),
        has_chat_template=files.tokenizer.has_chat_template,
    )


def _check_device(device: str) -> None:
    """Before anything is read; raises ModelError."""
    index = cuda_index(device)
    if index is not None:
        from ridgeline.engine.executors.presence import require_cuda

        require_cuda(index)
    elif device != "cpu" and not device.startswith(SIMULATED):
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
            kv_memory_bytes=options.kv_memory_bytes,
            max_batch=options.sequences,
            max_context_tokens=context,
            threads=options.threads,
        )
        return cpu, CostModel(shape, find_hardware("cpu"), cpu.dtype, cpu.kv_dtype)
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
    return cuda, CostModel(files.config.shape(), cuda.hardware, cuda.dtype)


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
    shape = files.config.shape()
    executor = SimulatedExecutor(
        shape,
        hardware,
        dtype=dtype,
        vocab_size=files.config.vocab,
        kv_memory_bytes=options.kv_memory_bytes,
        max_batch=options.sequences,
        max_context_tokens=context,
        depth=1,
        clock=RealClock(),
        allowed_token_ids=readable_token_ids(files.tokenizer, files.config.vocab),
        eos_token_id=min(files.tokenizer.eos_token_ids, default=None),
    )
    return executor, CostModel(shape, hardware, dtype)
