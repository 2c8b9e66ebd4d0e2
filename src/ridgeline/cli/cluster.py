"""`ridgeline cluster`: the replicas of a cluster on Ray."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.config import Config
from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.joining import FleetToken
from ridgeline.cli.logs import Level, set_up_logging
from ridgeline.cli.params import Json, option, server_url

if TYPE_CHECKING:
    from ridgeline.fleet.config import Fleet
    from ridgeline.fleet.supervisor import Supervisor, Wish

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keep replicas on a Ray cluster.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="fleet.yaml, as for ridgeline fleet serve.")]
Name = Annotated[str, option("--cluster", "Of the file; it has the key ray.", metavar="NAME")]
Wait = Annotated[float, option("--wait", "Fail if it takes longer.", metavar="SECONDS", min=0)]


@app.callback()
def _cluster() -> None:
    """Keep replicas on a Ray cluster.

    \b
    Examples:
      ridgeline cluster up fleet.yaml --cluster us-east-a --register http://10.0.0.1:8000
      ridgeline cluster status fleet.yaml --cluster us-east-a
    """


@app.command("up")
def up(
    file: File,
    cluster: Name,
    register: Annotated[
        list[str], option("--register", "Front door to belong to; may be repeated.", metavar="URL")
    ],
    fleet_token: FleetToken = None,
    once: Annotated[
        bool, option("--once", "End when all replicas are ready as the file says, and do not look again.")
    ] = False,
    wait: Wait = 600.0,
    log_level: Level = "info",
    config: Config = None,
) -> None:
    """Keep a cluster's replicas as the file says: as many, with these settings, on the machines of its Ray.

    The file is followed. A change of settings reaches one replica after the other, and no request fails.
    Where the Ray cluster is lost, all replicas are placed anew as soon as it is back. When this command
    ends they stay; run again it finds them.

    Run it on a machine of the Ray cluster. Give the token by RIDGELINE_FLEET_TOKEN: others can read a
    command line.

    \b
    Examples:
      ridgeline cluster up fleet.yaml --cluster us-east-a --register http://10.0.0.1:8000
      ridgeline cluster up fleet.yaml --cluster us-east-a --register http://10.0.0.1:8000 --once
    """
    from ridgeline.fleet.supervisor import FollowedFile, keep

    set_up_logging(log_level)
    front_doors = [server_url(url) for url in register]

    def read(fleet: "Fleet") -> "Wish":
        return _checked(fleet, cluster, front_doors, fleet_token)

    leaving = "Ended. The replicas stay; ridgeline cluster down ends them."
    with _supervised(file, cluster, front_doors, fleet_token, leaving) as supervisor:
        follow = FollowedFile(file, supervisor.wish, read)
        if not keep(supervisor, follow, wait if once else None):
            raise CommandFailed(f"not all replicas are ready after {wait:g} s: {_troubles(supervisor)}")


@app.command("down")
def down(
    file: File, cluster: Name, wait: Wait = 120.0, log_level: Level = "info", config: Config = None
) -> None:
    """End a cluster's replicas, each when its answers have ended. End `cluster up` first.

    \b
    Examples:
      ridgeline cluster down fleet.yaml --cluster us-east-a
    """
    from ridgeline.fleet.supervisor import keep

    set_up_logging(log_level)
    with _supervised(file, cluster, [], None) as supervisor:
        wish = supervisor.wish
        supervisor.wish = replace(wish, wanted=replace(wish.wanted, replicas=0))
        if not keep(supervisor, lambda: None, wait):
            raise CommandFailed(f"{len(supervisor.seen)} replicas are still there after {wait:g} s")


@app.command("status")
def status(file: File, cluster: Name, config: Config = None, as_json: Json = False) -> None:
    """Show a cluster's replicas as Ray has them.

    \b
    Examples:
      ridgeline cluster status fleet.yaml --cluster us-east-a --json
    """
    import time

    with _supervised(file, cluster, [], None) as supervisor:
        supervisor.look(time.monotonic())
        found = [
            {
                "place": each.present.place,
                "state": each.present.state,
                "settings": each.present.settings,
                "host": None if each.report is None else each.report.host,
                "url": None if each.report is None else each.report.url or None,
                "pid": None if each.report is None else each.report.pid or None,
                "restarts": None if each.report is None else each.report.restarts,
                "why": None if each.report is None else each.report.why or None,
            }
            for each in sorted(supervisor.seen.values(), key=lambda each: each.present.place)
        ]
        wanted = supervisor.wish.wanted.replicas
    if as_json:
        import orjson

        typer.echo(orjson.dumps({"cluster": cluster, "replicas_wanted": wanted, "replicas": found}).decode())
        return
    from rich.console import Console
    from rich.table import Table

    title = f"{cluster}: {len(found)} of {wanted} replicas"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("place", "state", "url", "process", "restarts", "settings", "last trouble"):
        right = name in ("process", "restarts")
        table.add_column(name, justify="right" if right else "left", no_wrap=name == "url")
    for each in found:
        keys = ("place", "state", "url", "pid", "restarts", "settings", "why")
        table.add_row(*("-" if each[key] is None else str(each[key]) for key in keys))
    Console().print(table)


@contextmanager
def _supervised(
    file: Path, cluster: str, front_doors: list[str], token: str | None, leaving: str = "Interrupted."
) -> "Iterator[Supervisor]":
    """What all commands have in common; every known trouble becomes one sentence."""
    from ridgeline.fleet.config import FleetError, load_fleet
    from ridgeline.fleet.ray_process import RayLost, RayMissing, RayProcess
    from ridgeline.fleet.supervisor import Supervisor

    try:
        wish = _checked(load_fleet(file), cluster, front_doors, token)
    except FleetError as error:
        raise CommandFailed(str(error)) from error
    supervisor = Supervisor(wish, RayProcess)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield supervisor
    except RayMissing as error:
        raise CommandFailed(str(error)) from error
    except RayLost as error:
        raise CommandFailed(f"Ray at {wish.address} does not answer: {error}") from error
    except KeyboardInterrupt:
        typer.echo(leaving, err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
        supervisor.close()


def _checked(fleet: "Fleet", cluster: str, front_doors: list[str], token: str | None) -> "Wish":
    """The wish, whose options `ridgeline serve` will take. Raises FleetError."""
    from ridgeline.cli.serve import check_dtype, serve
    from ridgeline.fleet.config import FleetError
    from ridgeline.fleet.supervisor import wish_of

    wish = wish_of(fleet, cluster, front_doors, token)
    program = typer.Typer(add_completion=False, rich_markup_mode=None)
    program.command()(serve)
    command = typer.main.get_command(program)
    try:
        context = command.make_context("serve", list(wish.settings.arguments))
        check_dtype(context.params["device"], context.params["dtype"])
    except typer.BadParameter as error:
        raise FleetError(f"cluster '{cluster}': serve: {error.format_message()}") from error
    return wish


def _troubles(supervisor: "Supervisor") -> str:
    wanted = supervisor.wish.wanted
    ready = [each for each in supervisor.seen.values() if each.present.state == "ready"]
    told = [
        f"replica {each.present.place} {each.present.state}"
        + (f" ({each.report.why})" if each.report is not None and each.report.why else "")
        for each in supervisor.seen.values()
        if each.present.state != "ready"
    ]
    return "; ".join([f"{len(ready)} of {wanted.replicas} are", *told])
