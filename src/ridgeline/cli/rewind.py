"""`ridgeline rewind`: play a front door's recorded decisions again."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.params import Json, option


def rewind(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As given to fleet serve --record.")],
    request: Annotated[
        str | None,
        option("--request", "Show what was decided for it, and why.", metavar="ID", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Play a front door's recorded events again: it must decide the same, bit for bit.

    \b
    Examples:
      ridgeline rewind door.ring
      ridgeline rewind door.ring --request chatcmpl-7f3a
    """
    from ridgeline.fleet.ring import RingError
    from ridgeline.fleet.ring import rewind as play

    events = decisions = different = 0
    shown: list[dict[str, Any]] = []
    first_difference = ""
    try:
        for played in play(file):
            events += 1
            decisions += len(played.then)
            if not played.same:
                different += 1
                first_difference = first_difference or (
                    f"event {events} ({played.name}): {played.then} then, {played.now} now"
                )
            shown += [_described(each) for each in played.then if each[1] == request]
    except RingError as error:
        raise CommandFailed(str(error)) from error
    if as_json:
        import orjson

        result = {"events": events, "decisions": decisions, "different": different, "request": shown}
        typer.echo(orjson.dumps(result).decode())
    else:
        for each in shown:
            typer.echo(each["says"])
        typer.echo(f"{events:,} events, {decisions:,} decisions, {different:,} of them different now.")
    if request is not None and not shown:
        raise CommandFailed(f"nothing was decided for a request {request} in {file}")
    if different:
        raise CommandFailed(f"the decisions are not the same: {first_difference[:2000]}")


def _described(decision: tuple[Any, ...]) -> dict[str, Any]:
    if decision[0] == "refuse":
        _, request, code, message, _ = decision
        return {"decision": "refuse", "request": request, "says": f"refused ({code}): {message}"}
    _, request, replica, model, attempt, chosen, others = decision
    beside = ", ".join(f"{each.replica} {each.cost_seconds:.3f} s" for each in others) or "none"
    says = (
        f"sent to {replica} ({model}, attempt {attempt}): {chosen.seconds:.3f} s expected, of which "
        f"{chosen.queue_seconds:.3f} in its queue, {chosen.prefill_seconds:.3f} of computing with "
        f"{chosen.cached_tokens} tokens cached, {chosen.round_trip_seconds:.3f} of way; "
        f"{chosen.crowding_seconds:.3f} counted for the crowd; next best: {beside}"
    )
    return {"decision": "send", "request": request, "replica": replica, "says": says}
