"""Logs go to standard error, one line each; results alone go to standard output."""

import logging
from typing import Annotated

import typer

from ridgeline.cli.params import option

LEVELS = ("debug", "info", "warning", "error")


def check_level(level: str) -> str:
    """One of `LEVELS`, in any case of letters."""
    if level.lower() not in LEVELS:
        raise typer.BadParameter(f"'{level}' is none of {', '.join(LEVELS)}")
    return level.lower()


Level = Annotated[
    str, option("--log-level", "debug, info, warning or error.", metavar="LEVEL", callback=check_level)
]


def set_up_logging(level: str) -> None:
    """Log Ridgeline at `level`, and libraries from warning on (most of them from info at debug level)."""
    logging.basicConfig(
        level=logging.INFO if level == "debug" else logging.WARNING,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.getLogger("ridgeline").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
