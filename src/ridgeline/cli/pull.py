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
        list[str], typer.Argument(metavar="MODEL...", help="What to fetch; see ridgeline models.")
    ],
    config: Config = None,
) -> None:
    """Fetch models and check them, and print where they lie.

    \b
    Examples:
      ridgeline pull smollm2-135m
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
    paths = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name in models:
            task = progress.add_task(name, total=None)

            def show(done: int, total: int, task: "object" = task) -> None:
                progress.update(task, completed=done, total=total)  # type: ignore[arg-type]

            paths.append(fetch(name, show))
            progress.update(task, total=1, completed=1)
    return paths
