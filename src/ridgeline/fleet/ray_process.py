"""Ray in a process of its own: where Ray is lost it may end the process that uses it, or answer no more.

supervisor -- (method, arguments) --> RayCluster
           <-- (answer, error) ------
"""

import contextlib
import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ridgeline.fleet.keeper import Report, Settings

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 15.0
REACH_SECONDS = 3.0

GIVE_UP_SECONDS = "5"
"""A process that cannot reach the head of its Ray cluster for so long ends itself."""


class RayLost(Exception):
    """The Ray cluster is not there, or does not answer; the message says what was seen."""


class RayMissing(Exception):
    """Ray is not installed; the message says how to get it."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a replica takes of its machine."""

    cpus: int
    gpus: int


class RayProcess:
    """A connection to a Ray cluster. `close` it at the end; every method raises RayLost.

    Args:
        address: of the cluster, or `auto`.

    Raises:
        RayMissing: it is not installed.
        RayLost: there is no cluster.
    """

    def __init__(self, address: str) -> None:
        if importlib.util.find_spec("ray") is None:
            raise RayMissing("Ray is not installed here: pip install 'ridgeline[ray]'")
        _reach(address)
        # Not forked: a fresh interpreter has none of this one's threads, and Ray has many.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        talks = logger.isEnabledFor(logging.DEBUG)
        self._process = context.Process(target=_work, args=(theirs, address, talks), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._answer(CONNECT_SECONDS)
        except BaseException:
            self.close()
            raise

    def present(self, prefix: str) -> Mapping[str, Report | None]:
        """See `RayCluster`."""
        found: Mapping[str, Report | None] = self._ask("present", prefix)
        return found

    def start(self, name: str, settings: Settings, needs: Needs) -> None:
        """See `RayCluster`."""
        self._ask("start", name, settings, needs)

    def stop(self, name: str) -> None:
        """See `RayCluster`."""
        self._ask("stop", name)

    def remove(self, name: str) -> None:
        """See `RayCluster`."""
        self._ask("remove", name)

    def close(self) -> None:
        """End the process. Replicas stay."""
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def _ask(self, method: str, *arguments: object) -> Any:
        try:
            self._pipe.send((method, arguments))
        except OSError as error:
            raise RayLost("its connection has ended") from error
        return self._answer(ANSWER_SECONDS)

    def _answer(self, seconds: float) -> Any:
        try:
            if not self._pipe.poll(seconds):
                raise RayLost(f"it did not answer in {seconds:g} s")
            answer, error = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise RayLost("its connection has ended") from error
        if error is not None:
            raise RayLost(error)
        return answer


def _reach(address: str) -> None:
    """Raises RayLost where nobody listens; Ray itself would try that for a quarter of a minute."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RayLost(f"no head of a cluster listens there ({error})") from error


def _work(pipe: Connection, address: str, talks: bool) -> None:
    """Runs in the process, until the other end of the pipe is closed."""
    if not talks:
        # Ray prints pages of its own state whenever it loses something, also at its quietest level.
        with Path(os.devnull).open("w") as nowhere:
            for stream in (1, 2):
                os.dup2(nowhere.fileno(), stream)
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", GIVE_UP_SECONDS)
    # Ctrl-C is for the supervisor, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from ridgeline.fleet.ray_cluster import RayCluster

    try:
        cluster = RayCluster(address)
    except Exception as error:
        pipe.send((None, _sentence(error)))
        return
    pipe.send((None, None))
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, arguments = pipe.recv()
            pipe.send(_called(cluster, method, arguments))


def _called(cluster: object, method: str, arguments: Sequence[object]) -> tuple[object, str | None]:
    try:
        return getattr(cluster, method)(*arguments), None
    except Exception as error:
        return None, _sentence(error)


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
