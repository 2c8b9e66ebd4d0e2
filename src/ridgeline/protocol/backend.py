"""The one seam: a replica is a `Backend`, and so is a front door over a thousand of them."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

from ridgeline.protocol.cached import CacheReport
from ridgeline.protocol.request import Message, Request
from ridgeline.protocol.status import ModelInfo, Status
from ridgeline.protocol.stream import Delta
from ridgeline.protocol.timeline import Timeline


class Backend(Protocol):
    """What the HTTP surface and the chat site talk to; neither knows what is behind it."""

    def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Stream an answer.

        Refusals (`Refusal`) are raised before the first delta. Closing the iterator (or a
        cancelled task) cancels the request within one step and frees its blocks.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """End a request now; its stream ends with finish `cancelled`. Unknown ids are ignored."""
        ...

    def models(self) -> Sequence[ModelInfo]:
        """Models served now."""
        ...

    def status(self) -> Status:
        """Load and readiness, without waiting for anything."""
        ...

    async def tokenize(
        self, model: str, text: str | None = None, messages: Sequence[Message] | None = None
    ) -> list[int]:
        """Token ids of plain text, or of a conversation rendered with the chat template.

        Special tokens typed in `text` or in a message's content stay ordinary text.
        """
        ...

    async def detokenize(
        self, model: str, token_ids: Sequence[int], *, skip_special_tokens: bool = False
    ) -> str:
        """Text of token ids, of special tokens too where they are not left out; raises `Refusal` for ids out
        of range."""
        ...

    async def drain(self, timeout_seconds: float) -> None:
        """Refuse new requests, wait for those in flight, then cancel what is left."""
        ...


@runtime_checkable
class Explaining(Protocol):
    """What a backend may also be able to do: say what became of a request, and why."""

    async def timeline(self, name: str, tenant: str) -> Sequence[Timeline]:
        """Requests of this tenant that go by this name or id, oldest first; the latest of them."""
        ...


@runtime_checkable
class Caching(Protocol):
    """What a replica may also be able to do: tell front doors what it has cached, in their keys."""

    def cache_report(self, model: str, tenant: str, epoch: str, number: int) -> CacheReport:
        """What has changed since a number of an epoch, of keys that came with this tenant's requests."""
        ...
