"""Keeps the replicas of one cluster on Ray as fleet.yaml says: looks, decides, acts, every second.

What it knows it sees anew each time, so that it can end and begin again whenever it likes, and so that a
Ray cluster that is destroyed and built anew gets its replicas with no other step.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ridgeline.fleet.config import Cluster, Fleet, FleetError, load_fleet, version_of
from ridgeline.fleet.core.placing import Present, Remove, Start, Stop, Wanted, decide, is_done, pause_seconds
from ridgeline.fleet.keeper import Report, Settings
from ridgeline.fleet.ray_process import Needs, RayLost

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""From one look at the replicas, and at the file, to the next."""

AGAIN_SECONDS = 2.0
"""After a Ray cluster could not be reached."""

DRAIN_SECONDS = 30.0
"""Of `ridgeline serve`, where the file says nothing else."""

MARK = "#"
"""Between the parts of a replica's name on Ray; in no cluster's name."""


class Ray(Protocol):
    """A connection to a Ray cluster; see `RayProcess`."""

    def present(self, prefix: str) -> Mapping[str, Report | None]:
        """See `RayCluster`."""
        ...

    def start(self, name: str, settings: Settings, needs: Needs) -> None:
        """See `RayCluster`."""
        ...

    def stop(self, name: str) -> None:
        """See `RayCluster`."""
        ...

    def remove(self, name: str) -> None:
        """See `RayCluster`."""
        ...

    def close(self) -> None:
        """Give it up; replicas stay."""
        ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What the file wants of one cluster.

    Attributes:
        cluster: its name.
        address: of the Ray cluster.
        wanted: how many replicas, with which settings.
        settings: theirs, but for the folder, which each has of its own.
        needs: what each takes of its machine.
    """

    cluster: str
    address: str
    wanted: Wanted
    settings: Settings
    needs: Needs

    def name(self, place: int, settings: str) -> str:
        """Of a replica on Ray: its settings are known also while it does not answer."""
        return f"{self.cluster}{MARK}{place}{MARK}{settings}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A replica, and what it said of itself; None while it does not answer."""

    present: Present
    report: Report | None


def wish_of(fleet: Fleet, cluster: str, front_doors: Sequence[str], token: str | None) -> Wish:
    """What a file says of one of its clusters.

    Raises:
        FleetError: there is none of that name, or it is not on Ray.
    """
    there = {each.name: (region.name, each) for region in fleet.regions for each in region.clusters}
    if cluster not in there:
        raise FleetError(f"there is no cluster '{cluster}'; there are: {', '.join(there) or 'none'}")
    region, entry = there[cluster]
    if entry.ray is None:
        on_ray = ", ".join(name for name, (_, each) in there.items() if each.ray is not None)
        raise FleetError(
            f"cluster '{cluster}' is not placed by Ray: it lacks the key ray, which {on_ray or 'none'} has"
        )
    joining = [part for url in front_doors for part in ("--register", url)]
    arguments = (*serve_arguments(entry), *joining, "--region", region, "--cluster", cluster)
    data_dir, drain = entry.serve.get("data-dir"), entry.serve.get("drain-seconds", DRAIN_SECONDS)
    settings = Settings(arguments, None if data_dir is None else str(data_dir), "", float(str(drain)), token)
    gpus = int(entry.device == "cuda")
    threads = entry.serve.get("threads", 1) if entry.device == "cpu" else 1
    needs = Needs(int(str(threads)), gpus)
    return Wish(cluster, entry.ray, Wanted(entry.replicas, _digest(settings, needs)), settings, needs)


def serve_arguments(cluster: Cluster) -> tuple[str, ...]:
    """What a cluster's replicas are told on the command line of `ridgeline serve`."""
    options = {"device": cluster.device, **cluster.serve}
    source, made_up = options.pop("model", None), options.get("random-weights")
    options.pop("data-dir", None)
    name = cluster.served_as or cluster.model
    arguments = []
    if made_up is None:
        source = source or cluster.model
        arguments.append(name if name == source else f"{name}={source}")
    for key, value in options.items():
        if isinstance(value, bool):
            arguments += [f"--{key}"] if value else []
        else:
            values = value if isinstance(value, tuple) else (value,)
            arguments += [part for each in values for part in (f"--{key}", str(each))]
    return tuple(arguments)


def _digest(settings: Settings, needs: Needs) -> str:
    told = [settings.arguments, settings.data_dir, settings.token, needs.cpus, needs.gpus]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]


