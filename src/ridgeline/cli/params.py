"""Options that several commands share, and how their text is read."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgeline.cli.errors import CommandFailed

if TYPE_CHECKING:
    from ridgeline.bench.client import ServerError

ENV_PREFIX = "RIDGELINE_"
DEFAULT_URL = "http://127.0.0.1:8000"

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(text: str | int) -> int:
    """Bytes of `2GiB`, `512MB`, `1.5g` (binary) or a plain number."""
    found = _SIZE.fullmatch(str(text))
    if not found or found[2].lower() not in _UNITS:
        raise typer.BadParameter(f"'{text}' is not an amount of memory: write it like 2GiB or 512MB")
    amount = int(float(found[1]) * _UNITS[found[2].lower()])
    if amount <= 0:
        raise typer.BadParameter(f"'{text}' must be more than nothing")
    return amount


def parse_api_key(text: str) -> tuple[str, str]:
    """Name and secret of `name=secret`; a bare secret has the name `default`.

    The `=` signs that pad base64 do not make a name.
    """
    name, equals, secret = text.partition("=")
    if equals and name and secret.strip("="):
        return name, secret
    return "default", text


def option(name: str, help: str, **more: Any) -> Any:
    """An option that is also the environment variable RIDGELINE_<NAME>."""
    variable = ENV_PREFIX + name.lstrip("-").split("/")[0].replace("-", "_").upper()
    return typer.Option(name, help=help, envvar=variable, **more)


Url = Annotated[str, option("--url", "Address of the server.", metavar="URL")]
ApiKey = Annotated[
    str | None,
    option("--api-key", "Key to show to a server that asks for one.", metavar="KEY", show_default=False),
]
Json = Annotated[bool, option("--json", "Print JSON for machines instead of text for people.")]


def client_headers(api_key: str | None) -> dict[str, str]:
    """The header that carries the key; of `name=secret`, as servers are given it, the secret."""
    if not api_key:
        return {}
    return {"Authorization": f"Bearer {parse_api_key(api_key.split()[0])[1]}"}


def server_url(url: str) -> str:
    """The address without a slash or `/v1` at its end, and with `http://` before it."""
    if "://" not in url:
        url = f"http://{url}"
    return url.rstrip("/").removesuffix("/v1")


def no_server(url: str, error: "ServerError") -> CommandFailed:
    """What to say when the server cannot be reached, or says no."""
    if error.code == "no_connection":
        return CommandFailed(
            f"no server answers at {url} ({error.message}). Start one with `ridgeline serve`,"
            " or name another with --url."
        )
    if error.status == 401:
        return CommandFailed(f"{url} asks for a key: {error.message} Give it with --api-key.")
    if error.status == 0:
        return CommandFailed(f"{url} gave no whole answer: {error.message.rstrip('.')}.")
    return CommandFailed(f"{url} answered {error.status} {error.code}: {error.message}")
