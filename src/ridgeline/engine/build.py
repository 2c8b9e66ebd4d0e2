"""From the names of models and the operator's options to a replica ready to start."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ridgeline.engine.core.limits import Limits
from ridgeline.engine.core.plan import Executor
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.loop import Engine
from ridgeline.engine.meter import CostModel, StepMeter
from ridgeline.engine.options import EngineOptions
from ridgeline.engine.replica import Replica
from ridgeline.engine.served import ServedModel
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles, open_model, random_model
from ridgeline.protocol import ModelInfo
from ridgeline.roofline import Hardware, find_hardware
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


def build_replica(
    specs: Sequence[ModelSpec],
    options: EngineOptions,
    metrics: Metrics,
    on_phase: Callable[[str, float], None] = lambda phase, seconds: None,
) -> Replica:
    """Load all models. `on_phase(name, seconds)` is told what took how long.

    Raises:
        ModelError: a model cannot be served as asked, with the reason and a way out.
    """
    served: list[ServedModel] = []
    engines: list[Engine] = []
    for spec in specs:
        started = time.monotonic()
        files = spec.open()
        name = spec.name or files.name
        if name in {s.info.name for s in served}:
            raise ModelError(f"two models are called {name}; give one of them another name (NAME=MODEL)")
        on_phase(f"open {name}", time.monotonic() - started)
        started = time.monotonic()
        executor, cost_model = _executor(files, options)
        on_phase(f"load {name}", time.monotonic() - started)
        geometry = executor.geometry
        meter = metrics.engine(
            name, block_size_tokens=geometry.block_size_tokens, blocks_total=geometry.blocks
        )
        limits = Limits(
            max_batch_tokens=options.max_batch_tokens,
            max_waiting=options.max_waiting,
        )
        scheduler = Scheduler(geometry, limits)
        engines.append(Engine(name, scheduler, executor, StepMeter(cost_model, meter)))
        served.append(ServedModel(_info(name, files, executor), files.tokenizer, meter))
    # On the CPU all engines share one compute thread; simulated devices only sleep.
    simulated = options.device.startswith(SIMULATED)
    return Replica(served, [[engine] for engine in engines] if simulated else [engines])


def _info(name: str, files: ModelFiles, executor: Executor) -> ModelInfo:
    return ModelInfo(
        name=name,
        created=int(time.time()),
        max_context_tokens=executor.geometry.longest_sequence_tokens,
        vocab_size=files.config.vocab,
        parameters=files.config.shape().parameters(),
        aliases=(files.name,) if files.name != name else (),
        has_chat_template=files.tokenizer.has_chat_template,
    )


def _executor(files: ModelFiles, options: EngineOptions) -> tuple[Executor, CostModel]:
    shape = files.config.shape()
    context = options.max_context_tokens or files.config.max_context
    if context > files.config.max_context:
        raise ModelError(
            f"--max-context is {context}, but {files.name} was made for {files.config.max_context} tokens; "
            "beyond them its answers are nonsense."
        )
    if options.device == "cpu":
        from ridgeline.engine.executors.torch_cpu import TorchCpuExecutor

        cpu = TorchCpuExecutor(
            files,
            dtype=options.dtype,
            kv_memory_bytes=options.kv_memory_bytes,
            max_batch=options.max_batch,
            max_context_tokens=context,
            threads=options.threads,
        )
        return cpu, CostModel(shape, find_hardware("cpu"), cpu.dtype)
    if not options.device.startswith(SIMULATED):
        raise ModelError(f"device {options.device!r} is unknown; there are cpu and simulated:NAME")
    return _simulated(files, options, context, _hardware(options.device.removeprefix(SIMULATED)))


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
        max_batch=options.max_batch,
        max_context_tokens=context,
        depth=1,
        clock=RealClock(),
        allowed_token_ids=readable_token_ids(files.tokenizer, files.config.vocab),
        eos_token_id=min(files.tokenizer.eos_token_ids, default=None),
    )
    return executor, CostModel(shape, hardware, dtype)
