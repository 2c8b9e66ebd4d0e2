"""Which hardware a device is, from what its driver says of it."""

from dataclasses import dataclass, replace

from ridgeline.roofline.hardware import HARDWARE, Hardware

_CATALOGUED = {
    "NVIDIA A100-SXM4-80GB": "a100-80",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
    "NVIDIA L40S": "l40s",
}
"""Names as drivers give them, whole: an H100 PCIe, an H100 NVL, an A100 with 40 GB or a MIG slice of
any has other figures than the board whose name it begins with."""


@dataclass(frozen=True, slots=True)
class _PerClock:
    """What one multiprocessor does in a clock, in dense FLOP; a multiplication with addition is two.

    Attributes:
        half: products of bfloat16 or float16 in tensor cores, sums in float32.
        float32: outside tensor cores.
        float8: there are tensor cores for it, at twice the rate of `half`.
    """

    half: int
    float32: int
    float8: bool


# `half` from NVIDIA's architecture papers (A100: 1,024 multiply-adds a clock; GA102, Ada, Hopper) and
# for Blackwell from the sheets of B200 and RTX PRO 6000 divided by multiprocessors and clock; float32
# from "Arithmetic Instructions" in the CUDA programming guide: 64 multiply-adds for 8.0, 128 later.
_PER_CLOCK = {
    (8, 0): _PerClock(2048, 128, float8=False),
    (8, 6): _PerClock(1024, 256, float8=False),
    (8, 9): _PerClock(1024, 256, float8=True),
    (9, 0): _PerClock(4096, 256, float8=True),
    (10, 0): _PerClock(8192, 256, float8=True),
    (12, 0): _PerClock(1024, 256, float8=True),
}

_HALVED = "GeForce"
"""Boards for games sum in float32 at half the rate of the same chips on other boards (GA102 paper,
table of peak rates); int8, whose sums are integers, is not halved."""


def hardware_of(
    name: str,
    memory_bytes: int,
    capability: tuple[int, int],
    multiprocessors: int,
    clock_hz: float,
    memory_clock_hz: float,
    bus_width_bits: int,
) -> Hardware:
    """The catalogue's entry for a device, or an estimate from its properties; see `is_estimate`.

    An estimate takes the highest clock for the usual one, so that its FLOP/s are above those of a
    sheet by up to some 15 %; of boards whose tensor cores are held back on purpose (H20) it knows
    nothing. Its links are left out, for no property tells them.

    Args:
        name: as the driver gives it.
        memory_bytes: all of the device's memory; the result has this figure in either case.
        capability: compute capability, major and minor.
        multiprocessors: how many there are.
        clock_hz: highest clock of the multiprocessors.
        memory_clock_hz: clock of the memory; data move on both its edges.
        bus_width_bits: of the memory.

    Raises:
        ValueError: for a compute capability below 8.0, the first that computes in bfloat16.
    """
    if name in _CATALOGUED:
        return replace(HARDWARE[_CATALOGUED[name]], memory_bytes=memory_bytes)
    per_clock = _per_clock(capability)
    clocks_per_second = multiprocessors * clock_hz
    undiminished = per_clock.half * clocks_per_second
    half = undiminished / 2 if _HALVED in name else undiminished
    flops = {"float32": per_clock.float32 * clocks_per_second, "bfloat16": half, "float16": half}
    if per_clock.float8:
        flops["float8"] = 2 * half
    flops["int8"] = 2 * undiminished
    bytes_per_second = 2 * memory_clock_hz * bus_width_bits / 8
    return Hardware(name, memory_bytes, bytes_per_second, flops)


def is_estimate(hardware: Hardware) -> bool:
    """Whether the figures were computed from a device's properties, not taken from its sheet."""
    return hardware.name not in HARDWARE


def _per_clock(capability: tuple[int, int]) -> _PerClock:
    """Of the newest generation known that is not newer than the device's."""
    known = [version for version in _PER_CLOCK if version <= capability]
    if not known:
        major, minor = capability
        raise ValueError(f"compute capability {major}.{minor} is too old; it must be at least 8.0")
    return _PER_CLOCK[max(known)]
