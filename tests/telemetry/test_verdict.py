"""The verdict's words: one for every resource, with the figures that belong to it."""

import math

import pytest

from ridgeline.telemetry.records import RESOURCES
from ridgeline.telemetry.verdict import is_busy_but_empty, verdict

FIGURES = {
    "ridgeline_batch_size": 3.0,
    "ridgeline_batch_headroom_sequences": 12.0,
    "ridgeline_ridge_batch_sequences": 180.0,
    "ridgeline_flops_utilization_ratio": 0.62,
    "ridgeline_kv_utilization_ratio{device}": 0.97,
    "ridgeline_requests{waiting}": 5.0,
    "ridgeline_device_busy_ratio": 0.5,
    "ridgeline_arithmetic_intensity": 100.0,
    "ridgeline_ridge_point": 200.0,
}


def of(resource: str, **changes: float) -> object:
    bound = {f"ridgeline_bound_by{{{name}}}": float(name == resource) for name in RESOURCES}
    return verdict(FIGURES | changes | bound)


@pytest.mark.parametrize(
    ("resource", "headline", "figure", "advice"),
    [
        ("idle", "Nothing to do", "5 s", "Nothing needs to"),
        ("memory_bandwidth", "The batch is small", "for 3 sequences; from 180 on", "12 more fit"),
        ("compute", "Arithmetic binds", "62%", "more devices"),
        ("kv_capacity", "The KV cache is full", "97% of its blocks, and 5 wait", "--kv-memory"),
        ("host", "The host binds", "longer than the device", "faster processor"),
        ("launch", "Launching binds", "outweighs", "12 more fit"),
        ("link", "The link between devices binds", "other devices", "faster links"),
    ],
)
def test_every_resource_has_its_words(resource: str, headline: str, figure: str, advice: str) -> None:
    found = of(resource)
    assert found.resource == resource
    assert found.headline == headline
    assert figure in found.reason
    assert advice in found.advice


def test_there_are_words_for_all_that_can_bind() -> None:
    assert {of(resource).resource for resource in RESOURCES} == set(RESOURCES)
    assert len({of(resource).headline for resource in RESOURCES}) == len(RESOURCES)


def test_a_ridge_out_of_reach_is_said_in_words() -> None:
    found = of(
        "memory_bandwidth",
        ridgeline_ridge_batch_sequences=math.inf,
        ridgeline_intensity_limit=30.0,
        ridgeline_attainable_ridge_point=206.0,
    )
    assert found.headline == "Reading the KV cache binds"
    assert "30 operations per byte" in found.reason and "206" in found.reason
    assert "inf" not in found.reason + found.advice


def test_busy_but_empty_is_said_whatever_binds() -> None:
    changes = {"ridgeline_device_busy_ratio": 0.98, "ridgeline_arithmetic_intensity": 20.0}
    for resource in RESOURCES:
        assert "busy does not mean full" in of(resource, **changes).reason
        assert "busy does not mean full" not in of(resource).reason
    assert not is_busy_but_empty({})


def test_without_figures_there_are_words_too() -> None:
    for resource in RESOURCES:
        found = verdict({f"ridgeline_bound_by{{{resource}}}": 1.0})
        assert found.headline and found.reason and found.advice
