"""Reads what replicas of ours tell of their caches, where there is something new."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from ridgeline.fleet.core.door import Door
from ridgeline.fleet.upstream import Fault, Upstream

logger = logging.getLogger(__name__)

WHOLE_SECONDS = 300.0
"""After so long all is asked for instead of what is new: no mistake is believed for ever."""


@dataclass(slots=True)
class _Read:
    """How far the log of a replica has been read, and up to where it is known to go."""

    epoch: str = ""
    next: int = 0
    heard: int = 0
    was_busy: bool = True
    whole_seconds: float = 0.0
    tells: bool = True


class Reports:
    """Reads logs into the core.

    Args:
        door: the core.
        session: to ask with.
        clock: the time, in seconds.
    """

    def __init__(
        self, door: Door, session: aiohttp.ClientSession, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._door, self._session, self._clock = door, session, clock
        self._read: dict[str, _Read] = {}

    def heard(self, replica_id: str, number: int) -> None:
        """An answer told how far the replica's log goes."""
        read = self._read.get(replica_id)
        if read is not None:
            read.heard = number

    def forget(self, replica_id: str) -> None:
        """It has come anew, or is gone: the core knows nothing of its cache any more."""
        self._read.pop(replica_id, None)

    async def look(self, replica_id: str, upstream: Upstream) -> None:
        """Read what is new, if there may be anything: something runs there, or did at the last look, or an
        answer told so."""
        replica = self._door.replicas.get(replica_id)
        if replica is None or not upstream.speaks_ridgeline:
            return
        read = self._read.setdefault(replica_id, _Read())
        was_busy, read.was_busy = read.was_busy, bool(replica.sent)
        if not read.tells or not (was_busy or read.was_busy or read.heard > read.next):
            return
        asked = self._clock()
        is_due = asked - read.whole_seconds >= WHOLE_SECONDS
        try:
            report = await upstream.cache_report(
                self._session, "" if is_due or not read.epoch else f"{read.epoch}:{read.next}"
            )
        except Fault as fault:  # the next look tries again; what is broken the look itself finds
            logger.debug("the cache of %s is not known: %s", replica_id, fault)
            return
        if self._read.get(replica_id) is not read:
            return  # it has come anew meanwhile
        if report is None:
            read.tells = False
            return
        read.epoch, read.next, read.heard = report.epoch, report.next, report.next
        if report.whole:
            read.whole_seconds = asked
        if report.whole or report.cached or report.evicted:
            self._door.reported(replica_id, report.cached, report.evicted, report.whole, asked, self._clock())
