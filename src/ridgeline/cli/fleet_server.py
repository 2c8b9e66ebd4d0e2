"""Put a front door, the API and the chat page together in one process, and run it."""

import asyncio
import gc
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

import ridgeline
from ridgeline.api.settings import ApiSettings
from ridgeline.cli.data_dir import claim
from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.listen import address_of, bind, listen_failure
from ridgeline.cli.logs import set_up_logging
from ridgeline.fleet.config import FleetError, load_fleet
from ridgeline.fleet.front_door import FrontDoor
from ridgeline.fleet.ring import record
from ridgeline.protocol import Refusal
from ridgeline.store.errors import StoreError

if TYPE_CHECKING:
    from fastapi import FastAPI

DATABASE = "conversations.db"


@dataclass(frozen=True, slots=True)
class FleetServing:
    """All that `fleet serve` was asked for."""

    file: Path
    port: int
    region: str | None
    api: ApiSettings
    fleet_token: str | None
    data_dir: Path | None
    database: Path | None
    record: tuple[Path, int] | None
    drain_seconds: float
    log_level: str


def run(serving: FleetServing) -> None:
    """Serve until a signal ends it. Raises `CommandFailed`."""
    set_up_logging(serving.log_level)
    gc.disable()  # what is imported and built now stays: looking through it for garbage is in vain
    try:
        front_door = FrontDoor(load_fleet(serving.file), serving.region, serving.file, serving.fleet_token)
    except FleetError as error:
        raise CommandFailed(str(error)) from error
    except Refusal as refusal:
        raise CommandFailed(f"--region: {refusal.message}") from refusal
    if serving.record is not None:
        try:
            record(front_door.door, *serving.record)
        except OSError as error:
            raise CommandFailed(f"--record: cannot write {serving.record[0]}: {error.strerror}") from error
    listener = bind(serving.api.host, serving.port)
    data_dir = claim(serving.data_dir)
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_answer(serving, front_door, listener, data_dir))
    except StoreError as error:
        raise CommandFailed(str(error)) from error
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        raise typer.Exit(130) from None
    typer.echo("Ended.", err=True)


async def _answer(
    serving: FleetServing, front_door: FrontDoor, listener: socket.socket, data_dir: Path
) -> None:
    from ridgeline.cli.http_server import DrainingServer

    app = await _app(serving, front_door, data_dir)

    def ready() -> None:
        replicas = len(front_door.door.replicas)
        models = ", ".join(model.name for model in front_door.models())
        address = address_of(listener)
        typer.echo(
            f"Ridgeline {ridgeline.__version__} serves {models} from {front_door.region}, "
            f"{replicas} replicas are there.\n\n"
            f"  Chat in the browser   {address}/\n"
            f"  OpenAI-compatible     {address}/v1\n"
            f"  The fleet             {address}/fleet, or: ridgeline fleet status --url {address}\n\n"
            "Ctrl-C ends it."
        )
        sys.stdout.flush()

    server = DrainingServer(
        app,
        front_door,
        drain_seconds=serving.drain_seconds,
        max_requests=serving.api.max_requests,
        before=front_door.start,
        ready=ready,
        say=lambda text: typer.echo(text, err=True),
    )
    try:
        await server.serve(sockets=[listener])
    except OSError as error:
        raise listen_failure(error, serving.api.host, serving.port) from error
    finally:
        await front_door.close()


def _token(serving: FleetServing) -> str | None:
    """None where everybody who can reach the server may change the fleet: on the loopback, without keys."""
    return (serving.fleet_token or "") if serving.api.api_keys else serving.fleet_token


async def _app(serving: FleetServing, front_door: FrontDoor, data_dir: Path) -> "FastAPI":
    from ridgeline.api.app import create_app
    from ridgeline.store.database import prepare
    from ridgeline.store.store import Store
    from ridgeline.telemetry.metrics import Metrics
    from ridgeline.web.app import mount
    from ridgeline.web.fleet import fleet_router
    from ridgeline.web.settings import WebSettings

    database = serving.database or data_dir / DATABASE
    await prepare(database)
    metrics = Metrics()
    metrics.also(front_door.metrics.registry)
    app = create_app(front_door, serving.api, metrics)
    app.include_router(fleet_router(front_door, _token(serving)))
    mount(
        app,
        backend=front_door,
        store=Store(database),
        settings=WebSettings(),
        front_door=True,
        shared_database=serving.database is not None,
    )
    return app
