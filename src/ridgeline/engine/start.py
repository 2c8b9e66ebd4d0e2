"""From the names of models and the operator's options to a replica ready to start."""

import logging
import time
from collections.abc import Sequence
from functools import partial

from ridgeline.engine.build import Loaded, OnPhase, build_engines
from ridgeline.engine.core.plan import Geometry
from ridgeline.engine.loop import EngineThread
from ridgeline.engine.options import SIMULATED, EngineOptions, ModelSpec
from ridgeline.engine.process import EngineProcess
from ridgeline.engine.replica import Replica
from ridgeline.engine.served import ServedModel
from ridgeline.engine.shadows import Shadows
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles
from ridgeline.protocol import ModelInfo
from ridgeline.telemetry.meter import EngineMeter
from ridgeline.telemetry.metrics import Metrics
from ridgeline.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def build_replica(
    specs: Sequence[ModelSpec],
    options: EngineOptions,
    metrics: Metrics,
    process: EngineProcess | None = None,
    on_phase: OnPhase = lambda phase, seconds: None,
) -> Replica:
    """Load all models; returns when that is done.

    Engines that compute get a process of their own, simulated ones a thread each.

    Args:
        specs: the models.
        options: of all engines.
        metrics: where the engines' measurements go.
        process: one that loads these models already; None begins one.
        on_phase: is told what took how long in this process.

    Raises:
        ModelError: a model cannot be served as asked, with the reason and a way out.
    """
    if options.device.startswith(SIMULATED):
        engines = build_engines(specs, options, partial(_meter, metrics, options), on_phase)
        served = _served(_opened(specs, on_phase), [loaded for _, loaded in engines], metrics, options)
        return Replica(served, [EngineThread([engine]) for engine, _ in engines])
    process = process or EngineProcess(specs, options)
    try:
        try:
            # Opened a second time, which reads no weights, while the engines' process reads them.
            opened = _opened(specs, on_phase)
        except ModelError:
            process.wait_until_loaded()  # which may know better why: there is no such device, say
            raise
        started = time.monotonic()
        served = _served(opened, process.wait_until_loaded(), metrics, options)
        on_phase("waiting for engines", time.monotonic() - started)
    except BaseException:
        process.kill()
        raise
    process.report_to({model.info.name: model.meter for model in served})
    return Replica(served, [process])


def _opened(specs: Sequence[ModelSpec], on_phase: OnPhase) -> list[tuple[ModelFiles, Tokenizer]]:
    opened = []
    for spec in specs:
        started = time.monotonic()
        files = spec.open()
        opened.append((files, files.tokenizer))
        on_phase(f"tokenizer {spec.name or files.name}", time.monotonic() - started)
    return opened


def _served(
    opened: Sequence[tuple[ModelFiles, Tokenizer]],
    loaded: Sequence[Loaded],
    metrics: Metrics,
    options: EngineOptions,
) -> list[ServedModel]:
    served = []
    for (files, tokenizer), entry in zip(opened, loaded, strict=True):
        meter = _meter(metrics, options, entry.name, entry.geometry)
        meter.computes(entry.dtype, entry.kernels)
        logger.info("%s computes in %s with %s", entry.name, entry.dtype, entry.kernels)
        served.append(ServedModel(_info(entry, files), tokenizer, meter))
    return served


def _meter(metrics: Metrics, options: EngineOptions, name: str, geometry: Geometry) -> EngineMeter:
    size = geometry.block_size_tokens
    meter = metrics.engine(name, block_size_tokens=size, blocks_total=geometry.blocks)
    if meter.shadow is None:
        below = (options.kv_host_bytes + options.kv_disk_bytes) // geometry.block_bytes
        meter.shadow = Shadows(geometry.blocks, size, tier_blocks=below, policy=options.kv_policy)
    return meter


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
