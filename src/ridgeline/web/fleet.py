"""`/fleet/status`: what the front door knows of its replicas, and why requests went where they did."""

import time

import orjson
from fastapi import APIRouter, Depends
from starlette.responses import Response

from ridgeline.api.auth import authenticate
from ridgeline.fleet.front_door import FrontDoor


def fleet_router(front_door: FrontDoor) -> APIRouter:
    """The routes of one front door; they ask for a key where the API does."""
    router = APIRouter(prefix="/fleet", dependencies=[Depends(authenticate)])

    @router.get("/status")
    async def status() -> Response:
        return Response(orjson.dumps(described(front_door)), media_type="application/json")

    return router


def described(front_door: FrontDoor) -> dict[str, object]:
    """Plain data."""
    now, door = time.monotonic(), front_door.door
    replicas = []
    for replica in door.replicas.values():
        load = replica.load
        replicas.append(
            {
                "id": replica.id,
                "region": replica.region,
                "cluster": replica.cluster,
                "models": sorted(replica.models),
                "state": replica.state,
                "running": replica.running(now),
                "slots": replica.slots,
                "sent": len(replica.sent),
                "kv_held": None if load is None else load.kv_held,
                "told_seconds_ago": None if load is None else now - load.seconds,
                "faults": replica.breaker.faults,
                "breaker_open": not replica.breaker.allows(now),
                "prefill_tokens_per_second": replica.prefill_tokens_per_second,
            }
        )
    return {
        "region": front_door.region,
        "waiting": door.waiting,
        "predicted_less_actual_cached_tokens": door.predicted_less_actual_cached,
        "replicas": replicas,
    }
