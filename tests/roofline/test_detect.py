"""From what a driver says of a device to the hardware of the cost model."""

from typing import Any

import pytest

from ridgeline.roofline import HARDWARE, Hardware
from ridgeline.roofline.detect import hardware_of, is_estimate

GIB = 1 << 30


def properties(**changes: Any) -> dict[str, Any]:
    """An H100 SXM."""
    return {
        "name": "NVIDIA H100 80GB HBM3",
        "memory_bytes": 79 * GIB,
        "capability": (9, 0),
        "multiprocessors": 132,
        "clock_hz": 1.98e9,
        "memory_clock_hz": 2.619e9,
        "bus_width_bits": 5120,
    } | changes


BOARDS = {
    "a100-80": properties(
        name="NVIDIA A100-SXM4-80GB", capability=(8, 0), multiprocessors=108, clock_hz=1.41e9,
        memory_clock_hz=1.593e9,
    ),
    "h100": properties(),
    "h200": properties(name="NVIDIA H200", memory_clock_hz=3.201e9, bus_width_bits=6144),
    "b200": properties(
        name="NVIDIA B200", capability=(10, 0), multiprocessors=148, clock_hz=1.965e9,
        memory_clock_hz=3.996e9, bus_width_bits=7680,
    ),
    "l40s": properties(
        name="NVIDIA L40S", capability=(8, 9), multiprocessors=142, clock_hz=2.52e9,
        memory_clock_hz=9.001e9, bus_width_bits=384,
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", BOARDS)
def test_boards_of_the_catalogue_are_known_by_name(key: str) -> None:
    found = hardware_of(**BOARDS[key])
    assert found.name == key
    assert found.flops_per_second == HARDWARE[key].flops_per_second
    assert found.links == HARDWARE[key].links
    assert found.memory_bytes == 79 * GIB != HARDWARE[key].memory_bytes
    assert not is_estimate(found)


@pytest.mark.parametrize("key", BOARDS)
def test_estimates_of_boards_with_a_sheet_agree_with_it(key: str) -> None:
    """The same properties under a name that is not known: every peak within a tenth of the sheet's."""
    sheet, estimate = HARDWARE[key], hardware_of(**BOARDS[key] | {"name": "another"})
    assert is_estimate(estimate)
    assert estimate.bytes_per_second == pytest.approx(sheet.bytes_per_second, rel=0.1)
    assert estimate.flops_per_second == pytest.approx(dict(sheet.flops_per_second), rel=0.1)


@pytest.mark.parametrize(
    ("name", "changes", "terabytes_per_second"),
    [
        ("NVIDIA H100 PCIe", {"multiprocessors": 114, "clock_hz": 1.755e9, "memory_clock_hz": 1.593e9}, 2.04),
        ("NVIDIA H100 NVL", {"clock_hz": 1.785e9, "bus_width_bits": 6016}, 3.94),
        ("NVIDIA A100 80GB PCIe", {"capability": (8, 0), "memory_clock_hz": 1.512e9}, 1.94),
        ("NVIDIA A100-SXM4-40GB", {"capability": (8, 0), "memory_clock_hz": 1.215e9}, 1.56),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", {"multiprocessors": 16}, None),
        ("NVIDIA H200 NVL", {}, None),
        ("NVIDIA GB200", {"capability": (10, 0)}, None),
        ("NVIDIA L40", {"capability": (8, 9)}, None),
        ("NVIDIA H20", {}, None),
    ],
)
def test_relatives_are_not_taken_for_them(
    name: str, changes: dict[str, Any], terabytes_per_second: float | None
) -> None:
    found = hardware_of(**properties(name=name, **changes))
    assert is_estimate(found)
    assert found.name == name
    if terabytes_per_second is not None:
        assert found.bytes_per_second / 1e12 == pytest.approx(terabytes_per_second, abs=0.01)


def consumer(name: str, capability: tuple[int, int], multiprocessors: int, clock_hz: float) -> Hardware:
    return hardware_of(
        **properties(name=name, capability=capability, multiprocessors=multiprocessors, clock_hz=clock_hz)
    )


@pytest.mark.parametrize(
    ("name", "capability", "multiprocessors", "clock_hz", "half_teraflops"),
    [
        # Sheets: A10, RTX 3090 and RTX 4090 (GA102 and AD102 papers, sums in float32).
        ("NVIDIA A10", (8, 6), 72, 1.695e9, 125),
        ("NVIDIA GeForce RTX 3090", (8, 6), 82, 1.695e9, 71),
        ("NVIDIA GeForce RTX 4090", (8, 9), 128, 2.52e9, 165.2),
    ],
)
def test_boards_for_games_sum_at_half_the_rate(
    name: str, capability: tuple[int, int], multiprocessors: int, clock_hz: float, half_teraflops: float
) -> None:
    found = consumer(name, capability, multiprocessors, clock_hz)
    assert found.peak_flops("bfloat16") / 1e12 == pytest.approx(half_teraflops, rel=0.01)


def test_a_newer_device_counts_as_the_newest_known() -> None:
    def half(*capability: int) -> float:
        found = hardware_of(**properties(name="another", capability=capability))
        return found.peak_flops("bfloat16") / (132 * 1.98e9)

    assert [half(8, 7), half(10, 3), half(11, 0), half(12, 1), half(13, 0)] == [1024, 8192, 8192, 1024, 1024]


def test_what_there_are_no_units_for_is_left_out() -> None:
    a100 = hardware_of(**properties(name="another", capability=(8, 0)))
    assert set(a100.flops_per_second) == {"float32", "bfloat16", "float16", "int8"}


def test_a_device_without_bfloat16_is_refused() -> None:
    with pytest.raises(ValueError, match=r"capability 7\.5 is too old; it must be at least 8\.0"):
        hardware_of(**properties(name="Tesla T4", capability=(7, 5)))
