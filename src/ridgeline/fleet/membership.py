"""Who belongs to the fleet: replicas that the file lists and those that hold a lease, looked at again and
again."""

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from pydantic import ValidationError

from ridgeline.fleet.config import Cluster, Fleet, FleetError, load_fleet, version_of
from ridgeline.fleet.core.decisions import Decision
from ridgeline.fleet.core.door import Door
from ridgeline.fleet.core.rates import first_rate
from ridgeline.fleet.core.replica import Replica
from ridgeline.fleet.engines import load_of, started_of
from ridgeline.fleet.reports import Reports
from ridgeline.fleet.upstream import Fault, Upstream
from ridgeline.protocol import Refusal

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""From one look at a replica to the next."""

LOOK_PATIENCE_SECONDS = 3.0

MISSES = 3
"""Looks in a row without an answer until a replica is gone. Until then it is sent to: what is busy may
be slow to answer, and the breaker knows better than a look."""

MODELS_SECONDS = 30.0
"""From one look at what it serves to the next: that changes when it starts anew."""

LEASE_SECONDS = 10.0
"""A replica that registered itself belongs to the fleet for so long, and renews it thrice in that time."""

MOST_LEASES = 10_000

FILE_SECONDS = 1.0
"""From one look at the file to the next."""


@dataclass(frozen=True, slots=True)
class Member:
    """A replica as the file lists it, or as it registered itself."""

    id: str
    region: str
    cluster: Cluster
    url: str
    leased: bool = False


def members_of(fleet: Fleet) -> dict[str, Member]:
    """All that the file lists, by id: the cluster's name, and where it answers."""
    found = {}
    for region in fleet.regions:
        for cluster in region.clusters:
            for url in cluster.endpoints:
                member = Member(_id(cluster, url), region.name, cluster, url)
                found[member.id] = member
    return found


