"""What a front door could tell of a fleet in which everything happens at once, as `/fleet/status` does."""

from typing import Any

HOSTILE = "<img src=x onerror=alert(1)>"


def replica(name: str, region: str, **more: Any) -> dict[str, Any]:
    """One that is well, unless told otherwise."""
    return {
        "id": f"{region}-a/{name}",
        "region": region,
        "cluster": f"{region}-a",
        "models": ["qwen3-8b"],
        "state": "up",
        "running": 5,
        "slots": 16,
        "places": 16,
        "sent": 2,
        "kv_held": 0.37,
        "kv_told": True,
        "kv_tokens": 262144,
        "told_seconds_ago": 0.42,
        "faults": 0,
        "breaker_open": False,
        "left_alone_seconds": None,
        "full": False,
        "returns": {"sent": 1204, "full": 3, "fault": 0},
        "missing_metrics": [],
        "prefill_tokens_per_second": 9876.5,
    } | more


def cluster(name: str, engine: str, **more: Any) -> dict[str, Any]:
    """One that registers or is listed, unless told otherwise."""
    plain = {"model": "qwen3-8b", "hardware": None, "replicas_on_ray": None}
    return {"name": name, "engine": engine, **plain} | more


def placement(request: str, to: str, why: str, **more: Any) -> dict[str, Any]:
    """One that is over, unless told otherwise."""
    return {
        "request": request,
        "model": "qwen3-8b",
        "replica": to,
        "at_seconds": 1_790_000_000.0,
        "attempt": 1,
        "prompt_tokens": 1200,
        "cached_tokens": 1024,
        "expected_seconds": 0.04,
        "why": why,
        "outcome": "answered",
        "first_token_seconds": 0.043,
        "found_tokens": 1008,
    } | more


def status() -> dict[str, Any]:
    """Two regions and one that is empty; a replica in each state."""
    return {
        "region": "us",
        "waiting": 7,
        "predicted_less_actual_cached_tokens": 12345,
        "cached_tokens": {"prompt": 200_000, "believed": 112_345, "found": 100_000},
        "last_minute": {"seconds": 60.0, "requests": 1500, "refused": {"at_capacity": 12, HOSTILE: 1}},
        "regions": [
            {
                "name": "us",
                "round_trip_seconds": 0.0,
                "clusters": [cluster("us-a", "ridgeline", hardware="h100", replicas_on_ray=4)],
            },
            {
                "name": "eu",
                "round_trip_seconds": 0.08,
                "clusters": [cluster("eu-a", "vllm")],
            },
            {"name": "asia", "round_trip_seconds": None, "clusters": []},
        ],
        "replicas": [
            replica("10.0.0.4:8000", "us"),
            replica("10.0.0.5:8000", "us", state="cordoned", running=1),
            replica("10.0.0.6:8000", "us", state="draining", running=2),
            replica(
                "10.0.0.7:8000", "us", places=3, running=3, told_seconds_ago=None, kv_held=None, kv_told=False
            ),
            replica("10.1.0.4:8000", "eu", breaker_open=True, faults=3, left_alone_seconds=4.2),
            replica("10.1.0.5:8000", "eu", full=True, running=16),
            replica(
                "10.1.0.6:8000",
                "eu",
                kv_held=0.0,
                kv_told=False,
                kv_tokens=None,
                missing_metrics=("vllm:kv_cache",),
            ),
        ],
        "absent": [{"id": "eu-a/10.1.0.9:8000", "region": "eu", "cluster": "eu-a"}],
        "placements": [
            placement(HOSTILE, "us-a/10.0.0.4:8000", f"none of 9 tokens cached anywhere; {HOSTILE}"),
            placement(
                "chatcmpl-2", "eu-a/10.1.0.4:8000", "us-a was full", outcome="fault", found_tokens=None
            ),
        ],
    }
