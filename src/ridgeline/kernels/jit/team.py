"""Several threads that compute one thing together.

What they compute has parts, one after the other, and a part has units that they take one by one.
A part is over when its units are done, whoever did them: a thread that the system has put aside
between two units holds nobody up, and finds when it is back what is left to do. Who waits for the
last unit of a part spins: it is microseconds, and the system would need longer to wake a thread.

The threads live in compiled code and never ask for the interpreter. Between two jobs they sleep on a
futex of Linux. Who wakes up too late finds the job closed and stays out of it, so that nobody has to
wait for a thread that is only waking up.
"""

import threading
import weakref

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ridgeline.kernels.jit.ir import I32, I64, VOID, Body, Value, constant, emitted, provided

Integers = npt.NDArray[np.int64]

SPINS_BEFORE_YIELD = 2000
"""Some 50 us: who waits longer gives its core to whoever wants it, maybe to the one it waits for."""

SPINS_BEFORE_SLEEP = 1000
"""For the next job. More would keep cores from a server that shares them; waking up takes 50 us."""

_LINE_BYTES = 64
_PART_BYTES = _LINE_BYTES
"""Of a part's counters, a line of the processor's cache: units taken, units done, and units taken of
groups but the first."""

MOST_GROUPS = 7

_NUMBER, _SLEEPERS, _INSIDE, _ENTRY, _JOB, _STOP = (_LINE_BYTES * i for i in range(6))
"""Of a team's mailbox: how many jobs there were; threads asleep; threads in the job, and whether it is
open; the job's compiled function and what it works on; whether to end. Then the counters."""
_COUNTERS = 6 * _LINE_BYTES

_OPEN = 1 << 32

_FUTEX_CALL, _WAIT_PRIVATE, _WAKE_PRIVATE = 202, 128, 129
"""Of Linux on x86-64."""


def _place(body: Body, address: Value) -> Value:
    return body.b.inttoptr(address, I64.as_pointer())


def _write_fetch_add(function: ir.Function) -> None:
    body = Body(function.append_basic_block())
    address, amount = function.args
    body.b.ret(body.b.atomic_rmw("add", _place(body, address), amount, "seq_cst"))


@intrinsic
def fetch_add(typing, address, amount):
    """Add to the int64 at an address as one act; returns what was there."""
    return emitted("ridgeline_fetch_add", 2, _write_fetch_add, types.intp)


def _write_exchange(function: ir.Function) -> None:
    body = Body(function.append_basic_block())
    address, old, new = function.args
    found = body.b.cmpxchg(_place(body, address), old, new, "seq_cst", "seq_cst")
    body.b.ret(body.b.extract_value(found, 0))


@intrinsic
def exchange_if(typing, address, old, new):
    """Replace the int64 at an address where it is `old`, as one act; returns what was there."""
    return emitted("ridgeline_exchange_if", 3, _write_exchange, types.intp)


def _write_load(function: ir.Function) -> None:
    body = Body(function.append_basic_block())
    body.b.ret(body.b.load_atomic(_place(body, function.args[0]), "acquire", 8))


@intrinsic
def load(typing, address):
    """The int64 at an address; all that its writer wrote before is seen too."""
    return emitted("ridgeline_load", 1, _write_load, types.intp)


def _write_store(function: ir.Function) -> None:
    body = Body(function.append_basic_block())
    address, value = function.args
    body.b.store_atomic(value, _place(body, address), "release", 8)
    body.b.ret_void()


@intrinsic
def store(typing, address, value):
    """Write the int64 at an address; who sees it sees all that was written before."""
    return emitted("ridgeline_store", 2, _write_store)


def _write_relax(function: ir.Function) -> None:
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


def _write_futex(function: ir.Function) -> None:
    body = Body(function.append_basic_block())
    address, operation, value = function.args
    kind = ir.FunctionType(I64, [I64], var_arg=True)
    call = body.b.module.globals.get("syscall") or ir.Function(body.b.module, kind, "syscall")
    nothing = constant(I64, 0)
    body.b.call(call, [I64(_FUTEX_CALL), address, operation, value, nothing, nothing, nothing])
    body.b.ret_void()


@intrinsic
def _futex(typing, address, operation, value):
    return emitted("ridgeline_futex", 3, _write_futex)


def _write_call(function: ir.Function) -> None:
    body = Body(function.append_basic_block())
    entry, thread, shared, job = function.args
    kind = ir.FunctionType(VOID, [I64, I64, I64])
    body.b.call(body.b.inttoptr(entry, kind.as_pointer()), [thread, shared, job])
    body.b.ret_void()


@intrinsic
def _call(typing, entry, thread, shared, job):
    return emitted("ridgeline_call_entry", 4, _write_call)


