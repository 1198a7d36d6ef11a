"""Looks at everything every few seconds and remembers the last minute: what the metrics and the alerts are made of."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator

import msgspec

from gateway.host import Host, HostFigures
from gateway.store import Store
from gateway.tally import NOTHING, STAGES, Mark, ModelMark, Stage, StageCounts, Tally, quantile
from shared import config, errors, gpu
from shared.db import deployments, jobs
from shared.wire.events import Resync
from shared.wire.messages import WORKERS, Event

LOOK_S = 5.0
WINDOW_S = 60.0
FLAPPING_S = 300.0
OURS = frozenset(code for code, kind in errors.BY_CODE.items() if kind.status >= 500)
"""Error codes that are the platform's failure, not the request's."""

logger = logging.getLogger(__name__)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One look around."""

    host: HostFigures
    gpus: list[gpu.Gpu] | None
    jobs: list[jobs.Count] | None
    """None: the database did not answer."""
    stale: list[tuple[str, str]] = []
    """Deployments of another machine or file, as `(name of the model, why)`."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Durations of a stage over the last minute, estimated from buckets; None without a prediction."""

    p50_ms: float | None
    p95_ms: float | None


class ModelMinute(msgspec.Struct, frozen=True, kw_only=True):
    """The same of one model."""

    per_s: float
    latency: dict[Stage, Latency]


class Minute(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in the last minute, or since the start where that is more recent."""

    http_per_s: float
    http_failed: int
    """Answered 5xx."""
    http_error_rate: float
    """Share answered 5xx, 0 to 1."""
    predictions: int
    predictions_per_s: float
    prediction_error_rate: float
    """Share that failed through our fault, 0 to 1."""
    refused_full: int
    """Predictions refused because the queue was full."""
    database_errors: int
    email_failure: str | None
    """Why the last e-mail was given up, if it was."""
    latency: dict[Stage, Latency]
    models: dict[str, ModelMinute]
    workers_lost: int
    """Inference processes that died, over `FLAPPING_S` instead of a minute."""


class Monitor:
    """The gateway's eyes.

    Args:
        settings: In force; its folders are the disks that matter.
        store: Reads the database and runs what blocks.
        tally: What the gateway counts.
    """

    def __init__(self, settings: config.Settings, store: Store, tally: Tally) -> None:
        stores = {"models": settings.models, "datasets": settings.datasets, "reports": settings.reports}
        folders = {"database": settings.db_file.parent} | stores
        self._store, self._tally, self._host = store, tally, Host(folders)
        self._marks: deque[Mark] = deque([tally.mark(time.monotonic(), OURS)], maxlen=int(WINDOW_S / LOOK_S) + 1)
        self._lost: deque[int] = deque([0], maxlen=int(FLAPPING_S / LOOK_S) + 1)
        self._looking = asyncio.Lock()
        self._view: View | None = None

    async def keep(self) -> None:
        """Look every `LOOK_S` until cancelled."""
        while True:
            try:
                await self.look()
            except (OSError, errors.Unavailable) as error:
                logger.warning("the machine cannot be looked at", extra={"error": str(error)})
            await asyncio.sleep(LOOK_S)

    async def look(self) -> View:
        """Look now."""
        async with self._looking:
            host, gpus = await self._store.file(self._machine)
            open_jobs, stale = await self._database()
            self._view = View(host=host, gpus=gpus, jobs=open_jobs, stale=stale)
            self._marks.append(self._tally.mark(time.monotonic(), OURS))
            self._lost.append(self._tally.worker_events["lost"])
            return self._view

    async def view(self) -> View:
        """The last look; the first one, right after the start, is taken now."""
        return self._view or await self.look()

    def away(self) -> list[str]:
        """The services for jobs of which the last look found no process."""
        return self._view.host.away() if self._view else []

    def minute(self) -> Minute:
        """The last minute up to this moment."""
        lost = self._tally.worker_events["lost"] - self._lost[0]
        return minute(self._marks[0], self._tally.mark(time.monotonic(), OURS), lost)

    async def overheard(self, feed: AsyncIterator[Event | Resync]) -> AsyncIterator[Event | Resync]:
        """The broker's events, passed on; the coming and going of inference processes is counted."""
        async for item in feed:
            if isinstance(item, Event) and item.topic == WORKERS:
                self._tally.worker_events[str(item.body.get("state"))] += 1
            yield item

    def _machine(self) -> tuple[HostFigures, list[gpu.Gpu] | None]:
        return self._host.look(), gpu.figures()

    async def _database(self) -> tuple[list[jobs.Count] | None, list[tuple[str, str]]]:
        try:
            return await self._store.read(jobs.open_counts), await self._store.read(deployments.in_trouble)
        except errors.Unavailable:
            return None, []


def minute(before: Mark, now: Mark, workers_lost: int = 0) -> Minute:
    """What happened between two marks. Pure."""
    elapsed_s = max(1e-3, now.at_s - before.at_s)
    http, predictions = now.http - before.http, now.predictions - before.predictions
    failed = now.http_failed - before.http_failed
    return Minute(
        http_per_s=round(http / elapsed_s, 3),
        http_failed=failed,
        http_error_rate=_share(failed, http),
        predictions=predictions,
        predictions_per_s=round(predictions / elapsed_s, 3),
        prediction_error_rate=_share(now.predictions_failed - before.predictions_failed, predictions),
        refused_full=now.refused_full - before.refused_full,
        database_errors=now.database_errors - before.database_errors,
        email_failure=now.email_failure,
        latency=_latencies(before.stages, now.stages),
        models={
            model_id: _model(before.models.get(model_id, NOTHING), model, elapsed_s)
            for model_id, model in now.models.items()
        },
        workers_lost=workers_lost,
    )


def _model(before: ModelMark, now: ModelMark, elapsed_s: float) -> ModelMinute:
    if before.requests > now.requests:
        before = NOTHING  # it lost its figures meanwhile, and has new ones
    per_s = round((now.requests - before.requests) / elapsed_s, 3)
    return ModelMinute(per_s=per_s, latency=_latencies(before.stages, now.stages))


def _latencies(before: StageCounts, now: StageCounts) -> dict[Stage, Latency]:
    return {stage: _latency(before[stage], now[stage]) for stage in STAGES}


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _latency(before: tuple[int, ...], now: tuple[int, ...]) -> Latency:
    counts = [late - early for early, late in zip(before, now, strict=True)]
    return Latency(p50_ms=_ms(quantile(counts, 0.5)), p95_ms=_ms(quantile(counts, 0.95)))


def _ms(duration_s: float | None) -> float | None:
    return None if duration_s is None else round(duration_s * 1000, 3)
