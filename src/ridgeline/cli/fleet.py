"""`ridgeline fleet`: one address before many replicas."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ridgeline.cli.config import Config
from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.joining import FleetToken
from ridgeline.cli.logs import Level
from ridgeline.cli.params import (
    DEFAULT_URL,
    Json,
    Url,
    client_headers,
    no_server,
    option,
    parse_bytes,
    server_url,
)
from ridgeline.cli.serve import read_api_keys

RECORD_BYTES = 64 << 20

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Serve many replicas behind one address.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="fleet.yaml: models, regions, clusters, links.")]


@app.callback()
def _fleet() -> None:
    """Serve many replicas behind one address.

    \b
    Examples:
      ridgeline fleet serve fleet.yaml
      ridgeline fleet status
    """


@app.command("serve")
def serve(
    file: File,
    host: Annotated[
        str,
        option("--host", "Address to listen on; off the loopback --api-key is needed.", metavar="ADDRESS"),
    ] = "127.0.0.1",
    port: Annotated[int, option("--port", "0 takes a free one.", metavar="PORT", min=0, max=65535)] = 8000,
    region: Annotated[
        str | None,
        option("--region", "Where this front door is.", metavar="NAME", show_default="the file's first"),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        option("--api-key", "Key, or NAME=KEY; may be repeated.", metavar="KEY", show_default=False),
    ] = None,
    fleet_token: FleetToken = None,
    data_dir: Annotated[
        Path | None,
        option(
            "--data-dir",
            "Where conversations are kept.",
            metavar="FOLDER",
            show_default="the user's data folder",
        ),
    ] = None,
    database: Annotated[
        Path | None,
        option(
            "--database",
            "File of the conversations; front doors of one machine may share it.",
            metavar="FILE",
            show_default="in --data-dir",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        option(
            "--record",
            "Record all decisions in FILE.0 and FILE.1, for ridgeline rewind.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    record_size: Annotated[
        int | None,
        option(
            "--record-size", "Of both together.", metavar="SIZE", parser=parse_bytes, show_default="64MiB"
        ),
    ] = None,
    drain_seconds: Annotated[
        float, option("--drain-seconds", "Time for running answers when stopping.", metavar="SECONDS", min=0)
    ] = 30.0,
    log_level: Level = "info",
    config: Config = None,
) -> None:
    """Answer for all replicas that the file lists or that register: the API at /v1, a chat page at /.

    Whoever shows --fleet-token may register, see and change replicas; where there are keys but no token,
    nobody may.

    \b
    Examples:
      ridgeline fleet serve fleet.yaml
      ridgeline fleet serve fleet.yaml --region eu-west --port 8080 --api-key "$KEY"
    """
    from ridgeline.api.settings import ApiSettings
    from ridgeline.cli.fleet_server import FleetServing, run

    try:
        api = ApiSettings(host=host, api_keys=read_api_keys(api_key or []))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    run(
        FleetServing(
            file,
            port,
            region,
            api,
            fleet_token,
            data_dir,
            database,
            None if record is None else (record, record_size or RECORD_BYTES),
            drain_seconds,
            log_level,
        )
    )


@app.command("status")
def status(
    url: Url = DEFAULT_URL, token: FleetToken = None, config: Config = None, as_json: Json = False
) -> None:
    """Show the replicas of a running front door.

    \b
    Examples:
      ridgeline fleet status
      ridgeline fleet status --url https://chat.example.com --fleet-token "$TOKEN" --json
    """
    found = _fetch(server_url(url), client_headers(token))
    if as_json:
        import orjson

        typer.echo(orjson.dumps(found).decode())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found['region']}: {found['waiting']} waiting", title_justify="left", box=None)
    for name in ("replica", "region", "models", "state", "batch", "KV held", "told", "faults"):
        right = name in ("batch", "KV held", "told", "faults")
        table.add_column(name, justify="right" if right else "left", no_wrap=name == "replica")
    for each in found["replicas"]:
        state = "left alone" if each["breaker_open"] else each["state"]
        held = "-" if each["kv_held"] is None else f"{each['kv_held']:.0%}"
        told = "-" if each["told_seconds_ago"] is None else f"{each['told_seconds_ago']:.1f} s ago"
        batch = f"{each['running']} of {each['slots']}"
        table.add_row(
            each["id"],
            each["region"],
            ", ".join(each["models"]),
            state,
            batch,
            held,
            told,
            str(each["faults"]),
        )
    Console().print(table)


Replicas = Annotated[
    list[str], typer.Argument(metavar="REPLICA", help="Ids, as ridgeline fleet status shows them.")
]


@app.command("drain")
def drain(
    replicas: Replicas,
    url: Url = DEFAULT_URL,
    token: FleetToken = None,
    wait: Annotated[
        float, option("--wait", "Wait so long for answers to end.", metavar="SECONDS", min=0)
    ] = 60,
    config: Config = None,
) -> None:
    """Send nothing new to replicas, and wait until their answers have ended.

    \b
    Examples:
      ridgeline fleet drain us-east-a/10.0.0.4:8000
    """
    _change("drain", replicas, url, token)
    until = time.monotonic() + wait
    while True:
        found = _fetch(server_url(url), client_headers(token))
        left = sum(each["sent"] for each in found["replicas"] if each["id"] in replicas)
        if not left:
            typer.echo("drained")
            return
        if time.monotonic() >= until:
            raise CommandFailed(f"{left} answers are still being written; nothing new is sent there")
        time.sleep(0.2)


@app.command("cordon")
def cordon(
    replicas: Replicas, url: Url = DEFAULT_URL, token: FleetToken = None, config: Config = None
) -> None:
    """Send nothing new to replicas.

    \b
    Examples:
      ridgeline fleet cordon us-east-a/10.0.0.4:8000 us-east-a/10.0.0.5:8000
    """
    _change("cordon", replicas, url, token)


@app.command("uncordon")
def uncordon(
    replicas: Replicas, url: Url = DEFAULT_URL, token: FleetToken = None, config: Config = None
) -> None:
    """Let replicas have requests again.

    \b
    Examples:
      ridgeline fleet uncordon us-east-a/10.0.0.4:8000
    """
    _change("uncordon", replicas, url, token)


def _change(action: str, replicas: list[str], url: str, token: str | None) -> None:
    _fetch(server_url(url), client_headers(token), {"action": action, "replicas": replicas})


def _fetch(url: str, headers: dict[str, str], wish: dict[str, Any] | None = None) -> Any:
    import asyncio

    from ridgeline.bench.client import ServerError, get_json, new_session, post_json

    async def ask() -> Any:
        async with new_session(10.0, headers) as session:
            if wish is not None:
                return await post_json(session, f"{url}/fleet/replicas", wish)
            return await get_json(session, f"{url}/fleet/status")

    try:
        return asyncio.run(ask())
    except ServerError as error:
        if error.status == 404:
            raise CommandFailed(f"{url} is a server, but no front door: it has no /fleet/status") from error
        if error.status == 400:
            raise CommandFailed(error.message) from error
        raise no_server(url, error) from error
