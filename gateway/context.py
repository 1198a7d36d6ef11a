"""Everything the calls work with, opened and closed together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Protocol

from gateway import presets
from gateway.access import SIGN_INS, Gate
from gateway.alerts import Watch
from gateway.audit import Trail
from gateway.auth import Credentials
from gateway.bodies import Budget
from gateway.caches import Caches
from gateway.events import Hub
from gateway.mail import Post
from gateway.monitor import Monitor
from gateway.store import Store
from gateway.tally import Tally
from gateway.throttle import WINDOW_S, Throttle
from gateway.tickets import Tickets
from gateway.tokens import Signer
from shared import clock, config
from shared.artifacts import ArtifactStore
from shared.db import accounts, audit, connection, idempotency
from shared.specs import Lane
from shared.wire.client import Answer
from shared.wire.events import Resync
from shared.wire.messages import Event, Status, Submit

TRIES = 20_000
"""Sign-ins of the last minutes that are looked at when the gateway starts: some 50 ms."""

logger = logging.getLogger(__name__)


class Broker(Protocol):
    """What the gateway needs of `shared.wire.client.BrokerClient`."""

    @property
    def alive(self) -> bool:
        """Whether a broker answers."""
        ...

    def status(self) -> tuple[Status | None, float]:
        """Its last word and the age of it in seconds."""
        ...

    def entering(self, caller: str) -> contextlib.AbstractContextManager[None]:
        """Around reading a request that will be submitted."""
        ...

    async def submit(self, request: Submit, blobs: Sequence[bytes]) -> Answer:
        """One prediction."""
        ...

    def cancel(self, request_id: str) -> None:
        """Nobody waits for its answer any more."""
        ...

    def publish(self, topic: str, body: dict[str, Any]) -> None:
        """Announce an event."""
        ...

    def doorbell(self, lane: Lane) -> None:
        """Wake the idle workers of a lane."""
        ...


class Context:
    """The gateway's parts.

    Args:
        settings: In force.
        broker: An open client of the broker.
        feed: The broker's events.
    """

    def __init__(self, settings: config.Settings, broker: Broker, feed: AsyncIterator[Event | Resync]) -> None:
        self.settings, self.broker, self._feed = settings, broker, feed
        self.tally = Tally()
        self.store = Store(self.tally)
        self.monitor = Monitor(settings, self.store, self.tally)
        self.post = Post(settings.smtp_url, settings.alert_email, self.tally)
        self.watch = Watch(settings, self.store, self.monitor, broker, self.post)
        self.signer = Signer.at(settings.secrets)
        self.credentials = Credentials(self.store, self.signer)
        self.trail = Trail(self.store)
        self.throttle = Throttle()
        self.tickets = Tickets()
        self.gate = Gate(self.credentials, self.signer, self.tickets, settings.metrics_token)
        self.caches = Caches(self.store, self.credentials)
        self.hub = Hub()
        self.models = ArtifactStore(settings.models)
        self.datasets = ArtifactStore(settings.datasets)
        self.reports = ArtifactStore(settings.reports)
        self.budget = Budget(2 * settings.inference_queue_mb * 2**20)
        """Bytes of predictions: those that wait in the inference lane, and as many that arrive, are worked on, or wait
        for a client to read its answer."""
        self.draining = asyncio.Event()
        """Set when the process is about to stop: not ready any more, streams end."""
        self.broken = asyncio.Event()
        """Set when a background task died: the process must be restarted."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sweep what a predecessor left behind, fill the caches and keep them true. The database is open already."""
        try:
            await self.store.write(_tidy, (self.models, self.datasets))
            await self.store.write(presets.prepare, self.settings, self.models)
            await self.caches.refresh()
            since_ms = clock.now_ms() - int(WINDOW_S * 1000)
            tries = await self.store.read(audit.tries, SIGN_INS, since_ms, TRIES)
            self.throttle.remember(tries, clock.now_ms(), time.monotonic())
            if not (await self.store.read(accounts.users, limit=1, cursor=None)).rows:
                logger.warning("there is no user yet; `python -m gateway.admin ensure` creates one")
            events = self.monitor.overheard(self._feed)
            eyes = (self.monitor.keep(), self.watch.keep(), self.post.deliver())
            async with self._background(self.caches.keep(), self.hub.relay(events), self.trail.keep(), *eyes):
                yield
        finally:
            await self.trail.flush()
            self.store.close()

    def drain(self) -> None:
        """Say that we are about to stop."""
        self.draining.set()
        self.hub.close()

    @contextlib.asynccontextmanager
    async def _background(self, *work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        for task in tasks:
            task.add_done_callback(self._ended)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            logger.critical("a background task ended; the gateway must be restarted", exc_info=task.exception())
            self.broken.set()


def _tidy(stores: Sequence[ArtifactStore]) -> None:
    """Nothing is under way yet: half uploads and keys in work are a dead predecessor's."""
    leftovers = sum(store.clear_staging() for store in stores)
    with connection.write():
        released = idempotency.release_all()
    if leftovers or released:
        logger.info("tidied up", extra={"half_uploads": leftovers, "keys_in_work": released})
