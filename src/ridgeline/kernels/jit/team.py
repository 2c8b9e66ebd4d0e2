"""Several threads that compute one thing together, and meet inside it.

A thread that waits for the others spins: between two parts of a layer there are microseconds, and
the system would need longer to wake it.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from ridgeline.kernels.jit.ir import I32, I64, VOID, Body, emitted

SPINS_BEFORE_YIELD = 2000
"""Some 50 us: who waits longer gives its core to whoever wants it, maybe to the one it waits for."""

_LINE = 8
"""int64 in a line of the processor's cache: what is written by different threads is in different ones."""

_ARRIVED, _GENERATION, _COUNTERS = 0, 8 * _LINE, 16 * _LINE
"""Offsets of the words of a team's shared memory, in bytes."""


def _write_fetch_add(function: Any) -> None:
    body = Body(function.append_basic_block())
    address, amount = function.args
    place = body.b.inttoptr(address, I64.as_pointer())
    body.b.ret(body.b.atomic_rmw("add", place, amount, "acq_rel"))


@intrinsic
def fetch_add(typing, address, amount):  # type: ignore[no-untyped-def]
    """Add to the int64 at an address as one act; returns what was there."""
    return emitted("ridgeline_fetch_add", 2, _write_fetch_add, types.intp)


def _write_load(function: Any) -> None:
    body = Body(function.append_basic_block())
    place = body.b.inttoptr(function.args[0], I64.as_pointer())
    body.b.ret(body.b.load_atomic(place, "acquire", 8))


@intrinsic
def load(typing, address):  # type: ignore[no-untyped-def]
    """The int64 at an address; all that its writer wrote before is seen too."""
    return emitted("ridgeline_load", 1, _write_load, types.intp)


def _write_store(function: Any) -> None:
    body = Body(function.append_basic_block())
    address, value = function.args
    body.b.store_atomic(value, body.b.inttoptr(address, I64.as_pointer()), "release", 8)
    body.b.ret_void()


@intrinsic
def store(typing, address, value):  # type: ignore[no-untyped-def]
    """Write an int64; who reads it sees all that was written before."""
    return emitted("ridgeline_store", 2, _write_store)


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
def relax(typing, spins):  # type: ignore[no-untyped-def]
    """Once round in a waiting loop that has gone round `spins` times."""
    return emitted("ridgeline_relax", 1, _write_relax)


@njit
def meet(shared: int, threads: int) -> None:
    """Wait until all threads of the team are here.

    Args:
        shared: address of the team's memory.
        threads: how many there are.
    """
    if threads == 1:
        return
    generation = load(shared + _GENERATION)
    if fetch_add(shared + _ARRIVED, 1) == threads - 1:
        store(shared + _ARRIVED, 0)
        store(shared + _GENERATION, generation + 1)
        return
    spins = 0
    while load(shared + _GENERATION) == generation:
        relax(spins)
        spins += 1


@njit
def take(shared: int, part: int) -> int:
    """The next unit of work of a part that nobody has taken, from 0."""
    return fetch_add(shared + _COUNTERS + 8 * part, 1)  # type: ignore[no-any-return]


class Team:
    """Threads, the caller's among them, that run one compiled function at a time.

    Args:
        threads: how many, the caller's among them.
        parts: most parts of a function whose units are taken one by one.
    """

    def __init__(self, threads: int, parts: int) -> None:
        self.threads = threads
        self.shared = np.zeros(_COUNTERS // 8 + parts, np.int64)
        self._counters = self.shared[_COUNTERS // 8 :]
        self._begin = [threading.Semaphore(0) for _ in range(threads - 1)]
        self._done = threading.Semaphore(0)
        self._work: tuple[Callable[..., None], tuple[Any, ...]] | None = None
        self._failure: BaseException | None = None
        for index, begin in enumerate(self._begin, start=1):
            name = f"ridgeline-compute-{index}"
            threading.Thread(target=self._serve, args=(index, begin), name=name, daemon=True).start()

    def run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function(thread, *arguments)` on all threads, and return when all have returned.

        The function must be compiled already and give up the interpreter, for its threads wait for
        one another inside it.
        """
        self._counters[:] = 0
        self._work = (function, arguments)
        for begin in self._begin:
            begin.release()
        function(0, *arguments)
        for _ in self._begin:
            self._done.acquire()

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
            function(index, *arguments)
            self._done.release()
