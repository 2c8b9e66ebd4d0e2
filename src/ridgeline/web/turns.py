"""How many costly things of one kind an owner may have under way."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ridgeline.protocol import Refusal


class Turns:
    """One at a time for each owner; some more may wait, and the rest is refused."""

    def __init__(self, what: str, *, limit: int, name: str | None = None) -> None:
        self._what = what
        self._limit = limit
        self._named = f" ({name})" if name else ""
        self._under_way: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def take(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a turn, and hold it.

        Raises:
            Refusal: `rate_limited`, where too many wait already.
        """
        if self._under_way[tenant] >= self._limit:
            raise Refusal(
                "rate_limited",
                f"{self._limit} of your {self._what} under way, the limit{self._named}: wait for one to end.",
            )
        self._under_way[tenant] += 1
        try:
            async with self._locks.setdefault(tenant, asyncio.Lock()):
                yield
        finally:
            self._under_way[tenant] -= 1
            if not self._under_way[tenant]:
                del self._under_way[tenant], self._locks[tenant]
