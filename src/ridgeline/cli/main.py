"""The `ridgeline` program: its commands, and what becomes of an error that none of them expected."""

import logging
import os
import sys
import traceback
from typing import Annotated

import typer

import ridgeline
from ridgeline.cli import bench, chat, cluster, demo, explain, fleet, models, pull, replay, rewind, serve, top
from ridgeline.cli.errors import CommandFailed

app = typer.Typer(
    name="ridgeline",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,  # plain help starts in a third of the time and can be searched
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command(name="serve", no_args_is_help=False)(serve.serve)
app.command(name="pull")(pull.pull)
app.command(name="models")(models.models)
app.command(name="chat")(chat.chat)
app.command(name="top")(top.top)
app.command(name="explain")(explain.explain)
app.command(name="bench")(bench.bench)
app.add_typer(demo.app, name="demo")
app.add_typer(fleet.app, name="fleet")
app.add_typer(cluster.app, name="cluster")
app.command(name="replay")(replay.replay)
app.command(name="rewind")(rewind.rewind)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ridgeline {ridgeline.__version__}")
        raise typer.Exit()


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Run a chat service and an OpenAI-compatible API on hardware of your own.

    \b
    Examples:
      ridgeline serve                     start with the default model
      ridgeline chat "What is a ridge?"   ask the running server
      ridgeline top                       see what binds it now
      ridgeline explain ID                see what became of a request, and why
      ridgeline bench --concurrency 8     measure it
      ridgeline demo kv                   see what the KV cache is worth
    """


def _debugging() -> bool:
    asked = os.environ.get("RIDGELINE_LOG_LEVEL", "").lower() == "debug"
    return asked or logging.getLogger("ridgeline").getEffectiveLevel() <= logging.DEBUG


def main() -> None:
    """Run the command named on the command line. Exit codes: 0 done, 1 failed, 2 wrong usage."""
    try:
        app()
    except Exception as error:
        if _debugging():
            traceback.print_exc()
        print(f"ridgeline: {_sentence(error)}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def _sentence(error: Exception) -> str:
    if isinstance(error, CommandFailed):
        return str(error)
    hint = "" if _debugging() else "\nPlease report it, with what RIDGELINE_LOG_LEVEL=debug shows."
    return f"unexpected {type(error).__name__}: {error}{hint}"


if __name__ == "__main__":
    main()
