"""The options by which a replica joins a fleet."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.listen import address_of
from ridgeline.cli.params import option, server_url

if TYPE_CHECKING:
    from ridgeline.fleet.registration import Registration

FLEET_KEY = "fleet"
"""Name under which a replica knows its front doors."""

FleetToken = Annotated[
    str | None,
    option(
        "--fleet-token", "By which a fleet's servers know each other.", metavar="TOKEN", show_default=False
    ),
]


@dataclass(frozen=True, slots=True)
class Joining:
    """Which front doors a replica registers with, and as what; see the options of `serve`."""

    front_doors: tuple[str, ...]
    region: str
    cluster: str
    advertise: str | None
    token: str | None

    def registration(self, listener: socket.socket) -> "Registration":
        """For a replica that listens there. Raises BadParameter where no address is known."""
        from ridgeline.fleet.registration import Place, Registration

        url = self.advertise
        if url is None:
            host = listener.getsockname()[0]
            if host in ("0.0.0.0", "::"):
                raise typer.BadParameter(
                    "--register needs --advertise URL where --host is every address: by which one is this "
                    "replica reached?"
                )
            url = address_of(listener)
        return Registration(self.front_doors, Place(url, self.region, self.cluster), self.token)


def joining_of(
    register: Sequence[str] | None,
    region: str | None,
    cluster: str | None,
    advertise: str | None,
    token: str | None,
) -> Joining | None:
    """What the options say together; None for a replica of its own. Raises BadParameter."""
    if not register:
        for name, value in (("--region", region), ("--cluster", cluster), ("--advertise", advertise)):
            if value is not None:
                raise typer.BadParameter(f"{name} is for a replica that joins a fleet, with --register URL")
        return None
    if region is None or cluster is None:
        raise typer.BadParameter("--register needs --region and --cluster: where in the fleet is it?")
    urls = tuple(server_url(url) for url in register)
    return Joining(urls, region, cluster, None if advertise is None else server_url(advertise), token)


def with_fleet_key(keys: Mapping[str, str], joining: Joining | None) -> dict[str, str]:
    """A server that asks for keys takes its fleet's token as one."""
    if not keys or joining is None or not joining.token:
        return dict(keys)
    return {**keys, FLEET_KEY: joining.token}
