"""`--site NAME=VALUE`: what an operator sets about the chat site."""

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import typer

from ridgeline.web.settings import WebSettings

_OWN = frozenset(
    (
        "sampling",  # in its parts
        "max_import_bytes",  # the API's bound on bodies is lower
        "title_wait_seconds",
        "save_interval_seconds",
        "heartbeat_seconds",
        "linger_seconds",
    )
)
_SAMPLING = ("temperature", "top_p")


def site_names() -> dict[str, Any]:
    """Name and default of all that can be set, as it is written after `--site`."""
    default = WebSettings()
    names = {field.name: getattr(default, field.name) for field in fields(default) if field.name not in _OWN}
    names |= {name: getattr(default.sampling, name) for name in _SAMPLING}
    return {name.replace("_", "-"): value for name, value in names.items()}


def site_settings(given: Iterable[str]) -> WebSettings:
    """The settings that `NAME=VALUE` texts make of the defaults; the last of a name counts.

    Raises:
        typer.BadParameter: naming what is wrong, and the nearest name that there is.
    """
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise typer.BadParameter(f"'{text}' is not of the form NAME=VALUE")
        values[name.replace("-", "_")] = _read(name, value.strip())
    sampling = {name: values.pop(name) for name in _SAMPLING if name in values}
    default = WebSettings()
    return replace(default, **values, sampling=replace(default.sampling, **sampling))


def check_site(given: list[str] | None) -> list[str] | None:
    """The same texts, once they are known to be right."""
    site_settings(given or ())
    return given


def _read(name: str, text: str) -> Any:
    names = site_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(sorted(names))}."
        raise typer.BadParameter(f"the chat site has no setting '{name}'; {hint}")
    if isinstance(names[name], str):
        if not text:
            raise typer.BadParameter(f"'{name}' must not be empty")
        return text
    must_be, holds = _rule(name, names[name])
    try:
        value = int(text) if isinstance(names[name], int) else float(text)
    except ValueError:
        value = math.nan
    if not holds(value):
        raise typer.BadParameter(f"'{name}' must be {must_be}, but is '{text}'")
    return value


def _rule(name: str, default: object) -> tuple[str, Callable[[float], bool]]:
    if name == "temperature":
        return "a number from 0 to 2", lambda value: 0 <= value <= 2
    if name == "top-p":
        return "a number above 0 and up to 1", lambda value: 0 < value <= 1
    if isinstance(default, int):
        return "a whole number of 1 or more", lambda value: value >= 1
    return "a number above 0", lambda value: 0 < value < math.inf
