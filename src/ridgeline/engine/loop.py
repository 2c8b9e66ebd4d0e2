"""The step loop: one thread, one inbox, one list of outputs per step.

All engines of a thread take turns by step. On a CPU there is one such thread per process, because
two computing at once would fight for the same cores.
"""

import logging
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from ridgeline.engine.core.copies import Discovered, Fetched, Moved, Order, Restore, Save, Stored
from ridgeline.engine.core.messages import Cancel, MarkAnswer, Output, Submit
from ridgeline.engine.core.plan import DeviceLostError, Executor, Handle
from ridgeline.engine.core.scheduler import Scheduler
from ridgeline.engine.meter import StepMeter
from ridgeline.engine.runner import Envelope, Report
from ridgeline.engine.tiers.mover import Mover
from ridgeline.protocol import ModelStatus, Refusal

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_SECONDS = 0.0005

STATUS_SECONDS = 0.05
"""A fresh status is published at most this often; nobody polls faster."""


class Engine:
    """One model: its scheduler, its executor, and the step that joins them.

    `mover` carries out what the scheduler orders of the tiers below the device, where there are any.
    """

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        executor: Executor,
        meter: StepMeter,
        mover: Mover | None = None,
    ) -> None:
        self.name = name
        self.mover = mover
        self.scheduler = scheduler
        self.executor = executor
        self.meter = meter
        self._in_flight: deque[Handle] = deque()
        self._rests = False

    def step(self, clock: Callable[[], float]) -> list[Output]:
        """Schedule, execute, sample, commit.

        With an executor of depth 1 the step committed is the one before the step launched, so
        that the host prepares one while the device runs the other.
        """
        started = clock()
        plan = self.scheduler.schedule(started)
        self._copy(started)
        self._rests = plan is None and not self._in_flight
        if plan is not None:
            try:
                self._in_flight.append(self.executor.launch(plan))
            except DeviceLostError:
                raise
            except Exception as error:
                return self._failed(Handle(plan), error, clock())
        if not self._in_flight or (plan is not None and len(self._in_flight) <= self.executor.depth):
            return []
        handle = self._in_flight.popleft()
        launched = clock()
        try:
            result = self.executor.collect(handle)
        except DeviceLostError:
            raise
        except Exception as error:
            return self._failed(handle, error, clock())
        collected = clock()
        outputs = self.scheduler.commit(handle.plan, result, collected)
        self._copy(collected)
        ended = clock()
        # At depth 0 launching computes; at depth 1 only waiting in collect is the device's time.
        device = result.device_seconds if self.executor.depth == 0 else collected - launched
        self.meter.record(
            self.scheduler,
            handle.plan,
            device_seconds=result.device_seconds,
            host_seconds=max(0.0, ended - started - device),
            started=started,
            ended=ended,
        )
        return outputs

    def _failed(self, handle: Handle, error: Exception, now: float) -> list[Output]:
        logger.exception("a step of %s failed", self.name)
        refusal = Refusal(
            "internal_error",
            f"The engine failed in this step ({type(error).__name__}); the server's log says why.",
        )
        return self.scheduler.fail(handle.plan, now, refusal)

    def handle(self, message: Submit | Cancel | MarkAnswer | Moved, now: float) -> list[Output]:
        """Take a message from the inbox."""
        self._rests = False
        outputs = self._handle(message, now)
        self._copy(now)
        return outputs

    def _handle(self, message: Submit | Cancel | MarkAnswer | Moved, now: float) -> list[Output]:
        if isinstance(message, Cancel):
            return self.scheduler.cancel(message.sequence_id, now, message.reason)
        if isinstance(message, Stored | Fetched | Discovered):
            self.scheduler.moved(message, now)
            return []
        if isinstance(message, MarkAnswer):
            self.scheduler.labelling.mark(message.sequence_id, message.marks)
            return []
        try:
            return self.scheduler.submit(message.spec, now, message.arrived_seconds)
        except Refusal as refusal:
            return [Output(message.spec.id, refusal=refusal)]

    def _copy(self, now: float) -> None:
        """Carry out the scheduler's orders, before a step is launched that needs or overwrites blocks."""
        for order in self.scheduler.take_orders():
            assert self.mover is not None, "tiers without a mover"
            try:
                self.mover.carry_out(order)
            except DeviceLostError:
                raise
            except Exception:
                logger.exception("copying KV blocks of %s failed; they are computed again", self.name)
                self._not_copied(order, now)

    def _not_copied(self, order: Order, now: float) -> None:
        if isinstance(order, Restore):
            self.scheduler.cache.discard(order.blocks)
        elif isinstance(order, Save):
            self.scheduler.moved(Stored(order.tier, (), order.keys), now)

    @property
    def has_work(self) -> bool:
        """Whether somebody waits for something of this engine."""
        return self.scheduler.has_work

    def rest_seconds(self, now: float) -> float | None:
        """How long a step would do nothing unless a message comes; None: until one does."""
        if not self.has_work:
            return None
        until = self.scheduler.rests_until if self._rests else None
        return 0.0 if until is None else max(0.0, until - now)

    def status(self, now: float) -> ModelStatus:
        """A snapshot for other threads."""
        scheduler, cache = self.scheduler, self.scheduler.cache
        return ModelStatus(
            name=self.name,
            batch_size=scheduler.running,
            max_batch_size=scheduler.geometry.max_batch,
            waiting=scheduler.waiting,
            max_waiting=scheduler.limits.max_waiting,
            blocks_total=cache.total,
            blocks_free=cache.free,
            blocks_held=cache.held,
            blocks_idle=cache.idle,
            blocks_promised=scheduler.blocks_promised,
            block_size_tokens=cache.block_size,
            estimated_wait_seconds=scheduler.estimated_wait_seconds(now),
            fingerprint=self.executor.fingerprint,
            batch_limit=scheduler.allowance.sequences if scheduler.running else None,
        )


