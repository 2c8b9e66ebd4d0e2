"""Who belongs to the fleet: the replicas that the file lists, looked at again and again."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from ridgeline.fleet.config import Cluster, Fleet, FleetError, load_fleet
from ridgeline.fleet.core.door import Decision, Door
from ridgeline.fleet.core.replica import Replica
from ridgeline.fleet.upstream import Fault, Upstream

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""From one look at a replica to the next."""

LOOK_PATIENCE_SECONDS = 3.0

MISSES = 3
"""Looks in a row without an answer until a replica is gone. Until then it is sent to: what is busy may
be slow to answer, and the breaker knows better than a look."""

FILE_SECONDS = 1.0
"""From one look at the file to the next."""

FIRST_RATE = 4000.0
"""Prompt tokens per second that a replica is believed to compute, until its answers tell."""


@dataclass(frozen=True, slots=True)
class Member:
    """A replica as the file lists it."""

    id: str
    region: str
    cluster: Cluster
    url: str


def members_of(fleet: Fleet) -> dict[str, Member]:
    """All that the file lists, by id: the cluster's name, and where it answers."""
    found = {}
    for region in fleet.regions:
        for cluster in region.clusters:
            for url in cluster.endpoints:
                member = Member(f"{cluster.name}/{url.split('://')[1]}", region.name, cluster, url)
                found[member.id] = member
    return found


class Membership:
    """Keeps the core's replicas as the file and their answers say. In one event loop.

    Attributes:
        fleet: in force.
        upstreams: by replica.
        contexts: of models in tokens, the least that a replica of it told.
    """

    def __init__(
        self,
        door: Door,
        fleet: Fleet,
        session: aiohttp.ClientSession,
        act: Callable[[Sequence[Decision]], None],
    ) -> None:
        self.fleet = fleet
        self.upstreams: dict[str, Upstream] = {}
        self.contexts: dict[str, int] = {}
        self._door, self._session, self._act = door, session, act
        self._looking: dict[str, tuple[Member, asyncio.Task[None]]] = {}
        self._misses: dict[str, int] = {}
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
        for replica_id, (member, task) in list(self._looking.items()):
            if wanted.get(replica_id) != member:
                task.cancel()
                del self._looking[replica_id]
                logger.info("replica %s is not listed any more", replica_id)
                self._act(self._door.left(replica_id, time.monotonic()))
        for replica_id, member in wanted.items():
            if replica_id not in self._looking:
                self._add(member)
        self.fleet = fleet

    async def follow(self, path: Path) -> None:
        """Read the file again whenever it changes; a wrong one is told and the old one kept."""
        known = _version(path)
        while True:
            await asyncio.sleep(FILE_SECONDS)
            version = _version(path)
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
            cluster.model,
            key,
            speaks_ridgeline=cluster.engine == "ridgeline",
            takes_salt=cluster.engine in ("ridgeline", "vllm"),
        )
        self._looking[member.id] = (member, asyncio.create_task(self._keep_looking(member)))

    async def _keep_looking(self, member: Member) -> None:
        while True:
            if self._started:
                await self._look(member)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, member: Member) -> None:
        cluster, door = member.cluster, self._door
        try:
            async with asyncio.timeout(LOOK_PATIENCE_SECONDS):
                load, context = await self.upstreams[member.id].look(
                    self._session, time.monotonic(), cluster.slots
                )
        except (Fault, TimeoutError) as error:
            self._misses[member.id] = self._misses.get(member.id, 0) + 1
            if member.id in door.replicas and self._misses[member.id] >= MISSES:
                logger.warning("replica %s is gone: %s", member.id, error or "no answer in time")
                self._act(door.left(member.id, time.monotonic()))
            return
        now = time.monotonic()
        if context is not None:
            self.contexts[cluster.model] = min(context, self.contexts.get(cluster.model, context))
        if member.id not in door.replicas:
            logger.info("replica %s is there", member.id)
            # At the start all begin together: nobody is new among others.
            since = now if self._started else float("-inf")
            models = frozenset({cluster.model})
            self._act(
                door.joined(
                    Replica(member.id, member.region, cluster.name, models, load.slots, FIRST_RATE, since),
                    now,
                )
            )
        self._misses[member.id] = 0
        self._act(door.told(member.id, load, now))


def _version(path: Path) -> tuple[int, int] | None:
    """Changes when the file does; None while it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
