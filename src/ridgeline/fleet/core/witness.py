"""Who sees all that a door is told and decides, so that it can be repeated."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from ridgeline.fleet.core.decisions import Decision


class Witness(Protocol):
    """Sees every event of a door, before and after."""

    def before(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """The door is about to be told."""
        ...

    def after(self, decisions: list[Decision] | None) -> None:
        """What it decided."""
        ...


class _Witnessed(Protocol):
    witness: Witness | None


P = ParamSpec("P")
R = TypeVar("R")


def event(method: Callable[P, R]) -> Callable[P, R]:
    """A method by which the world changes a door: nothing else does, so that a witness could repeat it."""

    @functools.wraps(method)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        witness = cast("_Witnessed", arguments[0]).witness
        if witness is None:
            return method(*arguments, **named)
        witness.before(method.__name__, arguments[1:], dict(named))
        decisions = method(*arguments, **named)
        witness.after(cast("list[Decision] | None", decisions))
        return decisions

    return call
