"""What the gateway knows by heart, kept true by the counters in the database: credentials and the served models."""

from __future__ import annotations

import asyncio
import logging
import time

from gateway.auth import Credentials
from gateway.store import Store
from shared import clock, errors
from shared.db import jobs, registry

LOOK_S = 0.25
STALE_S = 2.0
"""Without a look for this long, the database counts as gone."""

WAITS_S = 1.0
"""Age of the hints what queued jobs wait for: with a full queue each costs some milliseconds to find."""

logger = logging.getLogger(__name__)


class Caches:
    """Re-reads the counters all the time and drops what they say has changed."""

    def __init__(self, store: Store, credentials: Credentials) -> None:
        self._store, self._credentials = store, credentials
        self._revisions: dict[str, int] = {}
        self._seen_s = float("-inf")
        self._waits: dict[str, str] = {}
        self._waits_s = float("-inf")
        self._finding_waits = asyncio.Lock()
        self.models: dict[str, registry.CatalogEntry] = {}
        """Ready models by id."""
        self.named: dict[str, list[registry.CatalogEntry]] = {}
        """The same by name, which need not be unique."""

    @property
    def current(self) -> bool:
        """Whether the database answered lately."""
        return time.monotonic() - self._seen_s < STALE_S

    async def refresh(self) -> None:
        """Look now; also called right after our own changes, so that whoever made one sees it.

        Raises:
            errors.Unavailable: The database cannot be read.
        """
        revisions = await self._store.read(registry.revisions)
        if revisions.get("access") != self._revisions.get("access"):
            self._credentials.forget()
        if revisions.get("models") != self._revisions.get("models"):
            self.models = {entry.model_id: entry for entry in await self._store.read(registry.catalog)}
            self.named = {}
            for entry in self.models.values():
                self.named.setdefault(entry.name, []).append(entry)
        self._revisions = revisions
        self._seen_s = time.monotonic()

    async def waits(self) -> dict[str, str]:
        """Which job each queued one waits for, as `shared.db.jobs.waiting_for`; a hint, up to `WAITS_S` old.

        Raises:
            errors.Unavailable: The database cannot be read.
        """
        async with self._finding_waits:
            if time.monotonic() - self._waits_s >= WAITS_S:
                self._waits = await self._store.read(jobs.open_waits, clock.now_ms())
                self._waits_s = time.monotonic()
            return self._waits

    async def keep(self) -> None:
        """Look every `LOOK_S` until cancelled."""
        while True:
            try:
                await self.refresh()
            except errors.Unavailable as error:
                logger.warning("the database cannot be read", extra={"error": error.message})
            await asyncio.sleep(LOOK_S)
