"""Tiers from the operator's options, with what they take measured before anything relies on it."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ridgeline import __version__
from ridgeline.engine.core.copies import Copies, Record
from ridgeline.engine.core.plan import Executor
from ridgeline.engine.options import EngineOptions
from ridgeline.engine.tiers.disk import DiskStore, FolderInUse, remove_unused
from ridgeline.engine.tiers.mover import Mover
from ridgeline.engine.tiers.store import HostStore, Store
from ridgeline.kvcache import KVCache, LoadTime, TierLedger, Tiers
from ridgeline.models.errors import ModelError

logger = logging.getLogger(__name__)

STAGED_BYTES = 256 << 20
"""Most of what is on its way into tiers."""

ASSUMED_BYTES_PER_SECOND = 500e6
"""Of a tier that could not be measured: a plain SSD."""

_PROBED = 8
"""Blocks that are written and read to see what a tier takes."""


def build_tiers(
    name: str,
    executor: Executor,
    cache: KVCache,
    recompute: Callable[[int, int], float],
    options: EngineOptions,
) -> tuple[Copies, Mover] | None:
    """What the options ask for; None if no tier.

    Args:
        name: of the model, for the log.
        executor: whose blocks are kept.
        cache: its ledger.
        recompute: see `kvcache.tiers`.
        options: of the operator.

    Raises:
        ModelError: the folder of the disk tier cannot be used.
    """
    if not options.kv_host_bytes and not options.kv_disk_bytes:
        return None
    content = np.asarray(executor.read_blocks([0])()[0])
    stores: list[tuple[Store, int]] = []
    if options.kv_host_bytes:
        stores.append((HostStore(), options.kv_host_bytes))
    if options.kv_disk_bytes:
        disk = _disk(executor, options)
        if disk is not None:
            stores.append((disk, options.kv_disk_bytes))
    ledgers = []
    for store, size in stores:
        # What is copied, not what a block takes on the device: a simulated one's are small.
        blocks = size // max(executor.geometry.block_bytes, len(content))
        seconds = measure(store, content)
        ledgers.append(TierLedger(store.name, blocks, LoadTime(seconds)))
        logger.info(
            "KV tier %s of %s: %d blocks, %.2f ms to read one", store.name, name, blocks, 1e3 * seconds
        )
    if not ledgers:
        return None
    staged = max(_PROBED, STAGED_BYTES // len(content))
    copies = Copies(cache, Tiers(ledgers, recompute, cache.block_size), staged)
    return copies, Mover(executor, [store for store, _ in stores])


def _disk(executor: Executor, options: EngineOptions) -> DiskStore | None:
    folder = options.kv_disk_folder
    if folder is None:
        raise ModelError("a disk tier of the KV cache needs a folder: --kv-disk-dir")
    # Another version may lay blocks out otherwise under the same name of kernels.
    geometry = executor.geometry
    identity = f"{executor.fingerprint} {geometry.block_bytes} {geometry.block_size_tokens} {__version__}"
    try:
        store = DiskStore(Path(folder), identity)
        remove_unused(Path(folder), options.kv_disk_bytes)
    except FolderInUse as error:
        logger.warning("no disk tier of the KV cache: %s", error)
        return None
    except OSError as error:
        raise ModelError(
            f"cannot keep KV blocks in {folder} ({error.strerror}); choose another --kv-disk-dir."
        ) from error
    return store


def measure(store: Store, content: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> float:
    """Seconds that reading one block back takes; assumed where the tier fails now, for it may recover."""
    keys = [os.urandom(16) for _ in range(_PROBED)]
    noise = np.frombuffer(os.urandom(len(content)), np.uint8)
    try:
        for key in keys:
            store.write(key, Record((0,), noise))
        if isinstance(store, DiskStore):
            store.forget_cached(keys)
        started = time.perf_counter()
        for key in keys:
            store.read(key)
        return (time.perf_counter() - started) / len(keys)
    except OSError as error:
        logger.warning("the %s tier of the KV cache cannot be used now: %s", store.name, error)
        return len(content) / ASSUMED_BYTES_PER_SECOND
    finally:
        for key in keys:
            store.delete(key)
