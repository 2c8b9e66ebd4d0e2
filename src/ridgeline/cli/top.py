"""`ridgeline top`: the dashboard in a terminal."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ridgeline.cli.config import Config
from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.params import (
    DEFAULT_URL,
    ApiKey,
    Json,
    Url,
    client_headers,
    no_server,
    option,
    server_url,
)

Snapshot = Mapping[str, Mapping[str, Any]]


def top(
    url: Url = DEFAULT_URL,
    model: Annotated[
        str | None, option("--model", "Show this model alone; else all.", metavar="NAME")
    ] = None,
    interval: Annotated[
        float, option("--interval", "Seconds between two looks.", metavar="SECONDS", min=0.1)
    ] = 1.0,
    once: Annotated[bool, option("--once", "Look once, print it, end.")] = False,
    as_json: Json = False,
    api_key: ApiKey = None,
    config: Config = None,
) -> None:
    """See what a running server is doing, and what binds it.

    Ctrl-C ends it. Where standard output is not a terminal it looks once.

    \b
    Examples:
      ridgeline top
      ridgeline top --url http://gpu-box:8000 --api-key "$KEY" --interval 5
      ridgeline top --once
      ridgeline top --json
    """
    from rich.console import Console

    url = server_url(url)
    headers = client_headers(api_key)
    try:
        found = _chosen(_look(url, headers), model, url)
        if as_json:
            typer.echo(json.dumps({"models": found}))
            return
        console = Console(highlight=False)
        if once or not console.is_terminal:
            from ridgeline.cli.top_screen import frame

            console.print(frame(url, found))
        else:
            _watch(console, url, headers, model, interval, found)
    except KeyboardInterrupt:
        return


def _watch(
    console: Any, url: str, headers: Mapping[str, str], model: str | None, interval: float, found: Snapshot
) -> None:
    """Look again and again; a server that does not answer is waited for."""
    from rich.live import Live

    from ridgeline.cli.top_screen import frame

    with Live(frame(url, found), console=console, screen=True, auto_refresh=False) as screen:
        problem = None
        while True:
            screen.update(frame(url, found, problem), refresh=True)
            time.sleep(interval)
            try:
                found, problem = _chosen(_look(url, headers), model, url), None
            except _Unanswered as error:
                problem = str(error)


class _Unanswered(CommandFailed):
    """Nobody answered, which may pass."""


def _look(url: str, headers: Mapping[str, str]) -> Snapshot:
    """The snapshot of every model. Raises `CommandFailed`."""
    from ridgeline.bench.client import ServerError, get_json, new_session

    async def ask() -> Any:
        async with new_session(10, headers) as session:
            return await get_json(session, f"{url}/dashboard/live")

    try:
        models: Snapshot = asyncio.run(ask())["models"]
    except ServerError as error:
        if error.status == 404:
            raise CommandFailed(
                f"{url} tells no figures: it is no Ridgeline server, or an older one."
            ) from error
        kind = _Unanswered if error.status == 0 or error.status >= 500 else CommandFailed
        raise kind(str(no_server(url, error))) from error
    except (KeyError, TypeError) as error:
        raise CommandFailed(f"{url} tells no figures: it is no Ridgeline server.") from error
    return models


def _chosen(found: Snapshot, model: str | None, url: str) -> Snapshot:
    if model is None:
        return found
    if model not in found:
        raise CommandFailed(f"{url} does not serve '{model}'; it serves {', '.join(found) or 'no model'}")
    return {model: found[model]}
