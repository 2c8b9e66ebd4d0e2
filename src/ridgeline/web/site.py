"""What the routes share, and its beginning and end."""

import asyncio

from ridgeline.protocol import Backend
from ridgeline.store.errors import StoreError
from ridgeline.store.store import Store
from ridgeline.web.answers import Answers
from ridgeline.web.conversations import Conversations, now_ms
from ridgeline.web.settings import WebSettings
from ridgeline.web.temporary import TemporaryConversations
from ridgeline.web.titles import Titles
from ridgeline.web.turns import Turns


class Site:
    """The chat site behind its page."""

    def __init__(
        self, backend: Backend, store: Store, settings: WebSettings, *, is_shared: bool = False
    ) -> None:
        self.backend = backend
        self.settings = settings
        self.temporary = TemporaryConversations(settings)
        self.conversations = Conversations(store, self.temporary)
        self.titles = Titles(backend, self.conversations, settings)
        self.answers = Answers(backend, self.conversations, self.titles, settings)
        self.searches = Turns("searches", limit=settings.max_searches, name="--site max-searches")
        self.exports = Turns("exports", limit=1)
        self.imports = Turns("imports", limit=1)
        self._store, self._is_shared = store, is_shared
        self._purges: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open the database and put right what an earlier server left unfinished."""
        await self._store.open(or_memory=True)
        try:
            # What others on the same database are writing, or may bring back, is theirs.
            if not self._is_shared:
                await self._store.interrupt_streaming(now_ms())
            may_come_back_ms = int(1000 * self.settings.undo_seconds) if self._is_shared else 0
            await self._store.purge_deleted(now_ms() - may_come_back_ms)
        except StoreError as error:
            self._store.problem = str(error)

    async def close(self) -> None:
        """End all answers, keep their text, close the database."""
        await self.titles.close()
        await self.answers.close()
        self.temporary.clear()
        for purge in self._purges:
            purge.cancel()
        await asyncio.gather(*self._purges, return_exceptions=True)
        await self._store.close()

    def purge_later(self) -> None:
        """Erase what is deleted now, once it cannot be brought back any more."""
        task = asyncio.create_task(self._purge(now_ms()))
        self._purges.add(task)
        task.add_done_callback(self._purges.discard)

    async def _purge(self, until_ms: int) -> None:
        await asyncio.sleep(self.settings.undo_seconds)
        # Where this fails, the next start does it.
        try:
            await self._store.purge_deleted(until_ms)
        except StoreError as error:
            self._store.problem = str(error)
