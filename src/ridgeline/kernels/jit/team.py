"""Several threads that compute one thing together.

What they compute has parts, one after the other, and a part has units that they take one by one.
A part is over when its units are done, whoever did them: a thread that the system has put aside
between two units holds nobody up, and finds when it is back what is left to do. Who waits for the
last unit of a part spins: it is microseconds, and the system would need longer to wake a thread.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import intrinsic

from ridgeline.kernels.jit.ir import I32, I64, VOID, Body, emitted

SPINS_BEFORE_YIELD = 2000
"""Some 50 us: who waits longer gives its core to whoever wants it, maybe to the one it waits for."""

_PART_BYTES = 64
"""Of a part's two counters, units taken and units done: a line of the processor's cache."""


def _write_fetch_add(function: Any) -> None:
    body = Body(function.append_basic_block())
    address, amount = function.args
    place = body.b.inttoptr(address, I64.as_pointer())
    body.b.ret(body.b.atomic_rmw("add", place, amount, "acq_rel"))


@intrinsic
def fetch_add(typing, address, amount):
    """Add to the int64 at an address as one act; returns what was there."""
    return emitted("ridgeline_fetch_add", 2, _write_fetch_add, types.intp)


def _write_load(function: Any) -> None:
    body = Body(function.append_basic_block())
    place = body.b.inttoptr(function.args[0], I64.as_pointer())
    body.b.ret(body.b.load_atomic(place, "acquire", 8))


@intrinsic
def load(typing, address):
    """The int64 at an address; all that its writer wrote before is seen too."""
    return emitted("ridgeline_load", 1, _write_load, types.intp)


def _write_relax(function: Any) -> None:
    entry, tired, end = (function.append_basic_block() for _ in range(3))
    body = Body(entry)
    body.call("llvm.x86.sse2.pause", VOID)
    long = body.b.icmp_signed(">", function.args[0], I64(SPINS_BEFORE_YIELD))
    body.b.cbranch(long, tired, end)
    body = Body(tired)
    body.call("sched_yield", I32)
    body.b.branch(end)
    Body(end).b.ret_void()


@intrinsic
def relax(typing, spins):
    """Once round in a waiting loop that has gone round `spins` times."""
    return emitted("ridgeline_relax", 1, _write_relax)


@njit
def take(shared: int, part: int) -> int:
    """The next unit of a part that nobody has taken, from 0; `shared` is the address of the counters."""
    return fetch_add(shared + _PART_BYTES * part, 1)


@njit
def finish(shared: int, part: int, done: int, units: int) -> None:
    """Say how many units of a part this thread has done, and wait until all of them are."""
    place = shared + _PART_BYTES * part + 8
    if done:
        fetch_add(place, done)
    spins = 0
    while load(place) < units:
        relax(spins)
        spins += 1


class Team:
    """Threads, the caller's among them, that run one compiled function at a time.

    Args:
        threads: how many, the caller's among them.
        parts: most parts of a function.
    """

    def __init__(self, threads: int, parts: int) -> None:
        self.threads = threads
        self._counters = _aligned(_PART_BYTES // 8 * parts)
        self._shared = self._counters.ctypes.data
        self._begin = [threading.Semaphore(0) for _ in range(threads - 1)]
        self._done = threading.Semaphore(0)
        self._compiled: set[Callable[..., None]] = set()
        self._failure: BaseException | None = None
        self._work: tuple[Callable[..., None], tuple[Any, ...]] | None = None
        for index, begin in enumerate(self._begin, start=1):
            name = f"ridgeline-compute-{index}"
            threading.Thread(target=self._serve, args=(index, begin), name=name, daemon=True).start()

    def run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function(thread, shared, *arguments)` on all threads, and return when all have returned.

        `shared` is what `take` and `finish` ask for. The function must give up the interpreter, for
        its threads wait for one another inside it. An exception of any thread is raised here.
        """
        self._counters[:] = 0
        arguments = (self._shared, *arguments)
        if function not in self._compiled:
            function(0, *arguments)  # compiles it; whoever runs it finds no unit left to wait for
            self._compiled.add(function)
            return
        self._work, self._failure = (function, arguments), None
        for begin in self._begin:
            begin.release()
        try:
            function(0, *arguments)
        finally:
            for _ in self._begin:
                self._done.acquire()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """End the threads."""
        self._work = None
        for begin in self._begin:
            begin.release()

    def _serve(self, index: int, begin: threading.Semaphore) -> None:
        while True:
            begin.acquire()
            if self._work is None:
                return
            function, arguments = self._work
            try:
                function(index, *arguments)
            except BaseException as failure:
                self._failure = failure
            finally:
                self._done.release()


def _aligned(size: int) -> npt.NDArray[np.int64]:
    """Zeros at the beginning of a line of the processor's cache."""
    whole = np.zeros(size + _PART_BYTES // 8, np.int64)
    first = -whole.ctypes.data % _PART_BYTES // 8
    return whole[first : first + size]
