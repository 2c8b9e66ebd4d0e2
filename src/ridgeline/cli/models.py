"""`ridgeline models`: what can be served by a short name, and what of it is already here."""

import json

import typer

from ridgeline.cli.config import Config
from ridgeline.cli.params import Json


def models(config: Config = None, as_json: Json = False) -> None:
    """List the models of the catalogue.

    Beside these, `serve` takes a path (a folder of Hugging Face files or a GGUF file) and
    hf:org/name.

    \b
    Examples:
      ridgeline models
      ridgeline models --json
    """
    from ridgeline.models.catalogue import CatalogueState, list_models

    def row(state: CatalogueState) -> dict[str, object]:
        return {
            "name": state.entry.name,
            "title": state.entry.title,
            "licence": state.entry.licence,
            "bytes": state.entry.file_bytes,
            "downloaded": state.downloaded,
            "path": str(state.path) if state.downloaded else None,
        }

    rows = [row(state) for state in list_models()]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "model", "size", "licence", "here")
    for entry in rows:
        table.add_row(
            str(entry["name"]),
            str(entry["title"]),
            f"{int(str(entry['bytes'])) / 1e6:,.0f} MB",
            str(entry["licence"]),
            "yes" if entry["downloaded"] else "no: ridgeline pull",
        )
    Console().print(table)
