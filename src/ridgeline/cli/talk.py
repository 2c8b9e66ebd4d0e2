"""A conversation with a server, without any drawing."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ridgeline.bench.client import ServerError, new_session, served_models, stream_chat
from ridgeline.cli.errors import CommandFailed
from ridgeline.cli.params import no_server


@dataclass
class Talk:
    """Messages said so far, and how to say the next one.

    Attributes:
        url: the server's address, without `/v1`.
        headers: of every request.
        model: None until `connect` has asked the server for its first.
        system: system prompt, or None.
        options: further fields of each request; None values are left out.
        messages: turns so far, as (role, content), without the system prompt.
    """

    url: str
    headers: Mapping[str, str]
    model: str | None = None
    system: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    messages: list[tuple[str, str]] = field(default_factory=list)

    def connect(self) -> None:
        """Find the server and its model. Raises `CommandFailed` if there is none."""

        async def models() -> list[str]:
            async with new_session(30, self.headers) as session:
                return await served_models(session, self.url)

        try:
            served = asyncio.run(models())
        except ServerError as error:
            raise no_server(self.url, error) from error
        if self.model is not None and self.model not in served:
            raise CommandFailed(f"{self.url} does not serve '{self.model}'; it serves {', '.join(served)}")
        if not served:
            raise CommandFailed(f"{self.url} serves no model")
        self.model = self.model or served[0]

    def ask(self, text: str, on_piece: Callable[[str], None]) -> str:
        """Send the next turn and return the answer, handing over its pieces as they come.

        A KeyboardInterrupt stops the answer: what had come is kept as the turn's answer and the
        interrupt is raised on. On `CommandFailed` the turn is taken back.
        """
        parts: list[str] = []

        def piece(text: str) -> None:
            parts.append(text)
            on_piece(text)

        self.messages.append(("user", text))
        try:
            asyncio.run(self._stream(piece))
        except ServerError as error:
            self.messages.pop()
            wait = f" Try again in {error.retry_after_seconds:.0f} s." if error.retry_after_seconds else ""
            failed = no_server(self.url, error)
            raise CommandFailed(f"{failed}{wait}") from error
        except KeyboardInterrupt:
            self._keep(parts)
            raise
        self._keep(parts)
        return "".join(parts)

    def _keep(self, parts: list[str]) -> None:
        if parts:
            self.messages.append(("assistant", "".join(parts)))
        else:
            self.messages.pop()

    async def _stream(self, on_piece: Callable[[str], None]) -> None:
        messages = [("system", self.system)] if self.system else []
        body: dict[str, object] = {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in [*messages, *self.messages]],
            **{name: value for name, value in self.options.items() if value is not None},
        }
        async with new_session(None, self.headers) as session:
            async for chunk in stream_chat(session, self.url, body):
                if chunk.text:
                    on_piece(chunk.text)

    def save(self, path: Path) -> None:
        """Write the conversation as one JSON line that `ridgeline bench --prompts` can read."""
        messages = [("system", self.system)] if self.system else []
        row = {"messages": [{"role": role, "content": text} for role, text in [*messages, *self.messages]]}
        path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
