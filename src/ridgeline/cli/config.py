"""The configuration file: one TOML table per command, one key per option.

A value is looked for on the command line, then in the environment, then in this file, then in the
option's own default. The file's values become the parser's defaults, so that all four are read and
checked by the same code.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ridgeline.cli.params import ENV_PREFIX


def key_of(parameter: Any) -> str:
    """The file's key of a parameter: `--max-batch` without its dashes, or an argument's name."""
    flags = [flag for flag in parameter.opts if flag.startswith("--")]
    return str(flags[0][2:] if flags else parameter.name)


def _unknown(kind: str, name: str, known: Iterable[str], path: Path) -> typer.BadParameter:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(known)}."
    return typer.BadParameter(f"{path}: unknown {kind} '{name}'; {hint}")


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(f"{path} is not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{path} is not valid TOML: it is not UTF-8 text") from error
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from error


def _value(parameter: Any, value: object) -> object:
    """A TOML value in the form the parser takes: text, or a list of it for repeatable options."""
    repeatable = parameter.nargs == -1 or getattr(parameter, "multiple", False)
    if repeatable:
        if isinstance(value, Mapping):
            return [f"{name}={item}" for name, item in value.items()]  # a table, for NAME=VALUE
        items = value if isinstance(value, list) else [value]
        return [str(item) for item in items]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, list | Mapping):
        raise typer.BadParameter("takes one value, not a list or table")
    return str(value)


def _defaults(ctx: Any, path: Path, table: Mapping[str, object]) -> dict[str, object]:
    parameters = {
        key_of(parameter): parameter
        for parameter in ctx.command.params
        if parameter.name not in ("help", "config")
    }
    defaults = {}
    for key, value in table.items():
        if key not in parameters:
            raise _unknown(f"key in [{ctx.command.name}]", key, parameters, path)
        parameter = parameters[key]
        try:
            converted = _value(parameter, value)
            parameter.process_value(ctx, converted)
        except typer.BadParameter as error:
            raise typer.BadParameter(f"{path}: '{key}' in [{ctx.command.name}]: {error.message}") from error
        defaults[parameter.name] = converted
    return defaults


def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Make the file's table of this command the parser's defaults.

    Raises `typer.BadParameter` naming the file and key at fault, and the nearest known key.
    """
    if path is None or ctx.resilient_parsing:
        return path
    tables = _load(path)
    commands = ctx.parent.command.commands if ctx.parent else {}  # type: ignore[attr-defined]
    for name, table in tables.items():
        if name not in commands:
            raise _unknown("table", f"[{name}]", [f"[{command}]" for command in commands], path)
        if not isinstance(table, dict):
            raise typer.BadParameter(f"{path}: '{name}' must be a table: write [{name}] on a line of its own")
    ctx.default_map = _defaults(ctx, path, tables.get(str(ctx.command.name), {}))
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar=f"{ENV_PREFIX}CONFIG",
        help="TOML file whose table for this command gives its defaults.",
        metavar="FILE",
        is_eager=True,
        callback=read_config,
    ),
]
