"""`ridgeline pull`: fetch models before they are needed."""

from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.config import Config
from ridgeline.cli.errors import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def pull(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="What to fetch; see ridgeline models.")
    ],
    config: Config = None,
) -> None:
    """Fetch models and check them, and print where they lie.

    \b
    Examples:
      ridgeline pull smollm2-135m
      ridgeline pull hf:HuggingFaceTB/SmolLM2-360M-Instruct
    """
    from ridgeline.models.errors import ModelError

    try:
        paths = pull_all(models)
    except ModelError as error:
        raise CommandFailed(str(error)) from error
    for path in paths:
        typer.echo(path)


def pull_all(models: "Sequence[str]") -> "list[Path]":
    """Fetch models with a progress bar on standard error. Raises `ModelError`."""
    from ridgeline.models import hub
    from ridgeline.models.catalogue import CATALOGUE
    from ridgeline.models.errors import ModelError

    unknown = [name for name in models if name not in CATALOGUE and not name.startswith(hub.PREFIX)]
    if unknown:
        raise ModelError(
            f"there is no model '{unknown[0]}' to fetch; the catalogue has {', '.join(CATALOGUE)},"
            " and hf:org/name is fetched from the Hugging Face hub."
        )
    return [
        hub.fetch(hub.parse_spec(name)) if name.startswith(hub.PREFIX) else _fetch(name) for name in models
    ]


def _fetch(name: str) -> "Path":
    """Fetch a model of the catalogue."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from ridgeline.models.catalogue import pull as fetch

    columns = (
        TextColumn("Fetching {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None)
        return fetch(name, lambda done, total: progress.update(task, completed=done, total=total))
