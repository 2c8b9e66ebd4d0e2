"""The chat in a terminal: reads lines, draws answers as Markdown while they come."""

import contextlib
from pathlib import Path

from rich.console import Console
from rich.constrain import Constrain
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.talk import Talk

HELP = """\
/help            this list
/clear           forget the conversation
/system [TEXT]   set the system prompt; without text, show it
/save FILE       write the conversation as a line of JSON
Ctrl-C           stop the answer, keep the chat
Ctrl-D           leave"""


class Terminal:
    """Runs one `Talk` until the user leaves."""

    def __init__(self, talk: Talk, console: Console | None = None) -> None:
        self._talk = talk
        self._console = console or Console()

    def run(self) -> None:
        """Ask and answer until Ctrl-D. Raises `CommandFailed` if no server is there at the start."""
        self._talk.connect()
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (editing and history in input())
        self._console.print(f"[bold]{self._talk.model}[/] at {self._talk.url}   [dim]/help, Ctrl-D leaves[/]")
        while True:
            try:
                line = self._console.input("[bold cyan]>[/] ").strip()
            except EOFError:
                self._console.print()
                return
            except KeyboardInterrupt:
                self._console.print("[dim]Ctrl-D leaves[/]")
                continue
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._answer(line)

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name == "/clear":
            self._talk.messages.clear()
            self._say("The conversation is forgotten.")
        elif name == "/system":
            self._talk.system = rest.strip() or self._talk.system
            self._say(f"System prompt: {self._talk.system or '(none)'}")
        elif name == "/save" and rest.strip():
            self._save(Path(rest.strip()).expanduser())
        else:
            self._say(HELP)

    def _save(self, path: Path) -> None:
        try:
            self._talk.save(path)
        except OSError as error:
            self._say(f"Cannot write {path}: {error.strerror}.")
        else:
            self._say(f"Written to {path}.")

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, highlight=False)

    def _answer(self, text: str) -> None:
        answer = _Growing(self._console)
        try:
            self._talk.ask(text, answer.add)
        except KeyboardInterrupt:
            answer.add("\n\n*(stopped)*")
        except CommandFailed as failure:
            answer.close()
            self._say(str(failure))
        answer.close()


def finished_length(text: str) -> int:
    """How many characters of a growing Markdown text are whole blocks that will not change.

    Blocks end at an empty line, but not inside a fence of code.
    """
    done = fences = position = 0
    for line in text.splitlines(keepends=True):
        position += len(line)
        if line.lstrip().startswith("```"):
            fences += 1
        elif not line.strip() and line.endswith("\n") and fences % 2 == 0:
            done = position
    return done


class _Growing:
    """Draws an answer as it grows: whole blocks once and for all, the last one again and again.

    Only the last block is redrawn, because a terminal cannot redraw what has left its screen.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._text = ""
        # At most 10 times a second, whatever the speed of the tokens.
        self._live = Live(console=console, refresh_per_second=10, vertical_overflow="crop")
        self._live.start()

    def add(self, piece: str) -> None:
        self._text += piece
        length = finished_length(self._text)
        if length:
            self._console.print(Markdown(self._text[:length]))
            self._console.print()
            self._text = self._text[length:]
        # Room for the ^C that the terminal writes behind it: a line that wraps is not redrawn.
        self._live.update(Constrain(Markdown(self._text), max(1, self._console.width - len("^C"))))

    def close(self) -> None:
        """Leave the last block on the screen, whole. May be called twice."""
        if self._live.is_started:
            self._live.update(Text(""))
            self._live.transient = True
            self._live.stop()
            self._console.print(Markdown(self._text))