@njit
def take(shared: int, part: int) -> int:
    """The next unit of a part that nobody has taken, from 0; `shared` is the address of the counters."""
    return fetch_add(shared + _PART_BYTES * part, 1)


@njit
def take_from(shared: int, part: int, group: int) -> int:
    """`take` where a part's units are in groups, each numbered from 0; at most `MOST_GROUPS`.

    A thread takes those of its own group first: what it computed before is in its own cache.
    """
    return fetch_add(shared + _PART_BYTES * part + (8 + 8 * group if group else 0), 1)


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


@njit
def _wait_for_a_job(mailbox, seen):
    """The number of a job after `seen`."""
    for _ in range(SPINS_BEFORE_SLEEP):
        if load(mailbox + _NUMBER) != seen:
            return load(mailbox + _NUMBER)
        relax(0)
    while load(mailbox + _NUMBER) == seen:
        # The system looks at the lower half of the number, and lets nobody sleep when it has changed.
        fetch_add(mailbox + _SLEEPERS, 1)
        _futex(mailbox + _NUMBER, _WAIT_PRIVATE, seen)
        fetch_add(mailbox + _SLEEPERS, -1)
    return load(mailbox + _NUMBER)


@njit
def _enter(mailbox):
    """Whether the job was still open; then it stays until this thread has left."""
    inside = load(mailbox + _INSIDE)
    while inside & _OPEN:
        found = exchange_if(mailbox + _INSIDE, inside, inside + 1)
        if found == inside:
            return True
        inside = found
    return False


def _serve(thread, mailbox):
    seen = 0
    while True:
        seen = _wait_for_a_job(mailbox, seen)
        if load(mailbox + _STOP):
            return
        if _enter(mailbox):
            _call(load(mailbox + _ENTRY), thread, mailbox + _COUNTERS, load(mailbox + _JOB))
            fetch_add(mailbox + _INSIDE, -1)


@njit
def _announce(mailbox):
    fetch_add(mailbox + _NUMBER, 1)
    if load(mailbox + _SLEEPERS) > 0:
        _futex(mailbox + _NUMBER, _WAKE_PRIVATE, 1 << 30)


def _run(mailbox, parts, entry, job):
    for part in range(parts):
        for word in range(_PART_BYTES // 8):
            store(mailbox + _COUNTERS + _PART_BYTES * part + 8 * word, 0)
    store(mailbox + _ENTRY, entry)
    store(mailbox + _JOB, job)
    store(mailbox + _INSIDE, _OPEN)
    _announce(mailbox)
    _call(entry, 0, mailbox + _COUNTERS, job)
    fetch_add(mailbox + _INSIDE, -_OPEN)
    spins = 0
    while load(mailbox + _INSIDE):
        relax(spins)
        spins += 1


def _close(mailbox):
    store(mailbox + _STOP, 1)
    _announce(mailbox)


class Team:
    """Threads, the caller's among them, that run one compiled function at a time.

    Args:
        threads: how many, the caller's among them.
        parts: most parts of a function.
    """

    def __init__(self, threads: int, parts: int) -> None:
        self.threads = threads
        self._parts = parts
        memory = _aligned(_COUNTERS + _PART_BYTES * parts)
        self._mailbox = memory.ctypes.data
        # Calls by way of ctypes are made without the interpreter's lock.
        self._run = provided("ridgeline_team_run", _run).ctypes
        serve = provided("ridgeline_team_serve", _serve).ctypes

        def work(index: int, memory: Integers) -> None:
            serve(index, memory.ctypes.data)  # and keeps it alive: a sleeping thread still looks at it

        self._others = [
            threading.Thread(target=work, args=(i, memory), name=f"ridgeline-compute-{i}", daemon=True)
            for i in range(1, threads)
        ]
        for thread in self._others:
            thread.start()
        close = provided("ridgeline_team_close", _close).ctypes
        self._end = weakref.finalize(self, lambda: close(memory.ctypes.data))

    def run(self, entry: int, job: int) -> None:
        """Call `entry(thread, shared, job)` on all threads that come in time; returns when it is done.

        Args:
            entry: address of a compiled function of three int64 that returns nothing and raises
                nothing. `shared` is what `take` and `finish` ask for.
            job: passed on: the address of what it works on.

        Raises:
            RuntimeError: after `close`.
        """
        if not self._end.alive:
            raise RuntimeError("the team is closed")
        self._run(self._mailbox, self._parts, entry, job)

    def close(self) -> None:
        """End the threads; so does forgetting the team."""
        self._end()
        for thread in self._others:
            thread.join()


def _aligned(size_bytes: int) -> Integers:
    """Zeros at the beginning of a line of the processor's cache."""
    whole = np.zeros((size_bytes + _LINE_BYTES) // 8, np.int64)
    first = -whole.ctypes.data % _LINE_BYTES // 8
    return whole[first : first + size_bytes // 8]
