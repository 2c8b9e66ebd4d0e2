"""A batch into FLOPs, bytes, seconds and the resource that binds.

Counted, after "Efficiently Scaling Transformer Inference" (arXiv 2211.05102), for n new tokens of
a sequence with c tokens in the cache before them:

    FLOPs    2 per parameter of the blocks' matrices and new token; 4 * heads * head_dim per layer
             for every pair of a new token and a token it attends to, n * c + n * (n + 1) / 2 of
             them; 2 per parameter of the head and row of logits.
    bytes    the blocks' weights once a step, the head's where a row needs logits, the embedding
             rows of the new tokens; the cached K and V of each sequence once; new K and V written.

Neglected: activations, which stay on the chip, and the FLOPs of norms, rotations and softmax;
together under 2 % at the sizes served. Prefill is taken to read cached K and V once, as a kernel
does whose query tile holds the chunk.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ridgeline.roofline.hardware import Hardware, dtype_bytes
from ridgeline.roofline.shape import ModelShape

Resource = Literal["compute", "memory_bandwidth", "launch"]


@dataclass(frozen=True, slots=True)
class Work:
    """What a step computes, summed over its sequences.

    Attributes:
        new_tokens: tokens computed.
        cached_tokens: tokens in the KV cache that are read.
        attended_pairs: pairs of a new token and a token it attends to, itself included.
        logit_rows: positions whose logits are needed.
    """

    new_tokens: int
    cached_tokens: int
    attended_pairs: int
    logit_rows: int

    @classmethod
    def of(cls, sequences: Iterable[tuple[int, int]], logit_rows: int) -> "Work":
        """Sum (new tokens, context before them) over the sequences of a step."""
        tokens = cached = pairs = 0
        for new, context in sequences:
            tokens += new
            cached += context
            pairs += new * context + new * (new + 1) // 2
        return cls(tokens, cached, pairs, logit_rows)


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a step takes.

    Attributes:
        flops: multiplications and additions.
        bytes: moved between memory and chip.
        compute_seconds: the arithmetic alone, at the attainable rate.
        memory_seconds: the moving alone, at the attainable rate.
        overhead_seconds: launches, per layer and per step.
    """

    flops: float
    bytes: float
    compute_seconds: float
    memory_seconds: float
    overhead_seconds: float

    @property
    def seconds(self) -> float:
        """Arithmetic and moving overlap; the launches do not."""
        return max(self.compute_seconds, self.memory_seconds) + self.overhead_seconds

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved."""
        return self.flops / self.bytes

    @property
    def bound_by(self) -> Resource:
        """The resource that more of would shorten the step most."""
        if self.overhead_seconds > max(self.compute_seconds, self.memory_seconds):
            return "launch"
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory_bandwidth"


@dataclass(frozen=True, slots=True)
class _Rates:
    """Coefficients of `Work` for one shape, device and dtype, so that a step is a few products."""

    flops_per_token: float
    flops_per_pair: float
    flops_per_logit_row: float
    block_bytes: float
    head_bytes: float
    embedding_bytes_per_token: float
    kv_bytes_per_token: float
    flops_per_second: float
    bytes_per_second: float
    overhead_seconds: float


def _rates(shape: ModelShape, hardware: Hardware, dtype: str, kv_dtype: str | None) -> _Rates:
    # The catalogue's peaks are dicts, so a device is told apart by what the rates are made of.
    efficiency = hardware.efficiency
    return _rates_of(
        shape,
        dtype,
        kv_dtype or dtype,
        flops_per_second=hardware.peak_flops(dtype) * efficiency.compute,
        bytes_per_second=hardware.bytes_per_second * efficiency.bandwidth,
        overhead_seconds=efficiency.step_seconds + shape.layers * efficiency.layer_seconds,
    )


@lru_cache(maxsize=256)
def _rates_of(
    shape: ModelShape,
    dtype: str,
    kv_dtype: str,
    *,
    flops_per_second: float,
    bytes_per_second: float,
    overhead_seconds: float,
) -> _Rates:
    width = dtype_bytes(dtype)
    block_parameters = shape.layers * shape.layer_matrix_parameters()
    return _Rates(
        flops_per_token=2.0 * block_parameters,
        flops_per_pair=4.0 * shape.layers * shape.heads * shape.head_dim,
        flops_per_logit_row=2.0 * shape.head_parameters(),
        block_bytes=width * (block_parameters + shape.norm_parameters()),
        head_bytes=width * shape.head_parameters(),
        embedding_bytes_per_token=width * shape.hidden,
        kv_bytes_per_token=float(shape.kv_bytes_per_token(dtype_bytes(kv_dtype))),
        flops_per_second=flops_per_second,
        bytes_per_second=bytes_per_second,
        overhead_seconds=overhead_seconds,
    )


def step_cost(
    shape: ModelShape, hardware: Hardware, dtype: str, work: Work, *, kv_dtype: str | None = None
) -> StepCost:
    """Cost of one step on one device.

    Weights and arithmetic are in `dtype`, the KV cache in `kv_dtype` (None: the same). Raises
    ValueError for a dtype that does not exist or that the device does not compute in.
    """
    rates = _rates(shape, hardware, dtype, kv_dtype)
    flops = (
        rates.flops_per_token * work.new_tokens
        + rates.flops_per_pair * work.attended_pairs
        + rates.flops_per_logit_row * work.logit_rows
    )
    moved = (
        rates.block_bytes
        + (rates.head_bytes if work.logit_rows else 0.0)
        + rates.embedding_bytes_per_token * work.new_tokens
        + rates.kv_bytes_per_token * (work.cached_tokens + work.new_tokens)
    )
    return StepCost(
        flops=flops,
        bytes=moved,
        compute_seconds=flops / rates.flops_per_second,
        memory_seconds=moved / rates.bytes_per_second,
        overhead_seconds=rates.overhead_seconds,
    )


def ridge_point(hardware: Hardware, dtype: str) -> float:
    """FLOPs per byte at which printed compute and bandwidth are used up together.

    Below it memory binds, above it arithmetic. An H100 at 8 bits: 1,979 / 3.35 = 591.
    """
    return hardware.peak_flops(dtype) / hardware.bytes_per_second


def ridge_batch(
    shape: ModelShape,
    hardware: Hardware,
    dtype: str,
    *,
    context_tokens: float,
    kv_dtype: str | None = None,
) -> int | None:
    """Sequences in a decode step, of this average context, at which arithmetic begins to bind.

    With B sequences a step does B * f FLOPs and moves w + B * k bytes. It reaches the attainable
    ridge r (FLOPs per byte) at B = r * w / (f - r * k). None: each sequence's own KV traffic
    (r * k >= f) keeps the ridge out of reach of any batch.
    """
    rates = _rates(shape, hardware, dtype, kv_dtype)
    ridge = rates.flops_per_second / rates.bytes_per_second
    flops = rates.flops_per_token + rates.flops_per_pair * (context_tokens + 1) + rates.flops_per_logit_row
    moved = rates.embedding_bytes_per_token + rates.kv_bytes_per_token * (context_tokens + 1)
    if flops <= ridge * moved:
        return None
    return math.ceil(ridge * (rates.block_bytes + rates.head_bytes) / (flops - ridge * moved))


def headroom(
    shape: ModelShape,
    hardware: Hardware,
    dtype: str,
    *,
    batch: int,
    context_tokens: float,
    kv_dtype: str | None = None,
) -> int | None:
    """Sequences that may still join a decode batch before arithmetic binds; None: no end to it."""
    ridge = ridge_batch(shape, hardware, dtype, context_tokens=context_tokens, kv_dtype=kv_dtype)
    return None if ridge is None else max(0, ridge - batch)