class EngineThread:
    """Runs engines in a thread of this process until told to stop."""

    def __init__(self, engines: Sequence[Engine], clock: Callable[[], float] = time.monotonic) -> None:
        self.engines = tuple(engines)
        self.names = tuple(engine.name for engine in engines)
        self._engines = {engine.name: engine for engine in engines}
        self._clock = clock
        self._inbox: queue.SimpleQueue[Envelope | None] = queue.SimpleQueue()
        self._status_due = dict.fromkeys(self._engines, 0.0)
        self._thread = threading.Thread(target=self.run, name="ridgeline-engine", daemon=True)

    def start(self, deliver: Callable[[Report], None]) -> None:
        """See `Runner.start`."""
        # A step of torch on the CPU gives up the interpreter hundreds of times; at the default of
        # 5 ms each of them may wait so long for any other thread that computes in Python.
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        self._deliver = deliver
        for engine in self.engines:
            if engine.mover is not None:
                engine.mover.start(partial(self._moved, engine.name))
        self._thread.start()

    def _moved(self, name: str, message: Moved) -> None:
        self._inbox.put(Envelope(name, message))

    def join(self) -> None:
        """See `Runner.join`."""
        if self._thread.ident is not None:  # a server may fail before its engines are started
            self._thread.join()

    def send(self, model: str, message: Submit | Cancel | MarkAnswer) -> None:
        """Put a message into the inbox; from any thread."""
        self._inbox.put(Envelope(model, message))

    def stop(self) -> None:
        """End after the step in progress; sequences that still run get no further output."""
        self._inbox.put(None)

    def run(self) -> None:
        """Turns until stopped: messages, then one step of every engine that has work."""
        try:
            while self._receive():
                for engine in self._engines.values():
                    if engine.rest_seconds(self._clock()) == 0.0:
                        self._report(engine, engine.step(self._clock))
        except Exception as error:
            logger.exception("the engine thread ends")
            for name in self._engines:
                self._deliver(Report(name, [], None, failure=f"{type(error).__name__}: {error}"))
        finally:
            for engine in self._engines.values():
                if engine.mover is not None:
                    engine.mover.close()
                engine.executor.close()

    def _receive(self) -> bool:
        """Take all messages there are, waiting for one when no engine has work; False to stop."""
        now = self._clock()
        rests = [engine.rest_seconds(now) for engine in self._engines.values()]
        idle = 0.0 not in rests
        timeout = min((rest for rest in rests if rest is not None), default=None)
        if idle:
            for engine in self._engines.values():
                self._report(engine, [], force=True)
        while True:
            try:
                envelope = self._inbox.get(block=idle, timeout=timeout)
            except queue.Empty:
                return True
            if envelope is None:
                return False
            idle = False
            engine = self._engines[envelope.model]
            self._report(engine, engine.handle(envelope.message, self._clock()))

    def _report(self, engine: Engine, outputs: list[Output], force: bool = False) -> None:
        now = self._clock()
        status = None
        if force or now >= self._status_due[engine.name]:
            status = engine.status(now)
            self._status_due[engine.name] = now + STATUS_SECONDS
            if not engine.has_work:
                engine.meter.idle(engine.scheduler, now)
        told = engine.scheduler.journal.take()
        labels = engine.scheduler.labelling.take()
        if outputs or told or labels is not None or status is not None:
            self._deliver(Report(engine.name, outputs, status, told=told, labels=labels))
