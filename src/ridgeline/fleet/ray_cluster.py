"""A Ray cluster as the supervisor uses it. The only file that imports Ray; run in a process of its own.

A replica is a detached actor that keeps one `ridgeline serve` on its machine. Ray places it, starts it
again when it or its machine is lost, and gives it its GPU.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import ray
import ray.exceptions
import ray.util

from ridgeline.fleet.keeper import Keeper, Report, Settings
from ridgeline.fleet.ray_process import Needs

NAMESPACE = "ridgeline"

ANSWER_SECONDS = 2.0
"""Replicas may take so long to say how they are, all together."""


class _Actor(Keeper):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, ray.util.get_node_ip_address())


class RayCluster:
    """See `RayProcess`, which runs this elsewhere.

    Raises:
        ConnectionError: no Ray cluster is at that address, or this machine is not in it.
    """

    def __init__(self, address: str) -> None:
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="ERROR",
        )
        self._asked: dict[str, Any] = {}

    def present(self, prefix: str) -> Mapping[str, Report | None]:
        """Replicas whose names begin so; None for one that does not say how it is."""
        names = [name for name in ray.util.list_named_actors() if name.startswith(prefix)]
        for name in names:
            if name not in self._asked:
                with contextlib.suppress(ValueError):  # it has gone since
                    self._asked[name] = ray.get_actor(name).report.remote()
        asked = {name: ref for name, ref in self._asked.items() if name.startswith(prefix)}
        refs = list(asked.values())
        answered = set(ray.wait(refs, num_returns=len(refs), timeout=ANSWER_SECONDS)[0]) if refs else set()
        # Who has not answered is not asked again, but looked at again.
        self._asked = {name: ref for name, ref in self._asked.items() if ref not in answered}
        told = {name: _report_of(ref) if ref in answered else None for name, ref in asked.items()}
        # One that is not there any more is told once, with what Ray knows of its end.
        return {name: report for name, report in told.items() if name in names or report is not None}

    def start(self, name: str, settings: Settings, needs: Needs) -> None:
        """Place a replica, unless one of that name is there. Does not wait for it."""
        actor = ray.remote(_Actor).options(  # type: ignore[no-untyped-call, unused-ignore]
            name=name,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            scheduling_strategy="SPREAD",
        )
        # What becomes of it is known by this question also where it cannot even begin.
        self._asked[name] = actor.remote(settings).report.remote()

    def stop(self, name: str) -> None:
        """Let it end its answers, and then itself. Does not wait for it."""
        with contextlib.suppress(ValueError):
            ray.get_actor(name).stop.remote()

    def remove(self, name: str) -> None:
        """Take it away, whatever it is at."""
        self._asked.pop(name, None)
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(name), no_restart=True)


def _report_of(ref: Any) -> Report | None:
    try:
        found: Report = ray.get(ref)
    except ray.exceptions.ActorDiedError as error:
        return Report("ended", "", why=_last_line(str(error)))
    except ray.exceptions.RayError:
        return None  # its machine is lost, or it is being started again
    return found


def _last_line(text: str) -> str:
    return [line.strip() for line in text.splitlines() if line.strip()][-1][:300] if text.strip() else ""
