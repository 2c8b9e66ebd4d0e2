"""What devices can do: dense peaks from the makers' sheets, and how much of them engines reach.

Catalogues disagree, so every figure names its source. The traps, all avoided here: peaks "with
sparsity" are twice the dense ones; NVLink figures on sheets count both directions; a board sold
with 80 GB shows the driver 81,559 MiB and one with 180 GB shows 183,359.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MIB = 1 << 20
TERA = 1e12
GIGA = 1e9

DTYPE_BYTES: Mapping[str, float] = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "float8": 1.0,
    "int8": 1.0,
}
"""Bytes per value of the dtypes a model is computed in."""


def dtype_bytes(dtype: str) -> float:
    """Bytes per value; raises ValueError naming the dtypes there are."""
    try:
        return DTYPE_BYTES[dtype]
    except KeyError:
        raise ValueError(f"dtype {dtype!r} is unknown; there are {', '.join(DTYPE_BYTES)}") from None


KV_SCALE_BYTES: Mapping[str, float] = {"int8": 4.0}
"""Bytes that K, or V, of a token and head takes beside its values, by the KV cache's dtype."""


def kv_value_bytes(kv_dtype: str, head_dim: int) -> float:
    """Bytes per value of a KV cache, its scales included; raises ValueError as `dtype_bytes` does."""
    return dtype_bytes(kv_dtype) + KV_SCALE_BYTES.get(kv_dtype, 0.0) / head_dim


