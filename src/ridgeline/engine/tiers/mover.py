"""Carries out what the scheduler orders of the tiers, beside the steps.

    engine's thread              a tier's two threads
    Save: blocks to host memory  -> writer: into the tier -> Stored
    Load                         -> reader: out of the tier -> Fetched
    Restore: host memory to blocks
    Drop                         -> writer

Reading does not wait behind writing. Nothing that a tier does, or fails to do, raises here: it costs
a copy, which is computed again, and a line in the log.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgeline.engine.core.copies import (
    Discovered,
    Drop,
    Fetched,
    Load,
    Moved,
    Order,
    Record,
    Restore,
    Save,
    Stored,
)
from ridgeline.engine.core.plan import Executor, Snapshot
from ridgeline.engine.tiers.store import Store

logger = logging.getLogger(__name__)

QUIET_SECONDS = 10.0
"""A tier that fails says so at most this often."""

CLOSING_SECONDS = 5.0
"""What is on its way into a tier may take this long when the server ends."""

Deliver = Callable[[Moved], None]
Content = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Write:
    keys: tuple[bytes, ...]
    tokens: tuple[tuple[int, ...], ...]
    snapshot: Snapshot


class Mover:
    """Used from the engine's thread; answers come by `deliver`, from others.

    Args:
        executor: whose blocks are moved.
        stores: the tiers.
    """

    def __init__(self, executor: Executor, stores: Sequence[Store]) -> None:
        self._executor = executor
        self._movers = {store.name: _TierThreads(store) for store in stores}

    def start(self, deliver: Deliver) -> None:
        """Begin, with what the tiers kept from before."""
        for mover in self._movers.values():
            mover.start(deliver)

    def carry_out(self, order: Order) -> None:
        """Do what must be done now, and hand on the rest.

        Raises:
            Exception: whatever the executor raises on reading or writing its blocks.
        """
        match order:
            case Restore(blocks, contents):
                self._executor.write_blocks(blocks, contents)
            case Save(tier, blocks, keys, tokens):
                snapshot = self._executor.read_blocks(blocks)
                self._movers[tier].writes.put(_Write(keys, tokens, snapshot))
            case Drop(tier, _):
                self._movers[tier].writes.put(order)
            case Load(_, tier, _):
                self._movers[tier].reads.put(order)

    def close(self) -> None:
        """End the threads, once what is on its way is written or has had its time."""
        for mover in self._movers.values():
            mover.stop()
        end = time.monotonic() + CLOSING_SECONDS
        for mover in self._movers.values():
            mover.join(end)


class _TierThreads:
    """The writer and the reader of one tier."""

    def __init__(self, store: Store) -> None:
        self.writes: queue.SimpleQueue[_Write | Drop | None] = queue.SimpleQueue()
        self.reads: queue.SimpleQueue[Load | None] = queue.SimpleQueue()
        self._store = store
        self._quiet_until = 0.0
        self._threads = [
            threading.Thread(target=work, name=f"ridgeline-kv-{store.name}-{name}", daemon=True)
            for name, work in (("writer", self._write_all), ("reader", self._read_all))
        ]

    def start(self, deliver: Deliver) -> None:
        self._deliver = deliver
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.writes.put(None)
        self.reads.put(None)

    def join(self, end: float) -> None:
        """Until `end` on the monotonic clock; the store is closed if its threads ended."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            self._store.close()

    def _write_all(self) -> None:
        try:
            for keys in self._store.discover():
                self._deliver(Discovered(self._store.name, tuple(keys)))
        except OSError as error:
            self._complain("looking through it", error)
        while (order := self.writes.get()) is not None:
            if isinstance(order, Drop):
                self._delete(order.keys)
            else:
                self._deliver(self._write(order))

    def _write(self, order: _Write) -> Stored:
        done = 0
        try:
            contents = order.snapshot()
            for key, tokens, content in zip(order.keys, order.tokens, contents, strict=True):
                self._store.write(key, Record(tokens, content))
                done += 1
        except Exception as error:  # whatever it is, the engine goes on without these copies
            self._complain("writing", error)
        return Stored(self._store.name, order.keys[:done], order.keys[done:])

    def _delete(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            try:
                self._store.delete(key)
            except OSError as error:
                self._complain("deleting", error)

    def _read_all(self) -> None:
        while (order := self.reads.get()) is not None:
            started = time.monotonic()
            records: list[Record | None] = []
            try:
                for key in order.keys:
                    records.append(self._store.read(key))
                    if records[-1] is None:
                        logger.warning("a KV block is missing or damaged in %s: computed", self._store.name)
                        break
            except Exception as error:  # see above
                self._complain("reading", error)
            self._deliver(Fetched(order.ticket, tuple(records), time.monotonic() - started))

    def _complain(self, what: str, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            logger.warning(
                "%s the %s tier of the KV cache failed (%s); conversations are computed again instead",
                what,
                self._store.name,
                error,
            )
