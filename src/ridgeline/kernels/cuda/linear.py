"""Products for few tokens at once: reading the weights is all the work there is.

A program holds the sums of all tokens for some outputs and walks over the inputs, so that weights are
read once and nothing is added up afterwards. With more tokens, what programs read of them would weigh
as much as the weights, and a library's products, which share it among programs, are faster.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from ridgeline.kernels.cuda.activation import silu_mul
from ridgeline.kernels.cuda.launch import Launch, fetch_lines, let_next_start, wait_for_earlier
from ridgeline.kernels.cuda.resources import MODEL_SHAPES, ModelShape, Variant
from ridgeline.kernels.cuda.tiles import HOPPER_SHARED_BYTES
from ridgeline.kernels.interface import Linear

FEW_ROWS = 32
"""Most tokens of any product here."""

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _add_product(tokens, weights, sums):
    if _INTERPRETED:
        # The interpreter would multiply the bits of bfloat16 as integers.
        return tl.dot(tokens.to(tl.float32), tl.trans(weights).to(tl.float32), sums, input_precision="ieee")
    return tl.dot(tokens, tl.trans(weights), sums)


@triton.jit(do_not_specialize=["rows"])
def _few_rows_kernel(
    x, weight, bias, y, rows, outputs, inputs,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, RAGGED: tl.constexpr,
    GATED: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    let_next_start(OVERLAP)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    column = tl.arange(0, INPUTS)
    row = tl.arange(0, ROWS)
    real = (row < rows)[:, None]
    # Outputs beyond the last repeat it, so that only storing them needs a mask.
    first = weight + tl.minimum(output, outputs - 1).to(tl.int64)[:, None] * inputs
    to_ups = tl.cast(outputs, tl.int64) * inputs
    gates = first + column[None, :]
    tokens = x + row[:, None] * inputs + column[None, :]
    if OVERLAP:
        # The first two steps; a line holds 64 weights.
        lines = first + tl.minimum(tl.arange(0, INPUTS // 32) * 64, inputs - 1)[None, :]
        fetch_lines(lines)
        if GATED:
            fetch_lines(lines + to_ups)
    wait_for_earlier(OVERLAP)

    sums = tl.zeros((ROWS, OUTPUTS), tl.float32)
    up_sums = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, inputs, INPUTS):
        if RAGGED:
            inside = (start + column < inputs)[None, :]
            part = tl.load(tokens + start, mask=real & inside, other=0.0)
            sums = _add_product(part, tl.load(gates + start, mask=inside, other=0.0), sums)
            if GATED:
                ups = tl.load(gates + to_ups + start, mask=inside, other=0.0)
                up_sums = _add_product(part, ups, up_sums)
        else:
            part = tl.load(tokens + start, mask=real, other=0.0)
            sums = _add_product(part, tl.load(gates + start), sums)
            if GATED:
                up_sums = _add_product(part, tl.load(gates + to_ups + start), up_sums)

    kept = output < outputs
    if bias is not None:
        sums += tl.load(bias + output, mask=kept, other=0.0).to(tl.float32)[None, :]
        if GATED:
            up_sums += tl.load(bias + outputs + output, mask=kept, other=0.0).to(tl.float32)[None, :]
    if GATED:
        sums = sums * tl.sigmoid(sums) * up_sums
    cells = y + row[:, None] * outputs + output[None, :]
    tl.store(cells, sums.to(y.dtype.element_ty), mask=real & kept[None, :])


class ProductShape(NamedTuple):
    """How a program computes.

    Attributes:
        rows: tokens, padding included; tensor cores multiply no fewer than 16.
        outputs: of the product, or pairs of gate and up where it is gated.
        inputs: at once.
        num_warps: of a program.
        num_stages: of the pipeline that reads weights.
    """

    rows: int
    outputs: int
    inputs: int
    num_warps: int
    num_stages: int


_PROCESSORS = 132
"""Multiprocessors of H100 and H200, for which the shapes are."""

_CAPABILITIES = (90, 100)
"""Where they are used: with less shared memory, fewer weights could be on their way."""


def _shapes(outputs: int, *, gated: bool) -> tuple[ProductShape, ...]:
    """The fastest of those tried on an H200, for few rows and for more of them."""
    if gated:
        return ProductShape(16, 32, 128, 4, 5), ProductShape(FEW_ROWS, 64, 128, 8, 3)
    programs = outputs // 32
    if programs > _PROCESSORS:
        return (ProductShape(16, 32, 128, 4, 6),)
    # A program has a multiprocessor to itself and reads as far ahead as two would.
    return (ProductShape(16, 32 if 4 * programs > 3 * _PROCESSORS else 16, 256, 4, 6),)


@functools.cache
def _launch_of(shape: ProductShape, ragged: bool, gated: bool) -> Launch:
    constants = {
        "ROWS": shape.rows,
        "OUTPUTS": shape.outputs,
        "INPUTS": shape.inputs,
        "RAGGED": ragged,
        "GATED": gated,
    }
    return Launch(constants, shape.num_warps, shape.num_stages)


class FewRows:
    """A product of at most so many tokens with fixed weights.

    Args:
        weight: [outputs, inputs], contiguous; where gated, the outputs are those of the gate, then the
            same number of those that it lets through.
        bias: [outputs] or None.
        gated: whether the activation of `silu_mul` belongs to it.
        dtype: of the result; None is that of the tokens.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        *,
        gated: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._weight, self._bias, self._dtype = weight, bias, dtype
        rows, self._inputs = weight.shape
        self._outputs = rows // 2 if gated else rows
        self._launches = [
            (shape, _launch_of(shape, self._inputs % shape.inputs != 0, gated))
            for shape in _shapes(self._outputs, gated=gated)
        ]
        self.most_rows = self._launches[-1][0].rows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Of [rows, inputs], contiguous: [rows, outputs].

        Raises:
            ValueError: there are too many rows, or the tensor is not contiguous.
        """
        rows = x.shape[0]
        if rows > self.most_rows or not x.is_contiguous():
            raise ValueError(f"A product of {rows} rows; the kernel takes {self.most_rows}, contiguous.")
        shape, launch = next(found for found in self._launches if rows <= found[0].rows)
        y = x.new_empty((rows, self._outputs), dtype=self._dtype)
        grid = (-(-self._outputs // shape.outputs),)
        launch(_few_rows_kernel, grid, x, self._weight, self._bias, y, rows, self._outputs, self._inputs)
        return y


def _where_faster(few: FewRows, many: Linear, weight: torch.Tensor, shared_memory_bytes: int) -> Linear:
    """One product for few tokens, where the GPU has room for it, and one for many."""
    if weight.dtype.itemsize != 2 or shared_memory_bytes < HOPPER_SHARED_BYTES:
        return many
    return lambda x: few(x) if x.shape[0] <= few.most_rows else many(x)


def linear(weight: torch.Tensor, bias: torch.Tensor | None, shared_memory_bytes: int) -> Linear:
    """See `Kernels.linear`; on a GPU that grants a program so much shared memory."""
    return _where_faster(
        FewRows(weight, bias), lambda x: F.linear(x, weight, bias), weight, shared_memory_bytes
    )


def gated_linear(weight: torch.Tensor, bias: torch.Tensor | None, shared_memory_bytes: int) -> Linear:
    """See `Kernels.gated_linear`."""
    few = FewRows(weight, bias, gated=True)
    return _where_faster(few, lambda x: silu_mul(F.linear(x, weight, bias)), weight, shared_memory_bytes)


def head(weight: torch.Tensor, shared_memory_bytes: int) -> Linear:
    """See `Kernels.head`: the product's float32 sums are not rounded on the way out."""
    transposed = weight.t()

    def many(x: torch.Tensor) -> torch.Tensor:
        if weight.dtype == torch.float32:
            return x @ transposed
        if weight.is_cuda:
            return torch.mm(x, transposed, out_dtype=torch.float32)
        return x.float() @ transposed.float()

    return _where_faster(FewRows(weight, None, dtype=torch.float32), many, weight, shared_memory_bytes)


