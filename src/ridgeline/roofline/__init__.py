"""The one cost model: what devices can do, and what a step of a model costs on them."""

from ridgeline.roofline.attained import Attained
from ridgeline.roofline.cost import (
    Resource,
    Ridge,
    StepCost,
    WeightBytes,
    decode_ridge,
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
    kv_value_bytes,
)
from ridgeline.roofline.known_shapes import KNOWN_SHAPES, find_shape
from ridgeline.roofline.learning import StepTime
from ridgeline.roofline.recompute import recompute_seconds
from ridgeline.roofline.shape import ModelShape
from ridgeline.roofline.work import Work

__all__ = [
    "DTYPE_BYTES",
    "HARDWARE",
    "KNOWN_SHAPES",
    "PRINTED_PEAKS",
    "Attained",
    "Efficiency",
    "Hardware",
    "Links",
    "ModelShape",
    "Resource",
    "Ridge",
    "StepCost",
    "StepTime",
    "WeightBytes",
    "Work",
    "decode_ridge",
    "dtype_bytes",
    "find_hardware",
    "find_shape",
    "kv_value_bytes",
    "recompute_seconds",
    "ridge_point",
    "step_cost",
]
