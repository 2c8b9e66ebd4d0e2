"""`/fleet/status`: what the front door knows of its replicas; `/fleet/replicas` changes their state;
`/fleet/lease` is where replicas register themselves."""

import hmac
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import orjson
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from ridgeline.fleet.core.replica import Replica
from ridgeline.fleet.engines import NAMES
from ridgeline.fleet.front_door import FrontDoor
from ridgeline.fleet.lately import Returns
from ridgeline.fleet.membership import members_of
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
    now, door, lately = time.monotonic(), front_door.door, front_door.lately
    span, came, refused = lately.last_minute(now)
    return {
        "region": front_door.region,
        "waiting": door.waiting,
        "predicted_less_actual_cached_tokens": door.predicted_less_actual_cached,
        "cached_tokens": asdict(lately.cached),
        "last_minute": {"seconds": span, "requests": came, "refused": refused},
        "regions": _regions(front_door),
        "replicas": [_replica(front_door, each, now) for each in door.replicas.values()],
        "absent": [
            {"id": member.id, "region": member.region, "cluster": member.cluster.name}
            for member in members_of(front_door.fleet).values()
            if member.id not in door.replicas
        ],
        "placements": [asdict(each) for each in reversed(lately.placements)],
    }


def _regions(front_door: FrontDoor) -> list[dict[str, object]]:
    """As the file lists them; the round trip is None where it says nothing of it."""
    fleet, here = front_door.fleet, front_door.region
    round_trips = fleet.round_trips()
    found: list[dict[str, object]] = []
    for region in fleet.regions:
        first, second = sorted((region.name, here))
        found.append(
            {
                "name": region.name,
                "round_trip_seconds": 0.0 if region.name == here else round_trips.get((first, second)),
                "clusters": [
                    {
                        "name": each.name,
                        "model": each.model,
                        "engine": each.engine,
                        "hardware": each.hardware,
                        "replicas_on_ray": None if each.ray is None else each.replicas,
                    }
                    for each in region.clusters
                ],
            }
        )
    return found


def _replica(front_door: FrontDoor, replica: Replica, now: float) -> dict[str, object]:
    load, breaker = replica.load, replica.breaker
    missing = front_door.members.missing.get(replica.id, ())
    left_alone = not breaker.allows(now)
    return {
        "id": replica.id,
        "region": replica.region,
        "cluster": replica.cluster,
        "models": sorted(replica.models),
        "state": replica.state,
        "running": replica.running,
        "slots": replica.slots,
        "places": replica.places(now),
        "sent": len(replica.sent),
        "kv_held": None if load is None else load.kv_held,
        "kv_told": load is not None and _tells_kv(front_door, replica.cluster, missing),
        "kv_tokens": None if load is None else load.kv_tokens or None,
        "told_seconds_ago": None if load is None else now - load.seconds,
        "faults": breaker.faults,
        "breaker_open": left_alone,
        "left_alone_seconds": max(0.0, breaker.open_until - now) if left_alone else None,
        "full": replica.full_until > now,
        "returns": asdict(front_door.lately.returns.get(replica.id, Returns())),
        "missing_metrics": missing,
        "prefill_tokens_per_second": replica.prefill_tokens_per_second,
    }


def _tells_kv(front_door: FrontDoor, cluster: str, missing: Sequence[str]) -> bool:
    """Whether its kind of server tells how much KV is held, and it does."""
    engines = {each.name: each.engine for region in front_door.fleet.regions for each in region.clusters}
    names = NAMES[engines.get(cluster, "openai")].kv_held
    return bool(names) and names[0] not in missing
