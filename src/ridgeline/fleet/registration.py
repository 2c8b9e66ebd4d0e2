"""A replica's side of its lease: register with front doors, renew in time, give it back at the end."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
AGAIN_SECONDS = 1.0
"""After a front door could not be reached, or was not there yet."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a replica answers, and what it belongs to."""

    url: str
    region: str
    cluster: str


class Registration:
    """Keeps leases with all front doors until it is closed. In one event loop.

    Args:
        front_doors: their addresses.
        place: of this replica.
        token: the fleet's; None for none.
    """

    def __init__(self, front_doors: Sequence[str], place: Place, token: str | None) -> None:
        self._urls = [f"{url.rstrip('/')}/fleet/lease" for url in front_doors]
        self._body = orjson.dumps({"url": place.url, "region": place.region, "cluster": place.cluster})
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to register."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS))
        self._tasks = [asyncio.create_task(self._keep(url)) for url in self._urls]

    async def close(self) -> None:
        """Give all leases back, so that nothing more is sent here."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            for url in self._urls:
                await self._ask("DELETE", url)
        await self._session.close()

    async def _keep(self, url: str) -> None:
        said = ""
        while True:
            try:
                status, answer = await self._ask("POST", url)
                lease = float(answer["lease_seconds"]) if status == 200 else 0.0
                trouble = "" if lease else str(answer.get("error", {}).get("message") or f"HTTP {status}")
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
                lease, trouble = 0.0, str(error) or "no answer in time"
            if trouble != said:
                if trouble:
                    logger.error(
                        "%s does not take this replica: %s", url.removesuffix("/fleet/lease"), trouble
                    )
                said = trouble
            await asyncio.sleep(lease / 3 if lease else AGAIN_SECONDS)

    async def _ask(self, method: str, url: str) -> tuple[int, dict[str, Any]]:
        async with self._session.request(method, url, data=self._body, headers=self._headers) as response:
            return response.status, orjson.loads(await response.read())
