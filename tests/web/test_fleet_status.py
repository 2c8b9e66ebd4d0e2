"""`/fleet/status`: what it tells beside what `ridgeline fleet status` shows."""

import time

import fleet_told

from ridgeline.fleet.config import Fleet
from ridgeline.fleet.core.replica import Load, Replica
from ridgeline.fleet.front_door import FrontDoor
from ridgeline.web.fleet import described

NOWHERE = "http://127.0.0.1:9"


def fleet() -> Fleet:
    def cluster(name: str, engine: str, endpoints: tuple[str, ...]) -> dict[str, object]:
        return {"name": name, "model": "m", "engine": engine, "endpoints": endpoints}

    on_ray = {"name": "asia-a", "model": "m", "hardware": "H100", "ray": "auto", "replicas": 4}

    return Fleet.model_validate(
        {
            "models": [{"name": "m"}],
            "regions": [
                {"name": "us", "clusters": [cluster("us-a", "ridgeline", (NOWHERE,))]},
                {"name": "eu", "clusters": [cluster("eu-a", "llama.cpp", ())]},
                {"name": "asia", "clusters": [on_ray]},
            ],
            "links": [{"between": ["us", "eu"], "rtt_ms": 80}],
        }
    )


async def test_what_the_page_needs_is_told() -> None:
    front_door = FrontDoor(fleet())
    await front_door.start()
    try:
        now = time.monotonic()
        for name, region in (("us-a/1", "us"), ("eu-a/1", "eu")):
            replica = Replica(name, region, f"{region}-a", frozenset({"m"}), 16, 4000.0, now)
            front_door.door.joined(replica, now)
            front_door.door.told(name, Load(now, 3, 16, kv_held=0.4, kv_tokens=1000), now)
        told = described(front_door)
    finally:
        await front_door.close()
    regions, replicas = told["regions"], told["replicas"]
    assert isinstance(regions, list) and isinstance(replicas, list)
    assert [each["round_trip_seconds"] for each in regions] == [0.0, 0.08, None]
    plain = {"model": "m", "hardware": None, "replicas_on_ray": None}
    assert regions[1]["clusters"] == [{**plain, "name": "eu-a", "engine": "llama.cpp"}]
    on_ray = {"model": "m", "hardware": "h100", "replicas_on_ray": 4}
    assert regions[2]["clusters"] == [{**on_ray, "name": "asia-a", "engine": "ridgeline"}]
    us, eu = replicas
    assert us["kv_told"] and us["kv_held"] == 0.4 and us["kv_tokens"] == 1000
    assert not eu["kv_told"]  # llama.cpp has no such metric
    assert us["places"] < us["slots"] and not us["full"] and us["left_alone_seconds"] is None
    assert us["returns"] == {"sent": 0, "full": 0, "fault": 0}
    assert told["absent"] == [{"id": "us-a/127.0.0.1:9", "region": "us", "cluster": "us-a"}]
    assert told["placements"] == []
    sample = fleet_told.status()
    assert told.keys() == sample.keys()
    assert regions[0]["clusters"][0].keys() == sample["regions"][0]["clusters"][0].keys()
    assert us.keys() == sample["replicas"][0].keys()
