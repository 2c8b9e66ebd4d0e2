"""What binds now, in words: which resource, why it is that one, and what would help."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ridgeline.telemetry.records import RESOURCES, Resource

LOW_INTENSITY = 0.2
"""Of the ridge: below it most of the device's arithmetic lies idle however busy the device looks."""

BUSY = 0.95

Values = Mapping[str, float]
"""Gauges by name, labels in braces: `ridgeline_headroom_sequences{kv}`."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Sentences for a person.

    Attributes:
        resource: what bound most of the last 5 s.
        headline: in a few words.
        reason: the figures behind it.
        advice: what would help, or that nothing needs to.
        is_busy_but_empty: the device looks used up while most of its arithmetic lies idle.
    """

    resource: Resource
    headline: str
    reason: str
    advice: str
    is_busy_but_empty: bool


def verdict(values: Values) -> Verdict:
    """From the gauges of one engine."""
    resource: Resource = "idle"
    for name in RESOURCES:
        if values.get(f"ridgeline_bound_by{{{name}}}") == 1:
            resource = name
    headline, reason, advice = _WORDS[resource](values)
    return Verdict(
        resource, headline, f"{reason}{_busy_but_empty(values)}", advice, is_busy_but_empty(values)
    )


def is_busy_but_empty(values: Values) -> bool:
    """Whether the device looks used up while most of its arithmetic lies idle: GPU utilisation misleads."""
    intensity, ridge = values.get("ridgeline_arithmetic_intensity"), values.get("ridgeline_ridge_point")
    if not intensity or not ridge:
        return False
    return values.get("ridgeline_device_busy_ratio", 0.0) > BUSY and intensity < LOW_INTENSITY * ridge


def _busy_but_empty(values: Values) -> str:
    if not is_busy_but_empty(values):
        return ""
    busy = values["ridgeline_device_busy_ratio"]
    share = values["ridgeline_arithmetic_intensity"] / values["ridgeline_ridge_point"]
    return (
        f" The device is busy {busy:.0%} of the time, but does only {share:.0%} of the operations per byte "
        "that would use its arithmetic: busy does not mean full."
    )


def _idle(values: Values) -> tuple[str, str, str]:
    return "Nothing to do", "No request ran for most of the last 5 s.", "Nothing needs to."


def _memory(values: Values) -> tuple[str, str, str]:
    batch, ridge = values.get("ridgeline_batch_size", 0), values.get("ridgeline_ridge_batch_sequences")
    if ridge is None:
        return "Reading memory binds", "Steps take as long as reading weights and KV.", "A larger batch."
    if math.isinf(ridge):
        limit = values.get("ridgeline_intensity_limit", 0.0)
        attained = values.get("ridgeline_attainable_ridge_point", 0.0)
        return (
            "Reading the KV cache binds",
            f"Contexts are so long that each sequence's own KV outweighs its arithmetic: however large the "
            f"batch, it tends to {limit:.0f} operations per byte, and the ridge is at {attained:.0f}.",
            "A narrower KV cache or shorter contexts; a larger batch brings tokens, but never the ridge.",
        )
    return (
        "The batch is small",
        f"Each step reads all weights for {batch:.0f} sequences; from {ridge:.0f} on, arithmetic would bind.",
        f"More requests at once: {_room(values)} fit before anything else ends.",
    )


def _compute(values: Values) -> tuple[str, str, str]:
    used = values.get("ridgeline_flops_utilization_ratio", 0.0)
    return (
        "Arithmetic binds",
        f"Steps take as long as their operations take; over the last 5 s they were {used:.0%} of the peak.",
        "More requests at once make every answer slower and gain nothing: more devices, a smaller model, "
        "a narrower dtype, or more of the prompts in the prefix cache.",
    )


def _kv(values: Values) -> tuple[str, str, str]:
    used = values.get("ridgeline_kv_utilization_ratio{device}", 0.0)
    waiting = values.get("ridgeline_requests{waiting}", 0)
    return (
        "The KV cache is full",
        f"Running requests hold {used:.0%} of its blocks, and {waiting:.0f} wait for room.",
        "More --kv-memory, shorter contexts or answers, a narrower KV cache, or more devices.",
    )


def _host(values: Values) -> tuple[str, str, str]:
    return (
        "The host binds",
        "Scheduling and preparing a step take longer than the device takes for it.",
        "A larger batch per step, fewer streams, or a faster processor beside the device.",
    )


def _launch(values: Values) -> tuple[str, str, str]:
    return (
        "Launching binds",
        "What a step costs whatever is in it outweighs what it computes and moves.",
        f"A larger batch: {_room(values)} fit.",
    )


def _link(values: Values) -> tuple[str, str, str]:
    return (
        "The link between devices binds",
        "Steps wait for data of other devices.",
        "Fewer devices per model, or faster links.",
    )


def _room(values: Values) -> str:
    room = values.get("ridgeline_batch_headroom_sequences", 0)
    return f"{room:.0f} more" if room >= 1 else "no more"


_WORDS = {
    "idle": _idle,
    "memory_bandwidth": _memory,
    "compute": _compute,
    "kv_capacity": _kv,
    "host": _host,
    "launch": _launch,
    "link": _link,
}