def _products(model: ModelShape) -> Iterator[tuple[int, int, bool, bool]]:
    """Outputs and inputs of each product of a model, whether it is gated, and whether the last one."""
    heads, kv_heads = model.heads * model.head_dim, model.kv_heads * model.head_dim
    yield heads + 2 * kv_heads, model.hidden, False, False
    yield model.hidden, heads, False, False
    yield model.ffn, model.hidden, True, False
    yield model.hidden, model.ffn, False, False
    yield model.vocab, model.hidden, False, True


def variants() -> Iterator[Variant]:
    """Every way in which the models' products of few tokens are launched; without biases."""
    found: dict[str, Variant] = {}
    core_first = sorted(MODEL_SHAPES, key=lambda model: not model.core)
    for kind, model in itertools.product(("bf16", "fp16"), core_first):
        for outputs, inputs, gated, last in _products(model):
            for shape in _shapes(outputs, gated=gated):
                variant = _variant(kind, shape, inputs % shape.inputs != 0, gated, last, model.core)
                found.setdefault(variant.name, variant)
    yield from found.values()


def _variant(kind: str, shape: ProductShape, ragged: bool, gated: bool, last: bool, core: bool) -> Variant:
    size = "x".join(map(str, (shape.rows, shape.outputs, shape.inputs, shape.num_stages)))
    name = f"product {kind}{' gated' * gated}{' to fp32' * last}{' ragged' * ragged} tile={size}"
    constants = _launch_of(shape, ragged, gated).constants
    signature = {
        "x": f"*{kind}",
        "weight": f"*{kind}",
        "bias": "constexpr",
        "y": "*fp32" if last else f"*{kind}",
        "rows": "i32",
        "outputs": "i32:16",
        "inputs": "i32:16",
        **dict.fromkeys(constants, "constexpr"),
    }
    return Variant(
        name,
        _few_rows_kernel,
        signature,
        constants | {"bias": None},
        shape.num_warps,
        shape.num_stages,
        core and kind == "bf16",
        _CAPABILITIES,
    )
