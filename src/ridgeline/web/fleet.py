"""`/fleet/status`: what the front door knows of its replicas; `/fleet/replicas` changes their state;
`/fleet/lease` is where replicas register themselves."""

import hmac
import time
from dataclasses import dataclass

import orjson
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from ridgeline.fleet.front_door import FrontDoor
from ridgeline.protocol import Refusal

_STATES = {"cordon": "cordoned", "drain": "draining", "uncordon": "up"}


def fleet_router(front_door: FrontDoor, token: str | None) -> APIRouter:
    """The routes of one front door.

    Args:
        front_door: whose.
        token: who shows it may use them; None: everybody; empty: nobody.
    """

    def operator(request: Request) -> None:
        shown = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token is not None and not (token and hmac.compare_digest(shown.encode(), token.encode())):
            raise Refusal("forbidden", "This is for those who know the fleet's token (--fleet-token).")

    router = APIRouter(prefix="/fleet", dependencies=[Depends(operator)])

    @router.get("/status")
    async def status() -> Response:
        return Response(orjson.dumps(described(front_door)), media_type="application/json")

    @router.post("/replicas")
    async def change(request: Request) -> Response:
        wish = _wish(await request.body())
        front_door.set_state(wish.replicas, _STATES[wish.action])
        return Response(orjson.dumps(described(front_door)), media_type="application/json")

    @router.post("/lease")
    async def lease(request: Request) -> Response:
        place = _place(await request.body())
        seconds = front_door.members.lease(place.url, place.region, place.cluster)
        return Response(orjson.dumps({"lease_seconds": seconds}), media_type="application/json")

    @router.delete("/lease")
    async def give_back(request: Request) -> Response:
        place = _place(await request.body())
        front_door.members.give_back(place.url, place.region, place.cluster)
        return Response(orjson.dumps({}), media_type="application/json")

    return router


@dataclass(frozen=True, slots=True)
class _Place:
    url: str
    region: str
    cluster: str


def _place(body: bytes) -> _Place:
    """`{"url": "http://10.0.0.4:8000", "region": "us-east", "cluster": "us-east-a"}`; raises Refusal."""
    try:
        found = orjson.loads(body)
        place = _Place(found["url"], found["region"], found["cluster"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        place = None
    if place is None or not all(isinstance(each, str) for each in (place.url, place.region, place.cluster)):
        raise Refusal("invalid_request", "The body must be JSON with `url`, `region` and `cluster`.")
    return place


@dataclass(frozen=True, slots=True)
class _Wish:
    action: str
    replicas: list[str]


def _wish(body: bytes) -> _Wish:
    """`{"action": "cordon", "replicas": ["a/10.0.0.4:8000"]}`; raises Refusal."""
    try:
        found = orjson.loads(body)
        action, replicas = found["action"], found["replicas"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise Refusal("invalid_request", "The body must be JSON with `action` and `replicas`.") from None
    if action not in _STATES:
        raise Refusal(
            "invalid_request",
            f"`action` must be one of {', '.join(_STATES)}, not {action!r}.",
            param="action",
        )
    if not isinstance(replicas, list) or not replicas or not all(isinstance(each, str) for each in replicas):
        raise Refusal("invalid_request", "`replicas` must be a list of ids.", param="replicas")
    return _Wish(action, replicas)


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
                "running": replica.running,
                "slots": replica.slots,
                "sent": len(replica.sent),
                "kv_held": None if load is None else load.kv_held,
                "told_seconds_ago": None if load is None else now - load.seconds,
                "faults": replica.breaker.faults,
                "breaker_open": not replica.breaker.allows(now),
                "missing_metrics": front_door.members.missing.get(replica.id, ()),
                "prefill_tokens_per_second": replica.prefill_tokens_per_second,
            }
        )
    return {
        "region": front_door.region,
        "waiting": door.waiting,
        "predicted_less_actual_cached_tokens": door.predicted_less_actual_cached,
        "replicas": replicas,
    }
