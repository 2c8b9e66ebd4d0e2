"""What the device's memory and its arithmetic reach when nothing else is asked of them."""

import statistics
from collections.abc import Callable
from typing import Any

import torch

from gpu.bench import Bench
from gpu.scale import DTYPE


def measure_ceilings(bench: Bench, name: str) -> None:
    """Copying, reading, and a product of large matrices."""
    _put_memory(bench)
    _put_product(bench)


def _put_memory(bench: Bench) -> None:
    place, size = bench.place, bench.scale.copy_bytes
    source = torch.empty(size // 4, dtype=torch.float32, device=place.torch_device).normal_()
    target = torch.empty_like(source)
    _put(bench, "copy", 2 * size, "bytes", lambda: target.copy_(source))
    total = torch.empty((), dtype=torch.float32, device=place.torch_device)
    _put(bench, "read (sum)", size, "bytes", lambda: torch.sum(source, 0, out=total))
    rows = source.view(-1, max(1, len(source) // 4096))
    largest = torch.empty(len(rows), dtype=torch.float32, device=place.torch_device)
    _put(bench, "read (largest of rows)", size, "bytes", lambda: torch.amax(rows, 1, out=largest))


def _put_product(bench: Bench) -> None:
    size, dtype = bench.scale.product, getattr(torch, DTYPE)
    # The power that a product takes, and with it the clock, depends on the numbers: zeros are too fast.
    a, b = torch.randn(2, size, size, dtype=torch.float32, device=bench.place.torch_device).to(dtype)
    product = torch.empty_like(a)
    _put(bench, f"product, {DTYPE}", 2 * size**3, "flops", lambda: torch.mm(a, b, out=product))


def _put(bench: Bench, what: str, amount: float, unit: str, work: Callable[[], Any]) -> None:
    if not bench.has_time(3.0, what):
        return
    times = bench.place.seconds(work, bench.scale.repetitions)
    seconds = statistics.median(times)
    bench.put(
        "ceilings",
        {
            "what": what,
            "unit": f"{unit} per second",
            "rate": amount / seconds,
            "best": amount / min(times),
            "worst": amount / max(times),
        },
    )
