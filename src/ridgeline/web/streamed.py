"""Responses that are sent as they come into being."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ridgeline.api.streaming import Gone, while_connected


class StreamedResponse(Response):
    """Sends chunks until they end, the client is gone, or it reads nothing for too long.

    `first` is a chunk that was already taken, to see that there is anything to be sent.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        media_type: str,
        send_timeout_seconds: float,
        first: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", **(headers or {})}, media_type=media_type)
        del self.headers["content-length"]
        self._chunks = chunks
        self._first = first
        self._send_timeout_seconds = send_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all; what makes the chunks is closed in any case."""
        try:
            await while_connected(receive, self._send_all(send))
        except (Gone, TimeoutError):
            return
        finally:
            close = getattr(self._chunks, "aclose", None)
            if close is not None:
                await close()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if self._first:
            await self._send(send, self._first)
        async for chunk in self._chunks:
            await self._send(send, chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, chunk: bytes) -> None:
        async with asyncio.timeout(self._send_timeout_seconds):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
