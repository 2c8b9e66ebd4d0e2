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
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ridgeline.roofline.hardware import Hardware, dtype_bytes, kv_value_bytes
from ridgeline.roofline.shape import ModelShape
from ridgeline.roofline.work import Work

Resource = Literal["compute", "memory_bandwidth", "launch"]


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes that a step reads of a model's weights, as an executor holds them.

    Attributes:
        blocks: of all blocks and the last norm: read by every step.
        head: of the head: read by a step that needs logits.
        embedding_row: of a token's row in the embedding table.
    """

    blocks: float
    head: float
    embedding_row: float

    @classmethod
    def of(cls, shape: ModelShape, dtype: str) -> "WeightBytes":
        """With every parameter in one dtype."""
        width = dtype_bytes(dtype)
        return cls(width * shape.block_parameters(), width * shape.head_parameters(), width * shape.hidden)


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
    weights: WeightBytes
    kv_bytes_per_token: float
    flops_per_second: float
    bytes_per_second: float
    overhead_seconds: float


def _rates(
    shape: ModelShape, hardware: Hardware, dtype: str, kv_dtype: str | None, weights: WeightBytes | None
) -> _Rates:
    # The catalogue's peaks are dicts, so a device is told apart by what the rates are made of.
    efficiency = hardware.efficiency
    return _rates_of(
        shape,
        kv_dtype or dtype,
        weights or WeightBytes.of(shape, dtype),
        flops_per_second=hardware.peak_flops(dtype) * efficiency.compute,
        bytes_per_second=hardware.bytes_per_second * efficiency.bandwidth,
        overhead_seconds=efficiency.step_seconds + shape.layers * efficiency.layer_seconds,
    )


@lru_cache(maxsize=256)
def _rates_of(
    shape: ModelShape,
    kv_dtype: str,
    weights: WeightBytes,
    *,
    flops_per_second: float,
    bytes_per_second: float,
    overhead_seconds: float,
) -> _Rates:
    return _Rates(
        flops_per_token=2.0 * shape.layers * shape.layer_matrix_parameters(),
        flops_per_pair=4.0 * shape.layers * shape.heads * shape.head_dim,
        flops_per_logit_row=2.0 * shape.head_parameters(),
        weights=weights,
        kv_bytes_per_token=float(shape.kv_bytes_per_token(kv_value_bytes(kv_dtype, shape.head_dim))),
        flops_per_second=flops_per_second,
        bytes_per_second=bytes_per_second,
        overhead_seconds=overhead_seconds,
    )


def step_cost(
    shape: ModelShape,
    hardware: Hardware,
    dtype: str,
    work: Work,
    *,
    kv_dtype: str | None = None,
    weights: WeightBytes | None = None,
) -> StepCost:
    """Cost of one step on one device.

    Args:
        shape: of the model.
        hardware: of the device.
        dtype: of arithmetic, and of weights where `weights` does not say otherwise.
        work: of the step.
        kv_dtype: of the KV cache; None: `dtype`.
        weights: bytes that are read of them; None: every parameter in `dtype`.

    Raises:
        ValueError: for a dtype that does not exist or that the device does not compute in.
    """
    rates = _rates(shape, hardware, dtype, kv_dtype, weights)
    flops = (
        rates.flops_per_token * work.new_tokens
        + rates.flops_per_pair * work.attended_pairs
        + rates.flops_per_logit_row * work.logit_rows
    )
    moved = (
        rates.weights.blocks
        + (rates.weights.head if work.logit_rows else 0.0)
        + rates.weights.embedding_row * work.new_tokens
        + rates.kv_bytes_per_token * (work.cached_tokens + work.new_tokens)
    )
    return StepCost(
        flops=flops,
        bytes=moved,
        compute_seconds=flops / rates.flops_per_second,
        memory_seconds=moved / rates.bytes_per_second,
        overhead_seconds=rates.overhead_seconds,
    )


@dataclass(frozen=True, slots=True)
class Ridge:
    """Where arithmetic begins to bind a decode step, in sequences of one average context.

    With B sequences a step does B * f FLOPs and moves w + B * k bytes. Its intensity grows with B
    towards f / k, and reaches the attainable ridge r (FLOPs per byte) at B = r * w / (f - r * k).

    Attributes:
        flops_per_byte: r, of what the device attains.
        limit: f / k: the intensity that no batch can exceed.
        batch: sequences at the ridge; None: each sequence's own KV traffic keeps it out of reach.
    """

    flops_per_byte: float
    limit: float
    batch: int | None


def decode_ridge(
    shape: ModelShape,
    hardware: Hardware,
    dtype: str,
    *,
    context_tokens: float,
    kv_dtype: str | None = None,
    weights: WeightBytes | None = None,
) -> Ridge:
    """The ridge of decoding with this average context (tokens in the cache before the new one)."""
    rates = _rates(shape, hardware, dtype, kv_dtype, weights)
    ridge = rates.flops_per_second / rates.bytes_per_second
    flops = rates.flops_per_token + rates.flops_per_pair * (context_tokens + 1) + rates.flops_per_logit_row
    moved = rates.weights.embedding_row + rates.kv_bytes_per_token * (context_tokens + 1)
    batch = None
    if flops > ridge * moved:
        batch = math.ceil(ridge * (rates.weights.blocks + rates.weights.head) / (flops - ridge * moved))
    return Ridge(ridge, flops / moved, batch)


def ridge_point(hardware: Hardware, dtype: str) -> float:
    """FLOPs per byte at which printed compute and bandwidth are used up together.

    Below it memory binds, above it arithmetic. An H100 at 8 bits: 1,979 / 3.35 = 591.
    """
    return hardware.peak_flops(dtype) / hardware.bytes_per_second