@dataclass(frozen=True, slots=True)
class Links:
    """Bytes per second and direction to what lies beside the device; 0 where there is none.

    Attributes:
        peer: to another device of the node (NVLink, xGMI).
        host: to the machine's memory (PCIe).
        network: to another node, the device's share of the node's adapters.
    """

    peer: float = 0.0
    host: float = 0.0
    network: float = 0.0


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What an engine reaches of the printed peaks; a calibration replaces it.

    Step time = max(FLOPs / (peak * compute), bytes / (peak * bandwidth))
              + layers * layer_seconds + step_seconds.

    Attributes:
        compute: fraction of the peak FLOP/s, in (0, 1].
        bandwidth: fraction of the peak bytes per second, in (0, 1].
        layer_seconds: launches and synchronisation, per layer of the model.
        step_seconds: the same, once a step.
    """

    compute: float = 1.0
    bandwidth: float = 1.0
    layer_seconds: float = 0.0
    step_seconds: float = 0.0


PRINTED_PEAKS = Efficiency()
"""The device as on its sheet: what the arithmetic of the ridge point is done with."""

# Fitted to published measurements of vLLM on H100, H200 and B200 (aiconfigurator's silicon
# samples, dense models of 8 to 70 billion parameters): median error 9 % of the time per token.
SERVED_BY_VLLM = Efficiency(compute=0.71, bandwidth=0.88, layer_seconds=29e-6, step_seconds=1.2e-3)

# About 14 torch operations a layer at 5 us each, and products measured against themselves.
TORCH_ON_CPU = Efficiency(compute=0.8, bandwidth=0.8, layer_seconds=70e-6, step_seconds=0.3e-3)


# First guesses: kernels compiled for a whole step, of which products reach a third of what tiles do.
COMPILED_ON_CPU = Efficiency(compute=0.35, bandwidth=0.8, step_seconds=0.3e-3)


@dataclass(frozen=True, slots=True)
class Hardware:
    """One device.

    Attributes:
        name: key in `HARDWARE`.
        memory_bytes: as the driver reports it, all of it.
        bytes_per_second: peak of the device's own memory.
        flops_per_second: dense peak by dtype; a dtype that is missing has no units for it.
        links: to other devices, the host and other nodes.
        efficiency: what an engine reaches of these peaks.
        measured_flops_per_second: the best that products of matrices were measured to reach, by dtype,
            beside the sheet; empty where nobody has. Source: "maximum achievable matmul FLOPS" in the
            Machine Learning Engineering book, its chapter on accelerators.
    """

    name: str
    memory_bytes: int
    bytes_per_second: float
    flops_per_second: Mapping[str, float]
    links: Links = field(default_factory=Links)
    efficiency: Efficiency = SERVED_BY_VLLM
    measured_flops_per_second: Mapping[str, float] = field(default_factory=dict)

    def peak_flops(self, dtype: str) -> float:
        """Dense peak FLOP/s; raises ValueError naming the dtypes the device computes in."""
        try:
            return self.flops_per_second[dtype]
        except KeyError:
            known = ", ".join(self.flops_per_second)
            raise ValueError(f"{self.name} does not compute in {dtype!r}; it has {known}") from None


def _peaks(float32: float, half: float, float8: float | None, int8: float) -> dict[str, float]:
    """Dense peaks from TFLOP/s; float32 is without TF32, as torch computes it by default."""
    peaks = {"float32": float32, "bfloat16": half, "float16": half, "float8": float8, "int8": int8}
    return {dtype: value * TERA for dtype, value in peaks.items() if value is not None}


HARDWARE: Mapping[str, Hardware] = {
    hardware.name: hardware
    for hardware in (
        Hardware(
            # NVIDIA A100 80GB SXM data sheet: 2,039 GB/s, 312 bf16, 624 int8, 19.5 fp32, no fp8,
            # NVLink 600 GB/s both ways, PCIe Gen4; HDR 200 Gb/s per GPU in a DGX A100.
            name="a100-80",
            memory_bytes=81_920 * MIB,
            bytes_per_second=2.039 * TERA,
            flops_per_second=_peaks(19.5, 312, None, 624),
            links=Links(peer=300 * GIGA, host=31 * GIGA, network=25 * GIGA),
            measured_flops_per_second={"bfloat16": 271 * TERA},
        ),
        Hardware(
            # NVIDIA H100 SXM5 data sheet: 3.35 TB/s, 1,979 fp8 and int8, 989 bf16 (halves of the
            # figures printed with sparsity), 67 fp32, NVLink 900 GB/s both ways, PCIe Gen5;
            # NDR 400 Gb/s per GPU in a DGX H100.
            name="h100",
            memory_bytes=81_559 * MIB,
            bytes_per_second=3.35 * TERA,
            flops_per_second=_peaks(67, 989, 1979, 1979),
            links=Links(peer=450 * GIGA, host=63 * GIGA, network=50 * GIGA),
            measured_flops_per_second={"bfloat16": 795 * TERA, "float8": 1403 * TERA},
        ),
        Hardware(
            # NVIDIA H200 SXM data sheet: the H100's chip with 141 GB at 4.8 TB/s.
            name="h200",
            memory_bytes=143_771 * MIB,
            bytes_per_second=4.8 * TERA,
            flops_per_second=_peaks(67, 989, 1979, 1979),
            links=Links(peer=450 * GIGA, host=63 * GIGA, network=50 * GIGA),
            measured_flops_per_second={"bfloat16": 795 * TERA, "float8": 1453 * TERA},
        ),
        Hardware(
            # NVIDIA HGX B200 table: 7.7 TB/s (7,680 bit at 3,996 MHz; earlier sheets said 8.0),
            # 4.5 PFLOP/s fp8 and int8, 2.25 bf16 (halves of those with sparsity), 75 TFLOP/s
            # fp32, NVLink 1.8 TB/s both ways, PCIe Gen5; 400 Gb/s per GPU in an 8-way node.
            name="b200",
            memory_bytes=183_359 * MIB,
            bytes_per_second=7.7 * TERA,
            flops_per_second=_peaks(75, 2250, 4500, 4500),
            links=Links(peer=900 * GIGA, host=63 * GIGA, network=50 * GIGA),
            measured_flops_per_second={"bfloat16": 1745 * TERA, "float8": 3433 * TERA},
        ),
        Hardware(
            # NVIDIA L40S data sheet: 864 GB/s, 362 bf16, 733 fp8 and int8 dense (1,466 is with
            # sparsity), 91.6 fp32, no NVLink, PCIe Gen4; 200 Gb/s per two GPUs is usual.
            name="l40s",
            memory_bytes=46_068 * MIB,
            bytes_per_second=0.864 * TERA,
            flops_per_second=_peaks(91.6, 362, 733, 733),
            links=Links(peer=0.0, host=31 * GIGA, network=12.5 * GIGA),
        ),
        Hardware(
            # AMD Instinct MI300X data sheet: 5.3 TB/s, 1,307 bf16, 2,615 fp8 and int8, 163.4 fp32.
            # Infinity Fabric is 448 GB/s to seven peers together but 64 to any one: the pair is
            # what tensor parallelism over two devices gets, so that stands here.
            name="mi300x",
            memory_bytes=196_592 * MIB,
            bytes_per_second=5.3 * TERA,
            flops_per_second=_peaks(163.4, 1307, 2615, 2615),
            links=Links(peer=64 * GIGA, host=63 * GIGA, network=50 * GIGA),
            measured_flops_per_second={"bfloat16": 668 * TERA},
        ),
        Hardware(
            # Two Zen 4 cores with AVX-512, VNNI and BF16, measured with torch 2.13: reads at
            # 31 GB/s, products at 162 GFLOP/s float32, 419 bfloat16, 830 GOP/s int8. No fp16 units.
            name="cpu",
            memory_bytes=16_384 * MIB,
            bytes_per_second=31 * GIGA,
            flops_per_second={"float32": 162 * GIGA, "bfloat16": 419 * GIGA, "int8": 830 * GIGA},
            efficiency=TORCH_ON_CPU,
        ),
    )
}


def find_hardware(name: str) -> Hardware:
    """The catalogue's entry, in any case of letters; raises ValueError naming what there is."""
    try:
        return HARDWARE[name.lower()]
    except KeyError:
        raise ValueError(f"hardware {name!r} is unknown; there is {', '.join(HARDWARE)}") from None
