"""`ridgeline demo`: what makes serving a language model fast or slow, measured before your eyes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.config import Config
from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.params import Json, option
from ridgeline.cli.serve import check_device

if TYPE_CHECKING:
    from ridgeline.bench.kv_demo import KVDemonstration

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Show what makes serving fast or slow, measured here."
)

_POSITIONS = "100,250,500,1000"


@app.callback()
def _demo() -> None:
    """Show what makes serving fast or slow, measured on this machine.

    \b
    Examples:
      ridgeline demo kv
    """


@app.command("kv")
def kv(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name, path or hf:org/name.")
    ] = "smollm2-135m",
    positions: Annotated[
        str, option("--positions", "Which tokens' time is measured.", metavar="N,N,...")
    ] = _POSITIONS,
    conversation: Annotated[
        int,
        option("--conversation", "Tokens of the conversation that comes back.", metavar="TOKENS", min=64),
    ] = 1500,
    repetitions: Annotated[
        int, option("--repetitions", "Of each measurement.", metavar="N", min=1, max=100)
    ] = 3,
    device: Annotated[
        str, option("--device", "cpu or cuda.", metavar="DEVICE", callback=check_device)
    ] = "cpu",
    dtype: Annotated[str, option("--dtype", "As in ridgeline serve.", metavar="DTYPE")] = "auto",
    html: Annotated[
        Path | None, option("--html", "Also write a page with a plot.", metavar="FILE", show_default=False)
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Measure the n-th token with and without a KV cache, and a conversation that comes back.

    It comes back from the device's memory, from the host's, from disk, and after it was evicted.

    \b
    Examples:
      ridgeline demo kv
      ridgeline demo kv --positions 100,1000,4000 --conversation 4000 --html kv.html
    """
    asked = _parse_positions(positions)
    shown = _measure(model, asked, conversation, repetitions, device, dtype)
    if html is not None:
        from ridgeline.bench.kv_demo_page import page

        try:
            html.write_text(page(shown), encoding="utf-8")
        except OSError as error:
            raise CommandFailed(f"cannot write {html}: {error.strerror}") from error
    if as_json:
        import orjson

        typer.echo(orjson.dumps(shown).decode())
    else:
        _print(shown)


def _parse_positions(text: str) -> list[int]:
    try:
        positions = [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--positions: '{text}' is not numbers with commas between them") from None
    if min(positions) < 2:
        raise typer.BadParameter(f"--positions: the least is 2, not {min(positions)}")
    return sorted(set(positions))


def _measure(
    model: str, positions: list[int], conversation: int, repetitions: int, device: str, dtype: str
) -> "KVDemonstration":
    from rich.console import Console

    from ridgeline.bench.kv_demo import demonstrate
    from ridgeline.engine.options import EngineOptions
    from ridgeline.models.catalogue import list_models
    from ridgeline.models.errors import ModelError
    from ridgeline.protocol import Refusal

    if any(state.entry.name == model and not state.downloaded for state in list_models()):
        from ridgeline.cli.pull import pull_all

        pull_all([model])
    try:
        with Console(stderr=True).status("starting") as status:
            return demonstrate(
                model,
                EngineOptions(device=device, dtype=dtype),
                positions,
                conversation,
                repetitions,
                lambda what: status.update(f"Measuring: {what}"),
            )
    except ModelError as error:
        raise CommandFailed(str(error)) from error
    except Refusal as refusal:
        raise CommandFailed(refusal.message) from refusal


def _print(shown: "KVDemonstration") -> None:
    from rich.console import Console
    from rich.table import Table

    from ridgeline.bench.kv_demo_page import subtitle, tables
    from ridgeline.cli.figures import bar

    console = Console()
    console.print(f"[bold]What the KV cache is worth[/]: {subtitle(shown)}\n", highlight=False)
    longest = [
        max(each.seconds_without for each in shown.tokens),
        max(each.seconds for each in shown.returns),
    ]
    drawn = [[each.seconds_without for each in shown.tokens], [each.seconds for each in shown.returns]]
    for table, most, values in zip(tables(shown), longest, drawn, strict=True):
        printed = Table(title=table.title, title_style="bold", title_justify="left", box=None)
        for place, name in enumerate(table.columns):
            printed.add_column(name, justify="left" if place == 0 else "right")
        printed.add_column("")
        for row, value in zip(table.rows, values, strict=True):
            printed.add_row(*row, bar([(value / most, "█"), (1 - value / most, " ")], 14))
        console.print(table.text, highlight=False)
        console.print(printed)
        console.print()
