"""`ridgeline explain`: what became of a request, and why, as a story."""

import asyncio
import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ridgeline.cli.config import Config
from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.params import DEFAULT_URL, ApiKey, Json, Url, client_headers, no_server, server_url

BAR_COLUMNS = 30
MOST_COLUMNS = 100

PHASES = {
    "arrival": "arrival",
    "queue": "in the queue",
    "load": "loading",
    "prefill": "reading the prompt",
    "decode": "writing",
    "preempted": "put aside",
    "recompute": "reading again",
}


def explain(
    request_id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The answer's `x-request-id` header or its `id`.",
            show_default=False,
        ),
    ],
    url: Url = DEFAULT_URL,
    as_json: Json = False,
    api_key: ApiKey = None,
    config: Config = None,
) -> None:
    """Say what became of a request: what was cached, what it waited for, where its time went.

    Only requests made with the same key are shown. A server remembers its latest requests.

    \b
    Examples:
      ridgeline explain chatcmpl-7f3b0c1d
      ridgeline explain my-request-17 --url http://gpu-box:8000 --api-key "$KEY"
      ridgeline explain my-request-17 --json
    """
    url = server_url(url)
    found = _ask(url, request_id, client_headers(api_key))
    if as_json:
        typer.echo(json.dumps(found))
        return
    for number, request in enumerate(found["requests"]):
        typer.echo("\n".join([""] * bool(number) + list(_told(request))))


def _ask(url: str, request_id: str, headers: Mapping[str, str]) -> Any:
    from ridgeline.bench.client import ServerError, get_json, new_session

    async def ask() -> Any:
        async with new_session(10, headers) as session:
            return await get_json(session, f"{url}/v1/requests/{quote(request_id, safe='')}/timeline")

    try:
        return asyncio.run(ask())
    except ServerError as error:
        if error.status == 404:
            raise CommandFailed(error.message) from error
        raise no_server(url, error) from error


def _told(request: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a request's story."""
    yield f"{request['id']}  {request['model']}, received {request['received_at']}"
    for answer in request["answers"]:
        if len(request["answers"]) > 1:
            yield ""
            yield f"Answer {answer['index'] + 1}"
        yield from _answer_told(answer)


def _answer_told(answer: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    events = answer["events"]
    for place, event in enumerate(events):
        yield from _wrapped(_clock(event["at_seconds"]), event["says"])
        if answer["omitted_events"] and place == len(events) // 2:
            yield from _wrapped("...", f"{answer['omitted_events']:,} events were left out about here.")
    total = answer["total_seconds"]
    going = {"waiting": " so far; it waits", "running": " so far; it is being answered"}
    yield ""
    yield f"Where {_clock(total)} went{going.get(answer['state'], '')}:"
    for phase, name in PHASES.items():
        seconds = answer["spent_seconds"].get(phase, 0.0)
        if seconds:
            share = seconds / total if total else 0.0
            bar = "█" * max(1, round(share * BAR_COLUMNS))
            yield f"  {name:<19}{_clock(seconds):>10}  {share:>4.0%}  {bar}"
    if answer["advice"]:
        yield ""
        for advice in answer["advice"]:
            yield from textwrap.wrap(advice, _columns())


def _columns() -> int:
    return max(40, min(MOST_COLUMNS, shutil.get_terminal_size((MOST_COLUMNS, 24)).columns))


def _wrapped(at: str, says: str) -> list[str]:
    """A sentence in lines, with its time before the first."""
    return textwrap.wrap(
        says,
        _columns(),
        initial_indent=f"{at:>10}  ",
        subsequent_indent=" " * 12,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _clock(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds < 100 else f"{seconds:,.1f} s"