class Membership:
    """Keeps the core's replicas as the file, the leases and their answers say. In one event loop.

    Args:
        door: the core.
        fleet: of the file.
        session: to ask replicas with.
        act: what to do with the core's decisions.
        token: that replicas with a lease are shown.

    Attributes:
        fleet: in force.
        upstreams: by replica.
        contexts: of models in tokens, the least that a replica of it told.
        missing: metrics by replica that ought to be there and are not.
        reports: reads what replicas tell of their caches.
    """

    def __init__(
        self,
        door: Door,
        fleet: Fleet,
        session: aiohttp.ClientSession,
        act: Callable[[Sequence[Decision]], None],
        token: str | None = None,
    ) -> None:
        self.fleet = fleet
        self.upstreams: dict[str, Upstream] = {}
        self.contexts: dict[str, int] = {}
        self.missing: dict[str, tuple[str, ...]] = {}
        self.reports = Reports(door, session)
        self._door, self._session, self._act, self._token = door, session, act, token
        self._looking: dict[str, tuple[Member, asyncio.Task[None]]] = {}
        self._leases: dict[str, float] = {}
        self._misses: dict[str, int] = {}
        self._models_seconds: dict[str, float] = {}
        self._process_began: dict[str, float | None] = {}
        self._started = False

    async def start(self) -> None:
        """Look at all once, then go on looking."""
        for member in members_of(self.fleet).values():
            self._add(member)
        await asyncio.gather(*(self._look(member) for member, _ in self._looking.values()))
        self._started = True

    async def close(self) -> None:
        """Look no more."""
        tasks = [task for _, task in self._looking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def apply(self, fleet: Fleet) -> None:
        """The file has changed. Who is not in it any more ends what it is at, and gets nothing new."""
        wanted = members_of(fleet)
        clusters = {(region.name, each.name): each for region in fleet.regions for each in region.clusters}
        for replica_id, (member, _) in self._looking.items():
            cluster = clusters.get((member.region, member.cluster.name))
            if member.leased and cluster is not None and cluster.asked == member.cluster.asked:
                wanted.setdefault(replica_id, member)
        for replica_id, (member, _) in list(self._looking.items()):
            if wanted.get(replica_id) != member:
                self._remove(replica_id, "is not listed any more")
        for replica_id, member in wanted.items():
            if replica_id not in self._looking:
                self._add(member)
        self.fleet = fleet

    def lease(self, url: str, region: str, cluster: str) -> float:
        """A replica registers itself, or renews that: seconds that it belongs to the fleet for.

        Raises:
            Refusal: the file has no such cluster there, or the address is none.
        """
        found = self._cluster(region, cluster)
        try:
            checked_cluster = Cluster.model_validate(
                {"name": cluster, "model": found.model, "endpoints": (url,)}
            )
            (checked,) = checked_cluster.endpoints
        except ValidationError:
            raise Refusal(
                "invalid_request", f"{url[:200]!r} is no address of http or https.", param="url"
            ) from None
        member = Member(_id(found, checked), region, found, checked, leased=True)
        known = self._looking.get(member.id)
        if known is None:
            if len(self._leases) >= MOST_LEASES:
                raise Refusal("limit_reached", f"There are {MOST_LEASES} leases, the most there may be.")
            self._add(member)
        if known is None or known[0].leased:
            self._leases[member.id] = time.monotonic() + LEASE_SECONDS
        return LEASE_SECONDS

    def give_back(self, url: str, region: str, cluster: str) -> None:
        """A replica gives its lease back, for it ends: nothing new is sent there."""
        replica_id = _id(self._cluster(region, cluster), url)
        if replica_id in self._leases:
            self._remove(replica_id, "gave its lease back")

    def _cluster(self, region: str, cluster: str) -> Cluster:
        for each in self.fleet.regions:
            if each.name == region:
                for found in each.clusters:
                    if found.name == cluster:
                        return found
                there = ", ".join(found.name for found in each.clusters) or "none"
                raise Refusal(
                    "invalid_request",
                    f"The region {region} has no cluster {cluster[:100]!r}; it has: {there}.",
                    param="cluster",
                )
        there = ", ".join(each.name for each in self.fleet.regions)
        raise Refusal(
            "invalid_request", f"There is no region {region[:100]!r}; there are: {there}.", param="region"
        )

    def _remove(self, replica_id: str, why: str) -> None:
        _, task = self._looking.pop(replica_id)
        task.cancel()
        self._leases.pop(replica_id, None)
        self.missing.pop(replica_id, None)
        self.reports.forget(replica_id)
        self._models_seconds.pop(replica_id, None)
        logger.info("replica %s %s", replica_id, why)
        self._act(self._door.left(replica_id, time.monotonic()))

    async def follow(self, path: Path) -> None:
        """Read the file again whenever it changes; a wrong one is told and the old one kept."""
        known = version_of(path)
        while True:
            await asyncio.sleep(FILE_SECONDS)
            version = version_of(path)
            if version == known or version is None:
                continue
            known = version
            try:
                fleet = await asyncio.to_thread(load_fleet, path)
            except FleetError as error:
                logger.error("%s; the fleet stays as it was", error)
                continue
            self.apply(fleet)
            logger.info("%s was read again", path)

    def _add(self, member: Member) -> None:
        cluster = member.cluster
        key = os.environ.get(cluster.api_key_env) if cluster.api_key_env else None
        self.upstreams[member.id] = Upstream(
            member.url,
            cluster.served_as or cluster.model,
            self._token if member.leased and key is None else key,
            speaks_ridgeline=cluster.engine == "ridgeline",
            takes_salt=cluster.engine in ("ridgeline", "vllm"),
        )
        self._looking[member.id] = (member, asyncio.create_task(self._keep_looking(member)))

    async def _keep_looking(self, member: Member) -> None:
        while True:
            if self._started:
                await self._look(member)
            await asyncio.sleep(LOOK_SECONDS)
            if self._leases.get(member.id, math.inf) < time.monotonic():
                self._remove(member.id, "did not renew its lease")

    async def _look(self, member: Member) -> None:
        upstream, now = self.upstreams[member.id], time.monotonic()
        try:
            async with asyncio.timeout(LOOK_PATIENCE_SECONDS):
                text = await upstream.metrics(self._session)
                if now - self._models_seconds.get(member.id, -math.inf) >= MODELS_SECONDS:
                    self._know_context(member, await upstream.context(self._session))
                    self._models_seconds[member.id] = now
        except (Fault, TimeoutError) as error:
            self._missed(member, str(error) or "no answer in time")
            return
        cluster = member.cluster
        load, missing = load_of(cluster.engine, text, now, cluster.slots)
        self._alarm(member, missing)
        self._misses[member.id] = 0
        began = started_of(text)
        if member.id not in self._door.replicas or began != self._process_began.get(member.id):
            self._process_began[member.id] = began
            self._join(member, cluster.slots if load is None else load.slots)
        if load is not None:
            self._act(self._door.told(member.id, load, time.monotonic()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_PATIENCE_SECONDS):
                await self.reports.look(member.id, upstream)

    def _join(self, member: Member, slots: int) -> None:
        logger.info("replica %s is there", member.id)
        self.reports.forget(member.id)
        now = time.monotonic()
        # At the start all begin together: nobody is new among others.
        since = now if self._started else -math.inf
        cluster = member.cluster
        models = frozenset({cluster.model})
        rate = first_rate(cluster.model, cluster.hardware)
        replica = Replica(member.id, member.region, cluster.name, models, slots, rate, since)
        self._act(self._door.joined(replica, now))

    def _know_context(self, member: Member, context: int | None) -> None:
        model = member.cluster.model
        if context is not None:
            self.contexts[model] = min(context, self.contexts.get(model, context))

    def _alarm(self, member: Member, missing: tuple[str, ...]) -> None:
        """A metric that is not there is told, once: a load that nobody sees is not a load of zero."""
        if missing and self.missing.get(member.id) != missing:
            logger.error(
                "replica %s (%s) does not tell %s: its load is known from what was sent there alone",
                *(member.id, member.cluster.engine, ", ".join(missing)),
            )
        self.missing[member.id] = missing

    def _missed(self, member: Member, why: str) -> None:
        self._misses[member.id] = self._misses.get(member.id, 0) + 1
        if member.id in self._door.replicas and self._misses[member.id] >= MISSES:
            logger.warning("replica %s is gone: %s", member.id, why)
            self._models_seconds.pop(member.id, None)
            self._act(self._door.left(member.id, time.monotonic()))


def _id(cluster: Cluster, url: str) -> str:
    """The cluster's name, and where it answers."""
    return f"{cluster.name}/{url.rstrip('/').removesuffix('/v1').partition('://')[2]}"
