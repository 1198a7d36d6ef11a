"""The audit trail: which exchanges are written down, gathered in memory and written a few times a second.

Written down are all calls that change something, sign-ins, reads of one particular thing (downloads too), and every
refusal for want of rights, on any call. Lists, probes and figures are not, and of predictions only the refusals: they
come by the hundred a second and change nothing; metrics count them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque

from gateway.access import TABLE
from gateway.store import Store
from shared import clock, errors
from shared.db import audit

WRITTEN_EVERY_S = 0.25
AT_ONCE = 500
"""Rows in one transaction."""

GATHERED = 5_000
"""Entries kept while the database cannot be written; beyond that the oldest go, counted in the log."""

STRANGERS_BURST = 200
STRANGERS_PER_S = 1 / 60
"""Entries without a user, an action: strangers must not fill the disk. The rest is counted in the log.

With all the actions there are, some 80,000 rows a day.
"""

DENIED = frozenset({401, 403})
PREDICTIONS = ("/api/v1/inference/predict", "/v2")
"""How the paths of predictions begin, and of what their clients ask before they send one."""

logger = logging.getLogger(__name__)


def worth_an_entry(method: str, route: str | None, status: int) -> bool:
    """Whether an exchange is written down; `route` is the template of its path, None for one nobody serves."""
    if route is None or (method, route) not in TABLE:
        return False
    if status in DENIED:
        return True
    if route.startswith(PREDICTIONS):
        return False
    return method != "GET" or "{" in route


class _Allowance:
    """What strangers may still write of one action."""

    __slots__ = ("at_s", "left")

    def __init__(self, now_s: float) -> None:
        self.left, self.at_s = float(STRANGERS_BURST), now_s

    def take(self, now_s: float) -> bool:
        self.left = min(float(STRANGERS_BURST), self.left + (now_s - self.at_s) * STRANGERS_PER_S)
        self.at_s = now_s
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Trail:
    """Entries on their way to the database. `note` is called on the event loop only and never waits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[audit.Entry] = deque()
        self._strangers: dict[str, _Allowance] = {}
        self._writing = asyncio.Lock()
        self.dropped = 0
        """Entries that were not written down, since the log last told."""

    def note(self, request_id: str, user_id: str | None, action: str, resource: str, status: int) -> None:
        """Write this down soon; `action` is method and route, so there is a bounded number of them."""
        now_s = time.monotonic()
        if user_id is None and not self._strangers.setdefault(action, _Allowance(now_s)).take(now_s):
            self.dropped += 1
            return
        if len(self._waiting) >= GATHERED:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(
            audit.Entry(
                at_ms=clock.now_ms(),
                request_id=request_id,
                user_id=user_id,
                action=action,
                resource=resource[:200],
                result=str(status),
            )
        )

    async def keep(self) -> None:
        """Write what was gathered, every `WRITTEN_EVERY_S`, until cancelled."""
        while True:
            await asyncio.sleep(WRITTEN_EVERY_S)
            await asyncio.shield(self.flush())  # cancelled in the middle of a write, its entries would be nowhere

    async def flush(self) -> None:
        """Write all of it now, after what is being written; what cannot be written waits for the next time."""
        async with self._writing:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
                try:
                    await self._store.write(audit.add, some)
                except errors.Unavailable as error:
                    self._waiting.extendleft(reversed(some))
                    logger.warning("the audit log cannot be written", extra={"error": error.message})
                    break
        if self.dropped:
            logger.warning("actions missing from the audit log", extra={"entries": self.dropped})
            self.dropped = 0
