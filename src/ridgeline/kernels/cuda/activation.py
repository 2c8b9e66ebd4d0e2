"""The gated activation between the products of an MLP, element by element."""

import functools
import itertools
from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from ridgeline.kernels.cuda.launch import Launch, let_next_start, wait_for_earlier
from ridgeline.kernels.cuda.resources import MODEL_SHAPES, TRITON_DTYPES, Variant

_BLOCK = 1024
_WARPS = 4
"""8 elements per thread: one load of 16 bytes from each half, where elements have 2 bytes."""


@triton.jit
def _silu_mul_kernel(
    gate_up, product,
    FFN: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr = False,
):  # fmt: skip
    let_next_start(OVERLAP)
    wait_for_earlier(OVERLAP)
    program = tl.program_id(0)
    token = (program // CHUNKS).to(tl.int64)
    columns = (program % CHUNKS) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < FFN
    gate = tl.load(gate_up + token * (2 * FFN) + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + token * (2 * FFN) + FFN + columns, mask=inside, other=0.0).to(tl.float32)
    activated = gate * tl.sigmoid(gate) * up
    tl.store(product + token * FFN + columns, activated.to(product.dtype.element_ty), mask=inside)


@functools.cache
def _launch_of(ffn: int) -> Launch:
    return Launch({"FFN": ffn, "CHUNKS": triton.cdiv(ffn, _BLOCK), "BLOCK": _BLOCK}, _WARPS, 1)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up` of [tokens, 2 * ffn], contiguous, gate before up: [tokens, ffn].

    Raises:
        ValueError: the tensor is not contiguous.
    """
    if not gate_up.is_contiguous():
        raise ValueError("silu_mul was asked for of a tensor that is not contiguous.")
    tokens, ffn = len(gate_up), gate_up.shape[-1] // 2
    product = gate_up.new_empty((tokens, ffn))
    launch = _launch_of(ffn)
    # One axis, since the others of a grid end at 65,535.
    launch(_silu_mul_kernel, (tokens * launch.constants["CHUNKS"],), gate_up, product)
    return product


def variants() -> Iterator[Variant]:
    """Every way in which the models' activations are launched."""
    core = {shape.ffn for shape in MODEL_SHAPES if shape.core}
    sizes = sorted({shape.ffn for shape in MODEL_SHAPES})
    for kind, ffn in itertools.product(TRITON_DTYPES.values(), sizes):
        constants = _launch_of(ffn).constants
        signature = {"gate_up": f"*{kind}", "product": f"*{kind}", **dict.fromkeys(constants, "constexpr")}
        name = f"silu_mul {kind} ffn={ffn}"
        yield Variant(name, _silu_mul_kernel, signature, constants, _WARPS, 1, kind == "bf16" and ffn in core)
