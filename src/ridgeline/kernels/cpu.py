"""The operations on a CPU with torch's own, chosen by measurement.

What was measured (2 cores with AVX-512, torch 2.13, all matrices of SmolLM2-135M, milliseconds for
`F.linear` against the same product on weights packed beforehand):

    tokens             1            16            512
    bfloat16    10.5 / 8.0   15.0 / 10.6   142 / 138
    float32       29 / 16       65 / 22   2,290 / 962

Packing wins at every size, and the size named when packing does not matter from 16 up. A small
operation costs 5 to 15 us, a product 20 to 180 us: fusing products (q, k and v; gate and up) pays,
fusing what stands between them hardly.
"""

import torch
import torch.nn.functional as F

from ridgeline.kernels.cpu_attention import CpuAttention
from ridgeline.kernels.interface import AttentionSpec, Linear

_PACK_FOR_TOKENS = 512


def packs_weights(dtype: torch.dtype) -> bool:
    """Whether torch was built with oneDNN, and oneDNN computes in this dtype on this processor."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    pointwise = torch.ops.mkldnn._linear_pointwise.default
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACK_FOR_TOKENS)

    def product(x: torch.Tensor) -> torch.Tensor:
        return pointwise(x, packed, bias, "none", [], "")  # type: ignore[no-any-return]

    return product


class CpuKernels:
    """Kernels for float32 and bfloat16 on a CPU.

    Args:
        packed: pack weights for oneDNN; off where `packs_weights` says that it cannot.
    """

    def __init__(self, *, packed: bool) -> None:
        self.packed = packed
        self.name = "torch-cpu-packed" if packed else "torch-cpu"

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """See `Kernels.linear`."""
        if self.packed:
            return _packed_linear(weight, bias)
        return lambda x: F.linear(x, weight, bias)

    def head(self, weight: torch.Tensor) -> Linear:
        """See `Kernels.head`."""
        product = self.linear(weight, None)
        return lambda x: product(x).float()

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See `Kernels.rms_norm`."""
        return F.rms_norm(x, weight.shape, weight, eps)

    def add_rms_norm(
        self, residual: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """See `Kernels.add_rms_norm`."""
        residual += x
        return F.rms_norm(residual, weight.shape, weight, eps)

    def gated_linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """See `Kernels.gated_linear`."""
        product = self.linear(weight, bias)

        def gated(x: torch.Tensor) -> torch.Tensor:
            gate, up = product(x).chunk(2, -1)
            return F.silu(gate).mul_(up)

        return gated

    def paged_attention(self, spec: AttentionSpec) -> CpuAttention:
        """See `Kernels.paged_attention`."""
        return CpuAttention(spec)
