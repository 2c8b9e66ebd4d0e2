"""The one cost model: what devices can do, and what a step of a model costs on them."""

from ridgeline.roofline.cost import (
    Resource,
    StepCost,
    Work,
    headroom,
    ridge_batch,
    ridge_point,
    step_cost,
)
from ridgeline.roofline.hardware import (
    DTYPE_BYTES,
    HARDWARE,
    PRINTED_PEAKS,
    Efficiency,
    Hardware,
    Links,
    dtype_bytes,
    find_hardware,
)
from ridgeline.roofline.shape import ModelShape

__all__ = [
    "DTYPE_BYTES",
    "HARDWARE",
    "PRINTED_PEAKS",
    "Efficiency",
    "Hardware",
    "Links",
    "ModelShape",
    "Resource",
    "StepCost",
    "Work",
    "dtype_bytes",
    "find_hardware",
    "headroom",
    "ridge_batch",
    "ridge_point",
    "step_cost",
]
