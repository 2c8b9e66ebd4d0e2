"""Put a replica, the API and the chat page together in one process, and run it."""

import importlib
import logging
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from ridgeline.cli.startup import Startup
from ridgeline.engine.options import EngineOptions
from ridgeline.models.errors import ModelError
from ridgeline.protocol import Request, Sampling, Stopping
from ridgeline.store.errors import StoreError

if TYPE_CHECKING:
    from ridgeline.engine.build import ModelSpec
    from ridgeline.engine.replica import Replica

logger = logging.getLogger(__name__)

DATABASE = "conversations.db"


@dataclass(frozen=True, slots=True)
class Serving:
    """All that `serve` was asked for."""

    models: tuple[str, ...]
    random_weights: tuple[Path, ...]
    port: int
    engine: EngineOptions
    api: ApiSettings
    data_dir: Path | None
    drain_seconds: float
    log_level: str


def run(serving: Serving) -> None:
    """Serve until a signal ends it. Raises `CommandFailed`."""
    set_up_logging(serving.log_level)
    startup = Startup()
    listener = bind(serving.api.host, serving.port)
    startup.lap("program")
    with _told_plainly():
        data_dir = claim(serving.data_dir)
        _fetch_missing(serving.models)
        startup.lap("fetch")
        _serve(serving, listener, data_dir, startup)


@contextmanager
def _told_plainly() -> Iterator[None]:
    """What can go wrong with models, memory and disks, as one sentence."""
    try:
        yield
    except (ModelError, StoreError) as error:
        raise CommandFailed(str(error)) from error
    except MemoryError as error:
        raise CommandFailed(
            "there is too little memory: give less to --kv-memory, lower --max-context,"
            " or serve a smaller model"
        ) from error
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        raise typer.Exit(130) from None


def _specs(serving: Serving) -> "list[ModelSpec]":
    from ridgeline.engine.build import ModelSpec

    specs = []
    for text in serving.models:
        name, equals, source = text.partition("=")
        specs.append(ModelSpec(source, name) if equals and name and "/" not in name else ModelSpec(text))
    specs += [ModelSpec(str(path), random_weights=True) for path in serving.random_weights]
    return specs


def _fetch_missing(models: tuple[str, ...]) -> None:
    from ridgeline.models.catalogue import list_models

    absent = {state.entry.name for state in list_models() if not state.downloaded}
    missing = [source for source in (text.rpartition("=")[2] for text in models) if source in absent]
    if missing:
        from ridgeline.cli.pull import pull_all

        pull_all(missing)


def _serve(serving: Serving, listener: socket.socket, data_dir: Path, startup: Startup) -> None:
    import asyncio

    import uvloop

    from ridgeline.engine.build import build_replica
    from ridgeline.telemetry.metrics import Metrics

    startup.lap("imports")
    metrics = Metrics()
    # While the engines' process unpacks weights there is time to import the whole server.
    with ThreadPoolExecutor(1, "imports") as background:
        server_imports = background.submit(_import_server)
        replica = build_replica(_specs(serving), serving.engine, metrics, startup.add)
        server_imports.result()
    startup.lap("rest of imports")

    from ridgeline.api.app import create_app
    from ridgeline.cli.http_server import DrainingServer
    from ridgeline.store.database import prepare
    from ridgeline.store.store import Store
    from ridgeline.web.app import mount

    app = create_app(replica, serving.api, metrics)
    database = data_dir / DATABASE
    mount(app, backend=replica, store=Store(database))
    startup.lap("app")

    async def before() -> None:
        await prepare(database)
        startup.lap("database")
        await replica.start()
        await _first_tokens(replica)
        startup.lap("first token")

    def ready() -> None:
        startup.lap("listening")
        logger.debug("start: %s", startup.breakdown())
        _announce(
            serving, [model.name for model in replica.models()], address_of(listener), startup.seconds()
        )

    server = DrainingServer(
        app,
        replica,
        drain_seconds=serving.drain_seconds,
        max_requests=serving.api.max_requests,
        before=before,
        ready=ready,
        say=lambda text: typer.echo(text, err=True),
    )

    async def main() -> None:
        try:
            await server.serve(sockets=[listener])
        except OSError as error:
            raise listen_failure(error, serving.api.host, serving.port) from error
        finally:
            await replica.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    typer.echo("Ended.", err=True)


def _import_server() -> None:
    for name in ("api.app", "cli.http_server", "store.store", "web.app"):
        importlib.import_module(f"ridgeline.{name}")


async def _first_tokens(replica: "Replica") -> None:
    """One token of each model, so that the first user does not wait for what is done only once."""
    for model in replica.models():
        request = Request(
            id=f"warm-up-{model.name}",
            model=model.name,
            # One token: it fits into the smallest context that can be asked for.
            prompt=tuple(await replica.tokenize(model.name, "Hello"))[:1],
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=1),
            received_seconds=time.monotonic(),
        )
        async for _ in replica.generate(request):
            pass


def _program() -> str:
    """What to type for `ridgeline` where this was started; it is not on the path of everybody."""
    called = Path(sys.argv[0])
    return "ridgeline" if called.name != "ridgeline" or shutil.which("ridgeline") else str(called)


def _announce(serving: Serving, models: list[str], address: str, seconds: float) -> None:
    key = next(iter(serving.api.api_keys), None)
    # Not $RIDGELINE_API_KEY: what it holds for the server may be several keys, with names.
    header = ' \\\n    -H "Authorization: Bearer KEY"' if key else ""
    option, secret = (" --api-key KEY", "KEY") if key else ("", "none")
    what = f"{', '.join(models)} on {serving.engine.device}"
    typer.echo(
        f"""\
Ridgeline {ridgeline.__version__} serves {what}, ready after {seconds:.1f} s.

  Chat in the browser   {address}/
  Chat in a terminal    {_program()} chat --url {address}{option}
  OpenAI-compatible     {address}/v1

  curl {address}/v1/chat/completions{header} \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

  OpenAI(base_url="{address}/v1", api_key="{secret}")

Ctrl-C ends it."""
    )
    sys.stdout.flush()
