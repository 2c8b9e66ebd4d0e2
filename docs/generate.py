"""Writes the generated parts of the documentation: `make docs`, or `python docs/generate.py`.

The map of rooms comes from the files' own docstrings, the reference of options from the commands.
A test fails where a generated part is not current.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "src" / "ridgeline"

# What a reader needs to know of a room beyond its own docstring. Highest first.
ROOMS = {
    "cli": "Knows every room and is known by none. Heavy libraries are imported only when a command runs.",
    "web": "An answer in the chat page is a job of the server: it goes on when the page is closed.",
    "api": "Every documented parameter works or is refused by name.",
    "simulate": "Reads traces by `bench`, decides by `kvcache`, counts seconds by `roofline`.",
    "bench": "Needs no other part of Ridgeline but this room, and no server of ours.",
    "engine": "The only room that has threads and a process of its own.",
    "fleet/core": "Pure: a test plays a day of traffic on many replicas in seconds.",
    "fleet": "Is a `Backend`, as a single replica is one.",
    "engine/core": "Pure: tested without threads, time or weights.",
    "engine/executors": "They keep one state per slot and carry out plans; KV layout is their own business.",
    "engine/tiers": "What is copied is decided in `kvcache/tiers.py`; what fails here costs a recompute.",
    "engine/executors/cuda": "Tested without a GPU, on a device that does all as late as it may.",
    "store": "One row per message.",
    "store/migrations": "Alembic's scripts that bring an older database up to date.",
    "store/migrations/versions": "One file per change of the schema, in order.",
    "admission": "Pure; used by the engine's scheduler.",
    "kvcache": "Pure: it knows ids and bytes, executors hold the memory.",
    "models": "From files of any supported kind to tensors under one set of names, and the forward pass.",
    "kernels": "The forward pass is written in these operations and no others.",
    "kernels/cuda": "Tested in Triton's interpreter, and compiled ahead for sm_80 and sm_90.",
    "kernels/jit": "A whole step in int8 is one function, which all threads of a team run.",
    "text": "Runs without torch.",
    "telemetry": "Definitions are in one table, from which `docs/metrics.md` is generated.",
    "roofline": "Nobody else computes a FLOP.",
    "protocol": "Everything above may import it; it imports nothing.",
}


def _first_sentence(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def rooms() -> str:
    """Every package with a sentence, and every file in it with the one it opens with."""
    lines = [f"`src/ridgeline/` is the package; {len(_top_rooms())} rooms, highest first.", ""]
    for room, more in ROOMS.items():
        folder = PACKAGE / room
        files = [file for file in sorted(folder.glob("*.py")) if file.name != "__init__.py"]
        init = folder / "__init__.py"
        about = " ".join(part for part in (_first_sentence(init) if init.exists() else "", more) if part)
        lines += [f"### `{room}/`", "", f"`{room}/`: {about}", ""]
        if files:
            lines += ["| file | what is in it |", "| --- | --- |"]
            lines += [f"| `{file.name}` | {_first_sentence(file)} |".replace(" | |", " |") for file in files]
            lines.append("")
    return "\n".join(lines)


def _top_rooms() -> list[str]:
    return [room for room in ROOMS if "/" not in room]


def _default(parameter: Any) -> str:
    if parameter.default is None or parameter.default in ((), []):
        shown = getattr(parameter, "show_default", None)
        return str(shown) if isinstance(shown, str) else "-"
    if isinstance(parameter.default, bool):
        return "yes" if parameter.default else "no"
    return f"`{parameter.default}`"


def _row(parameter: Any) -> str:
    from ridgeline.cli.config import key_of

    key = key_of(parameter)
    argument = parameter.param_type_name == "argument"
    flag = f"{parameter.metavar or key}" if argument else f"--{key}"
    values = "" if argument or not parameter.metavar else f" {parameter.metavar}"
    variable = f"`{parameter.envvar}`" if parameter.envvar else "-"
    return f"| `{flag}{values}` | `{key}` | {variable} | {_default(parameter)} | {parameter.help or ''} |"


def options() -> str:
    """Every command's options with their keys, variables, defaults and help."""
    import typer

    from ridgeline.cli.main import app

    lines = []
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        parameters = [p for p in command.params if p.name not in ("help", "config")]
        lines += [f"### `ridgeline {name}`, table `[{name}]`", ""]
        if not parameters:
            continue
        lines += ["| flag | key | variable | default | |", "| --- | --- | --- | --- | --- |"]
        lines += [_row(parameter) for parameter in parameters]
        lines.append("")
    return "\n".join(lines)


def site() -> str:
    """The settings of `--site` with their defaults and what `WebSettings` says of them."""
    from ridgeline.cli.site import site_names
    from ridgeline.web.settings import WebSettings

    said: dict[str, str] = {}
    for line in (inspect.getdoc(WebSettings) or "").partition("Attributes:")[2].splitlines():
        found = re.match(r"    (\w+): (.*)", line)
        if found:
            name, said[found[1]] = found[1], found[2]
        elif line.strip():
            said[name] += f" {line.strip()}"
    rows = []
    for key, default in site_names().items():
        about = said.get(key.replace("-", "_"), said["sampling"])
        rows.append(f"| `{key}` | `{default}` | {about} |")
    return "\n".join(["| name | default | |", "| --- | --- | --- |", *rows])


PARTS: dict[str, tuple[Path, Callable[[], str]]] = {
    "rooms": (DOCS / "architecture.md", rooms),
    "options": (DOCS / "guides" / "configuration.md", options),
    "site": (DOCS / "guides" / "configuration.md", site),
}


def current(part: str) -> tuple[Path, str]:
    """The file of a part and the text it should have."""
    path, make = PARTS[part]
    begin, end = f"<!-- begin generated: {part} -->", f"<!-- end generated: {part} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    return path, f"{before}{begin}\n{make().rstrip()}\n{end}{after}"


def main() -> None:
    """Write every part."""
    for part in PARTS:
        path, text = current(part)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
