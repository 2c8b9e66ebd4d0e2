"""Put a replica, the API and the chat page together in one process, and run it."""

import gc
import logging
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

import ridgeline
from ridgeline.api.settings import ApiSettings
from ridgeline.cli.data_dir import claim
from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.joining import Joining
from ridgeline.cli.listen import address_of, bind, listen_failure
from ridgeline.cli.logs import set_up_logging
from ridgeline.cli.startup import Startup
from ridgeline.engine.options import SIMULATED, EngineOptions, ModelSpec
from ridgeline.engine.process import EngineProcess
from ridgeline.models.errors import ModelError
from ridgeline.protocol import Request, Sampling, Stopping
from ridgeline.store.errors import StoreError
from ridgeline.web.settings import WebSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

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
    site: WebSettings
    data_dir: Path | None
    joining: Joining | None
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


def _specs(serving: Serving) -> list[ModelSpec]:
    specs = []
    for text in serving.models:
        name, equals, source = text.partition("=")
        specs.append(ModelSpec(source, name) if equals and name and "/" not in name else ModelSpec(text))
    specs += [ModelSpec(str(path), random_weights=True) for path in serving.random_weights]
    return specs


def _fetch_missing(models: tuple[str, ...]) -> None:
    from ridgeline.models.catalogue import list_models
    from ridgeline.models.hub import PREFIX

    absent = {state.entry.name for state in list_models() if not state.downloaded}
    sources = [text.rpartition("=")[2] for text in models]
    # Those of the hub also when they are here, for there may be newer ones: the two processes that
    # open them would otherwise fetch them both.
    missing = [source for source in sources if source in absent or source.startswith(PREFIX)]
    if missing:
        from ridgeline.cli.pull import pull_all

        pull_all(missing)


def _serve(serving: Serving, listener: socket.socket, data_dir: Path, startup: Startup) -> None:
    gc.disable()  # what is imported and built now stays: looking through it for garbage is in vain
    specs = _specs(serving)
    engine = serving.engine
    if engine.kv_disk_folder is None:
        engine = replace(engine, kv_disk_folder=str(data_dir / "kv"))
    with ExitStack() as stack:
        process = None
        if not engine.device.startswith(SIMULATED):
            # It imports and loads while this process does the same for itself.
            process = stack.enter_context(EngineProcess(specs, engine))
        import asyncio

        import uvloop

        from ridgeline.api.app import create_app
        from ridgeline.engine.start import build_replica
        from ridgeline.store.database import prepare
        from ridgeline.store.store import Store
        from ridgeline.telemetry.metrics import Metrics
        from ridgeline.web.app import mount

        startup.lap("imports")
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        database = data_dir / DATABASE
        runner.run(prepare(database))
        startup.lap("database")
        metrics = Metrics()
        replica = build_replica(specs, engine, metrics, process, startup.add)
        app = create_app(replica, serving.api, metrics)
        mount(app, backend=replica, store=Store(database), settings=serving.site)
        startup.lap("app")
        startup.beside("engines' process", process.phases if process else ())
        runner.run(_answer(serving, listener, replica, app, startup))
    typer.echo("Ended.", err=True)


async def _answer(
    serving: Serving, listener: socket.socket, replica: "Replica", app: "FastAPI", startup: Startup
) -> None:
    """Answer until the server is told to end."""
    from ridgeline.cli.http_server import DrainingServer

    registration = None if serving.joining is None else serving.joining.registration(listener)

    async def before() -> None:
        await replica.start()
        await _first_tokens(replica)
        startup.lap("first token")

    def ready() -> None:
        startup.lap("listening")
        logger.debug("start: %s", startup.breakdown())
        _announce(
            serving, [model.name for model in replica.models()], address_of(listener), startup.seconds()
        )
        if registration is not None:
            registration.start()

    server = DrainingServer(
        app,
        replica,
        drain_seconds=serving.drain_seconds,
        max_requests=serving.api.max_requests,
        before=before,
        ready=ready,
        say=lambda text: typer.echo(text, err=True),
        leave=None if registration is None else registration.close,
    )
    try:
        await server.serve(sockets=[listener])
    except OSError as error:
        raise listen_failure(error, serving.api.host, serving.port) from error
    finally:
        await replica.close()


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