class Supervisor:
    """Brings a cluster to what is wished, one look after the other.

    Args:
        wish: to begin with.
        connect: to the Ray cluster at an address; raises RayLost.

    Attributes:
        wish: may be changed at any time; its address may not.
        seen: the replicas at the last look.
    """

    def __init__(self, wish: Wish, connect: Callable[[str], Ray]) -> None:
        self.wish = wish
        self.seen: dict[str, Seen] = {}
        self._connect = connect
        self._ray: Ray | None = None
        self._starts: dict[int, tuple[int, float]] = {}  # by place: in a row in vain, and when is the next

    def look(self, now: float) -> None:
        """See which replicas are there. Raises RayLost."""
        try:
            if self._ray is None:
                self._ray = self._connect(self.wish.address)
            told = self._ray.present(f"{self.wish.cluster}{MARK}")
        except RayLost:
            self.close()
            raise
        before, self.seen = self.seen, {}
        for name, report in told.items():
            _, place, settings = name.split(MARK)
            state = "silent" if report is None else report.state
            known = before.get(name)
            since = known.present.since if known is not None and known.present.state == state else now
            self.seen[name] = Seen(Present(int(place), settings, state, since), report)
            if state == "ready":
                self._starts.pop(int(place), None)
            self._tell(known, self.seen[name])
        for name in before.keys() - self.seen.keys():
            logger.info("%s is gone", self._label(before[name].present))

    def act(self, now: float) -> None:
        """Take the next steps towards what is wished. Raises RayLost."""
        assert self._ray is not None, "look first"
        wish = self.wish
        try:
            for action in decide(wish.wanted, [each.present for each in self.seen.values()], now):
                match action:
                    case Start(place) if self._may_start(place, now):
                        folder = f"{wish.cluster.replace('/', '_')}-{place}"
                        settings = replace(wish.settings, folder=folder)
                        self._ray.start(wish.name(place, wish.wanted.settings), settings, wish.needs)
                    case Stop(present):
                        self._ray.stop(wish.name(present.place, present.settings))
                    case Remove(present):
                        self._ray.remove(wish.name(present.place, present.settings))
        except RayLost:
            self.close()
            raise

    def _may_start(self, place: int, now: float) -> bool:
        """What ends as soon as it is placed is placed again after pauses that grow."""
        times, until = self._starts.get(place, (0, now))
        if now < until:
            return False
        self._starts[place] = times + 1, now + pause_seconds(times + 1)
        return True

    def is_done(self, now: float) -> bool:
        """Whether all was as wished at the last look."""
        return is_done(self.wish.wanted, [each.present for each in self.seen.values()], now)

    def close(self) -> None:
        """Give the connection up; replicas stay."""
        if self._ray is not None:
            self._ray.close()
        self._ray, self.seen = None, {}

    def _label(self, present: Present) -> str:
        wanted = self.wish.wanted
        outdated = present.place < wanted.replicas and present.settings != wanted.settings
        old = " with its old settings" if outdated else ""
        return f"replica {present.place} of {self.wish.cluster}{old}"

    def _tell(self, before: Seen | None, now: Seen) -> None:
        report, state = now.report, now.present.state
        if before is not None and before.report is not None and report is not None:
            if report.restarts > before.report.restarts:
                logger.error("%s: %s; it is started again", self._label(now.present), report.why)
            if state == before.present.state and report.url == before.report.url:
                return
        elif before is not None and state == before.present.state:
            return
        match state:
            case "silent":
                logger.info("%s is being placed, or waits for room", self._label(now.present))
            case "ready" if report is not None:
                logger.info("%s is ready at %s", self._label(now.present), report.url)
            case "ended" if report is not None and report.why:
                logger.error("%s has ended: %s", self._label(now.present), report.why)
            case _:
                logger.info("%s is %s", self._label(now.present), state)


def keep(supervisor: Supervisor, wish_now: Callable[[], Wish | None], until_done: float | None) -> bool:
    """Keep a cluster as wished.

    Args:
        supervisor: of the cluster.
        wish_now: the wish where it has changed since it was asked last, else None.
        until_done: seconds, within which all is to be as wished; then the work is done. None: for ever,
            over all losses of Ray.

    Returns:
        Whether all is as wished.

    Raises:
        RayLost: with `until_done`, for who waits for the end wants to know.
    """
    end = None if until_done is None else time.monotonic() + until_done
    lost = ""
    while True:
        try:
            supervisor.look(time.monotonic())
            if lost:
                logger.info("Ray at %s is there", supervisor.wish.address)
                lost = ""
            wish = wish_now()
            if wish is not None:
                supervisor.wish = wish
            now = time.monotonic()
            if end is not None and supervisor.is_done(now):
                return True
            supervisor.act(now)
        except RayLost as error:
            if end is not None:
                raise
            if not lost:
                logger.error("Ray at %s is lost, and is tried again: %s", supervisor.wish.address, error)
            lost = str(error)
            time.sleep(AGAIN_SECONDS)
            continue
        if end is not None and time.monotonic() >= end:
            return False
        time.sleep(LOOK_SECONDS)


class FollowedFile:
    """The wish that a file holds, again whenever the file changes; a wrong one is told and the old one kept.

    Args:
        path: of the file.
        wish: as it was read.
        read: makes the wish of a fleet; raises FleetError.
    """

    def __init__(self, path: Path, wish: Wish, read: Callable[[Fleet], Wish]) -> None:
        self._path, self._wish, self._read = path, wish, read
        self._version = version_of(path)

    def __call__(self) -> Wish | None:
        """See `keep`."""
        found = version_of(self._path)
        if found is None or found == self._version:
            return None
        self._version = found
        try:
            wish = self._read(load_fleet(self._path))
            if wish.address != self._wish.address:
                raise FleetError(f"ray was {self._wish.address}: end this command before that is changed")
        except FleetError as error:
            logger.error("%s; the cluster stays as it was", error)
            return None
        self._wish = wish
        logger.info("%s was read again", self._path)
        return wish
