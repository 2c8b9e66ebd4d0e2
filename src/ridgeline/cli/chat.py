"""`ridgeline chat`: talk to a running server in the terminal."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.config import Config
from ridgeline.cli.params import DEFAULT_URL, ApiKey, Url, client_headers, option, server_url

if TYPE_CHECKING:
    from ridgeline.cli.talk import Talk


def chat(
    question: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUESTION", help="Ask this, print the answer, end.", show_default=False),
    ] = None,
    url: Url = DEFAULT_URL,
    model: Annotated[
        str | None, option("--model", "Model to talk to; else the server's first.", metavar="NAME")
    ] = None,
    system: Annotated[str | None, option("--system", "System prompt.", metavar="TEXT")] = None,
    temperature: Annotated[
        float,
        option(
            "--temperature", "0 is greedy; small models do better when it is low.", metavar="T", min=0, max=2
        ),
    ] = 0.3,
    max_tokens: Annotated[
        int | None, option("--max-tokens", "Limit of each answer.", metavar="N", min=1)
    ] = None,
    api_key: ApiKey = None,
    config: Config = None,
) -> None:
    """Talk to a running server.

    In a terminal a conversation goes on until Ctrl-D; Ctrl-C stops an answer. With a question, or
    where standard input is not a terminal, one answer is printed.

    \b
    Examples:
      ridgeline chat
      ridgeline chat "Name three rivers of Europe."
      git diff | ridgeline chat "Explain this change:"
      ridgeline chat --url http://gpu-box:8000 --api-key "$KEY" --system "Answer briefly."
    """
    from ridgeline.cli.talk import Talk

    talk = Talk(
        url=server_url(url),
        headers=client_headers(api_key),
        model=model,
        system=system,
        options={"temperature": temperature, "max_tokens": max_tokens},
    )
    text = " ".join(question or []).encode(errors="surrogateescape").decode(errors="replace")
    if not sys.stdin.isatty():
        piped = sys.stdin.buffer.read().decode(errors="replace").strip()
        text = "\n\n".join(part for part in (text, piped) if part)
        if not text:
            raise typer.BadParameter("nothing was asked: give a question, or text on standard input")
    if text:
        _once(talk, text)
    else:
        from ridgeline.cli.terminal import Terminal

        Terminal(talk).run()


def _once(talk: "Talk", text: str) -> None:
    """Print one answer as it comes, and end its line however it ends."""
    try:
        talk.connect()
        try:
            talk.ask(text, lambda piece: typer.echo(piece, nl=False))
        finally:
            typer.echo()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
