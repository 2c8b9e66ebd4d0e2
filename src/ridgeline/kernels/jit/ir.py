"""Writing LLVM's own language for what it does not find by itself in a loop.

Vectors are of 16 lanes throughout: LLVM makes two registers of one where the processor's are half
as wide. Addresses and counts are int64.
"""

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba import cfunc, types
from numba.core import cgutils

LANES = 16

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()


class _BrainFloatType(ir.Type):  # type: ignore[misc]
    """LLVM's type of bfloat16, which llvmlite lacks: for what intrinsics return."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self))

    def __hash__(self) -> int:
        return hash(type(self))


VOID = ir.VoidType()
BYTES = ir.VectorType(I8, 4 * LANES)
HALVES = ir.VectorType(F16, LANES)
INTS = ir.VectorType(I32, LANES)
FLOATS = ir.VectorType(F32, LANES)
BRAIN_FLOATS = ir.VectorType(_BrainFloatType(), 2 * LANES)
SHORT_PAIRS = ir.VectorType(I16, 2 * LANES)

Value = Any
"""llvmlite has no types of its own to check."""


def constant(kind: Any, value: Any) -> Value:
    """A constant; of a vector with the same value in all lanes."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


class Body:
    """The instructions of one block, with the few shapes that recur."""

    def __init__(self, block: Any) -> None:
        self.b = ir.IRBuilder(block)

    def address(self, base: Value, offset: int | Value) -> Value:
        """`base + offset` bytes."""
        return self.b.add(base, I64(offset) if isinstance(offset, int) else offset)

    def load(self, kind: Any, address: Value, align: int = 1) -> Value:
        """A value or vector from memory."""
        return self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=align)

    def store(self, value: Value, address: Value, align: int = 1) -> None:
        """A value or vector to memory."""
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=align)

    def fetch(self, address: Value) -> None:
        """Ask for a line of the cache; to be read, wanted in all caches but the first, of data."""
        place = self.b.inttoptr(address, I8.as_pointer())
        self.call("llvm.prefetch.p0i8", VOID, place, I32(0), I32(2), I32(1))

    def splat(self, value: Value, kind: Any) -> Value:
        """A vector with `value` in all lanes."""
        undefined = ir.Constant(kind, ir.Undefined)
        one = self.b.insert_element(undefined, value, I32(0))
        return self.b.shuffle_vector(one, undefined, constant(ir.VectorType(I32, kind.count), 0))

    def half(self, vector: Value, upper: bool) -> Value:
        """The lower or upper half of a vector's lanes."""
        size = vector.type.count // 2
        lanes = [I32(i + size * upper) for i in range(size)]
        mask = ir.Constant(ir.VectorType(I32, size), lanes)
        return self.b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    def join(self, lower: Value, upper: Value) -> Value:
        """One vector of two halves."""
        size = 2 * lower.type.count
        mask = ir.Constant(ir.VectorType(I32, size), [I32(i) for i in range(size)])
        return self.b.shuffle_vector(lower, upper, mask)

    def call(self, name: str, result: Any, *arguments: Value) -> Value:
        """A function of LLVM or of the C library."""
        kind = ir.FunctionType(result, [value.type for value in arguments])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), arguments)

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """`x * y + z`, rounded once."""
        return self.call("llvm.fma.v16f32", FLOATS, x, y, z)

    def exp(self, x: Value) -> Value:
        """e to the power of each lane, within 2e-7 of it; 0 below -87.3, and nan of nan.

        2^n by the exponent's bits, n the nearest integer to x / ln 2, and Taylor's polynomial for
        what is left, at most 0.35.
        """
        b = self.b
        low = self.call("llvm.maximum.v16f32", FLOATS, x, constant(FLOATS, -87.33))
        bounded = self.call("llvm.minimum.v16f32", FLOATS, low, constant(FLOATS, 88.37))
        scaled = b.fmul(bounded, constant(FLOATS, 1.44269504089))
        n = self.call("llvm.roundeven.v16f32", FLOATS, scaled)
        r = self.fma(n, constant(FLOATS, -0.693359375), bounded)
        r = self.fma(n, constant(FLOATS, 2.12194440e-4), r)
        total = constant(FLOATS, 1 / 5040)
        for factor in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
            total = self.fma(total, r, constant(FLOATS, factor))
        is_number = b.fcmp_ordered("ord", x, x)
        exponent = b.fptosi(b.select(is_number, n, constant(FLOATS, 0.0)), INTS)
        bits = b.shl(b.add(exponent, constant(INTS, 127)), constant(INTS, 23))
        return b.fmul(total, b.bitcast(bits, FLOATS))


def emitted(
    name: str, arguments: int, write: Callable[[Any], None], result: Any = None
) -> tuple[Any, Callable[..., Any]]:
    """What an `@intrinsic` returns for a function of int64 arguments that is written once per module.

    Args:
        name: of the function, unlike any other.
        arguments: how many it takes.
        write: fills the function's body.
        result: `types.intp` where it returns one; None for nothing.
    """
    signature = (result or types.void)(*[types.intp] * arguments)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        module = builder.module
        function = module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(I64 if result else VOID, [I64] * arguments)
            function = ir.Function(module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            write(function)
        returned = builder.call(function, values)
        return returned if result else context.get_dummy_value()

    return signature, generate


def external(name: str, arguments: int, provide: Callable[[], None]) -> tuple[Any, Callable[..., Any]]:
    """What an `@intrinsic` returns for a function of int64 arguments that is compiled apart.

    Large bodies would otherwise be compiled once more within each function that calls them.

    Args:
        name: of the symbol.
        arguments: how many it takes.
        provide: makes the symbol known, if it is not; see `provided`. Code that was kept needs it too.
    """
    signature = types.void(*[types.intp] * arguments)

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        provide()
        kind = ir.FunctionType(VOID, [I64] * arguments)
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)
        return context.get_dummy_value()

    return signature, generate


_provided: dict[str, Any] = {}


def provided(name: str, entry: Callable[..., None]) -> Any:
    """Compile `entry`, of int64 arguments alone, as the symbol `name`, once in a process; returns it."""
    if name not in _provided:
        arguments = len(inspect.signature(entry).parameters)
        function = cfunc(types.void(*[types.intp] * arguments), cache=True)(entry)
        binding.add_symbol(name, function.address)
        _provided[name] = function  # its code lives as long as it does
    return _provided[name]
