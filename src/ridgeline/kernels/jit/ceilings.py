"""What the cores can do at most: reading memory, int8 products, float32 arithmetic, bfloat16 in AMX tiles.

Measured in the loops that reach most: sums over more than the caches hold, and chains of products and
sums whose operands stay in registers. A product is of the kind that the kernels take on this
processor (VNNI where there is any).
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numba.extending import intrinsic

from ridgeline.kernels.jit import products
from ridgeline.kernels.jit.attention_math import counted
from ridgeline.kernels.jit.ir import BYTES, FLOATS, I8, I32, I64, INTS, LANES, VOID, Body, constant, emitted
from ridgeline.kernels.jit.target import has_tiles
from ridgeline.kernels.jit.wide import configure, release, tile_configuration

CHAINS = 12
"""Independent sums: more than latency times throughput of any processor at hand."""

READ_BYTES = 1 << 29
ROUNDS = 8_000_000
"""Of all chains; some 15 ms. Below 2^23, see `_vectors`."""

TRIES = 5
"""Of each loop at least; the shortest counts."""

LONGEST_SECONDS = 0.6
"""That a loop is tried for until all threads had a core each."""

UNDISTURBED = 0.95
"""Of the time of all threads: what they must have computed, or something else wanted the cores."""

Step = Callable[[Body, Any, Any, Any], Any]


def _loop(kind: Any, operand: Any, step: Step) -> Callable[[Any], None]:
    """Writes ROUNDS of `sum = step(sum, a, b)` for each of CHAINS sums of `kind`.

    The function's argument is the address of CHAINS + 1 vectors, from which the operands come and
    where the sums go. One operand changes in every round: nothing can be taken out of the loop.
    """

    def write(function: Any) -> None:
        (memory,) = function.args
        entry, again, end = (function.append_basic_block(name) for name in ("entry", "again", "end"))
        first = Body(entry)
        shared = first.load(INTS, first.address(memory, 64 * CHAINS))
        first.b.branch(again)
        body = Body(again)
        index = body.b.phi(I64)
        index.add_incoming(I64(0), entry)
        sums = [body.b.phi(kind) for _ in range(CHAINS)]
        changing = body.b.xor(shared, body.splat(body.b.trunc(index, I32), INTS))
        changing = body.b.bitcast(changing, operand)
        after = []
        for chain, total in enumerate(sums):
            total.add_incoming(constant(kind, 0), entry)
            own = body.load(operand, body.address(memory, 64 * chain))
            after.append(step(body, total, own, changing))
            total.add_incoming(after[-1], again)
        following = body.b.add(index, I64(1))
        index.add_incoming(following, again)
        body.b.cbranch(body.b.icmp_signed("<", following, I64(ROUNDS)), again, end)
        last = Body(end)
        for chain, total in enumerate(after):
            last.store(total, last.address(memory, 64 * chain))
        last.b.ret_void()

    return write


def _product(body: Body, total: Any, own: Any, changing: Any) -> Any:
    return products._dot(body, total, own, changing, False)


def _fma(body: Body, total: Any, own: Any, changing: Any) -> Any:
    return body.fma(own, changing, total)


@intrinsic
def _products(context: Any, memory: Any) -> Any:
    return emitted("ceiling_products", 1, _loop(INTS, BYTES, _product))


@intrinsic
def _sums(context: Any, memory: Any) -> Any:
    return emitted("ceiling_sums", 1, _loop(FLOATS, FLOATS, _fma))


@njit(nogil=True, cache=True)
def multiply_bytes(memory: Any) -> None:
    """ROUNDS * CHAINS * 16 * 4 products of bytes, each added to a sum."""
    _products(memory.ctypes.data)


@njit(nogil=True, cache=True)
def multiply_floats(memory: Any) -> None:
    """ROUNDS * CHAINS * 16 products of float32, each added to a sum."""
    _sums(memory.ctypes.data)


TILE_ROUNDS = 1_000_000
"""Of four products of tiles; some 20 ms."""


def _tile_loop(function: Any) -> None:
    """TILE_ROUNDS of four independent products of 16 rows, 16 columns and 32 inputs."""
    body = Body(function.append_basic_block())
    if has_tiles():
        for tile in range(8):
            body.call("llvm.x86.tilezero", VOID, I8(tile))
        with counted(body, I64(TILE_ROUNDS)):
            for total in range(4):
                body.call("llvm.x86.tdpbf16ps", VOID, I8(total), I8(4 + total // 2), I8(6 + total % 2))
    body.b.ret_void()


@intrinsic
def _tiles(context: Any) -> Any:
    return emitted("ceiling_tiles", 0, _tile_loop)


@njit(nogil=True, cache=True)
def multiply_tiles(configuration: Any) -> None:
    """TILE_ROUNDS * 4 * 16 * 16 * 32 products of bfloat16, each added to a sum."""
    configure(configuration.ctypes.data)
    _tiles()
    release()


@njit(nogil=True, cache=True)
def read(memory: Any) -> int:
    """The sum of all of an array of int64."""
    total = 0
    for i in range(memory.size):
        total += memory[i]
    return total


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Of all threads together; a product with its sum is two operations.

    Attributes:
        read_bytes_per_second: of memory.
        int8_operations_per_second: on bytes, summed in 32 bits.
        float32_operations_per_second: on float32.
        tile_operations_per_second: on bfloat16 in tiles, 0 where there are none.
    """

    read_bytes_per_second: float
    int8_operations_per_second: float
    float32_operations_per_second: float
    tile_operations_per_second: float


def _best_seconds(pool: ThreadPoolExecutor, work: Callable[[Any], Any], parts: list[Any]) -> float:
    """Of all threads together, each on its own part."""
    times: list[float] = []
    undisturbed, end = False, time.perf_counter() + LONGEST_SECONDS
    while len(times) < TRIES or (not undisturbed and time.perf_counter() < end):
        started, worked = time.perf_counter(), time.process_time()
        list(pool.map(work, parts))
        times.append(time.perf_counter() - started)
        undisturbed |= time.process_time() - worked > UNDISTURBED * times[-1] * len(parts)
    return min(times)


def _vectors() -> Any:
    """Operands. The shared one is 1.0, of which a round changes the fraction: no float is denormal."""
    memory = np.zeros(16 * (CHAINS + 1), np.int32)
    memory[-16:] = 0x3F800000
    return memory


def measure(threads: int) -> Ceilings:
    """Takes about a second, and some more where the loops were not compiled before."""
    vectors = [_vectors() for _ in range(threads)]
    memory = np.ones((threads, READ_BYTES // 8 // threads), np.int64)
    work = 2 * ROUNDS * CHAINS * LANES * threads
    with ThreadPoolExecutor(threads) as pool:
        for function, part in (
            (read, memory[0]),
            (multiply_bytes, vectors[0]),
            (multiply_floats, vectors[0]),
        ):
            function(part)  # compiles
        tiles = 0.0
        if has_tiles():
            configurations = [tile_configuration()] * threads
            multiply_tiles(configurations[0])
            work_in_tiles = 2 * TILE_ROUNDS * 4 * 16 * 16 * 32 * threads
            tiles = work_in_tiles / _best_seconds(pool, multiply_tiles, configurations)
        return Ceilings(
            read_bytes_per_second=READ_BYTES / _best_seconds(pool, read, list(memory)),
            int8_operations_per_second=4 * work / _best_seconds(pool, multiply_bytes, vectors),
            float32_operations_per_second=work / _best_seconds(pool, multiply_floats, vectors),
            tile_operations_per_second=tiles,
        )
